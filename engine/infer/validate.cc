// Checks of requests; everything that could be wrong is found before a request is queued.
#include <cmath>
#include <string>

#include "absl/strings/str_format.h"
#include "engine/core/status_macros.h"
#include "engine/infer/generation.h"
#include "engine/io/utf8.h"

namespace lorad {
namespace {

constexpr int32_t kMaxLogprobs = kMaxTopLogprobs;
constexpr size_t kMaxStopStrings = 16;
constexpr size_t kMaxStopStringBytes = 256;
constexpr size_t kMaxStopIds = 64;

absl::Status ValidateIds(const char* name, const std::vector<int32_t>& ids, int64_t vocab) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("%s[%d] is %d; ids of this model are in [0, %d)", name, i, ids[i], vocab));
  }
  return absl::OkStatus();
}

absl::Status ValidateStopStrings(const GenerateRequest& request, const GenerationLimits& limits) {
  const auto& strings = request.stop_strings;
  if (strings.empty()) return absl::OkStatus();
  if (limits.tokenizer == nullptr) {
    return absl::FailedPreconditionError(
        "stop_strings need a tokenizer and the model directory has no tokenizer.json; use "
        "stop_ids");
  }
  if (strings.size() > kMaxStopStrings) {
    return absl::InvalidArgumentError(absl::StrFormat("stop_strings has %d entries; at most %d",
                                                      strings.size(), kMaxStopStrings));
  }
  for (size_t i = 0; i < strings.size(); ++i) {
    if (strings[i].empty() || strings[i].size() > kMaxStopStringBytes) {
      return absl::InvalidArgumentError(
          absl::StrFormat("stop_strings[%d] has %d bytes; each must have 1 to %d", i,
                          strings[i].size(), kMaxStopStringBytes));
    }
    if (FirstInvalidUtf8(strings[i]) != strings[i].size()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("stop_strings[%d] is not valid UTF-8; no answer can contain it", i));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateLength(const GenerateRequest& request, const GenerationLimits& limits) {
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt == 0) {
    return absl::InvalidArgumentError(
        "the prompt has no tokens; give at least one (a beginning-of-text id will do)");
  }
  if (prompt >= limits.context_tokens) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the prompt has %d tokens and leaves no room for an answer in the context "
                        "of %d; shorten it "
                        "to at most %d tokens",
                        prompt, limits.context_tokens, limits.context_tokens - 1));
  }
  if (request.max_tokens < 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("max_tokens is %d; it must be >= 1, or 0 for what the context has left",
                        request.max_tokens));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Validate(const GenerateRequest& request, const GenerationLimits& limits) {
  RETURN_IF_ERROR(ValidateLength(request, limits));
  RETURN_IF_ERROR(ValidateIds("prompt", request.prompt, limits.vocab));
  RETURN_IF_ERROR(ValidateIds("stop_ids", request.stop_ids, limits.vocab));
  if (request.stop_ids.size() > kMaxStopIds) {
    return absl::InvalidArgumentError(absl::StrFormat("stop_ids has %d entries; at most %d",
                                                      request.stop_ids.size(), kMaxStopIds));
  }
  if (request.logprobs < -1 || request.logprobs > kMaxLogprobs) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "logprobs is %d; it must be in [0, %d], or -1 for none", request.logprobs, kMaxLogprobs));
  }
  if (request.priority < -kMaxPriority || request.priority > kMaxPriority) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "priority is %d; it must be in [%d, %d]", request.priority, -kMaxPriority, kMaxPriority));
  }
  RETURN_IF_ERROR(ValidateStopStrings(request, limits));
  return Validate(request.sampling);
}

absl::Status Validate(const ScoreRequest& request, const GenerationLimits& limits) {
  const int64_t count = static_cast<int64_t>(request.ids.size());
  if (count == 0) return absl::InvalidArgumentError("there are no ids to score; give at least one");
  if (count > limits.context_tokens) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "there are %d ids to score and the context has %d tokens; score it in parts", count,
        limits.context_tokens));
  }
  return ValidateIds("ids", request.ids, limits.vocab);
}

}  // namespace lorad
