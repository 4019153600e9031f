// Adapters for people.
#ifndef LORAD_CLIENT_CLI_ADAPTER_TEXT_H_
#define LORAD_CLIENT_CLI_ADAPTER_TEXT_H_

#include <string>

#include "lorad/v1/adapter_service.pb.h"

namespace lorad::client::cli {

// Key-value lines.
std::string AdapterText(const v1::Adapter& adapter);

// "disk", "host" or "device".
std::string TierName(v1::AdapterTier tier);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_ADAPTER_TEXT_H_
