// Datasets for people.
#ifndef LORAD_CLIENT_CLI_DATASET_TEXT_H_
#define LORAD_CLIENT_CLI_DATASET_TEXT_H_

#include <string>

#include "lorad/v1/dataset_service.pb.h"

namespace lorad::client::cli {

// Key-value lines.
std::string DatasetText(const v1::Dataset& dataset);
std::string DatasetReportText(const v1::DatasetReport& report);

// "prompt_completion", "text" or "tokens".
std::string DatasetKindName(v1::DatasetKind kind);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_DATASET_TEXT_H_
