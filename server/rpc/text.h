// Text and ids of requests.
#ifndef LORAD_SERVER_RPC_TEXT_H_
#define LORAD_SERVER_RPC_TEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/engine.h"
#include "engine/io/tokenizer.h"

namespace lorad::server {

// kFailedPrecondition when the model has no tokenizer. `need`: what it is needed for.
absl::StatusOr<const Tokenizer*> RequireTokenizer(const Engine& engine, absl::string_view need);

// The ids of `text`; errors name `field`.
absl::StatusOr<std::vector<int32_t>> TextToIds(const Engine& engine, absl::string_view field,
                                               const std::string& text, bool add_special_tokens);

// Each id in [0, vocab_size).
absl::Status CheckIds(const Engine& engine, absl::string_view field, absl::Span<const int32_t> ids);

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_TEXT_H_
