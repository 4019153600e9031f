#include "server/rpc/generate_request.h"

#include <cmath>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/core/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/text.h"

namespace lorad::server {
namespace {

constexpr int kMaxStops = 16;
constexpr size_t kMaxStopBytes = 256;
constexpr int kMaxStopIds = 64;
constexpr int32_t kMaxLogprobs = 20;
constexpr int kMaxSamples = 16;

absl::Status OutOfRange(absl::string_view field, double value, absl::string_view bound) {
  return FieldError(field, absl::StrCat(value, " is not ", bound));
}

uint64_t RandomSeed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

absl::StatusOr<SamplingParams> ReadSampling(const v1::GenerateRequest& request) {
  SamplingParams sampling;
  if (request.has_temperature()) sampling.temperature = request.temperature();
  if (!std::isfinite(sampling.temperature) || sampling.temperature < 0) {
    return OutOfRange("temperature", sampling.temperature, ">= 0");
  }
  sampling.top_k = request.top_k();
  if (sampling.top_k < 0) return OutOfRange("top_k", sampling.top_k, ">= 0");
  if (request.has_top_p()) sampling.top_p = request.top_p();
  if (!(sampling.top_p > 0 && sampling.top_p <= 1)) {
    return OutOfRange("top_p", sampling.top_p, "in (0, 1]");
  }
  sampling.min_p = request.min_p();
  if (!(sampling.min_p >= 0 && sampling.min_p <= 1)) {
    return OutOfRange("min_p", sampling.min_p, "in [0, 1]");
  }
  if (request.has_repetition_penalty()) sampling.repetition_penalty = request.repetition_penalty();
  if (!std::isfinite(sampling.repetition_penalty) || sampling.repetition_penalty <= 0) {
    return OutOfRange("repetition_penalty", sampling.repetition_penalty, "> 0");
  }
  sampling.presence_penalty = request.presence_penalty();
  if (!(std::abs(sampling.presence_penalty) <= 2)) {
    return OutOfRange("presence_penalty", sampling.presence_penalty, "in [-2, 2]");
  }
  sampling.frequency_penalty = request.frequency_penalty();
  if (!(std::abs(sampling.frequency_penalty) <= 2)) {
    return OutOfRange("frequency_penalty", sampling.frequency_penalty, "in [-2, 2]");
  }
  sampling.seed = request.has_seed() ? request.seed() : RandomSeed();
  return sampling;
}

absl::Status ReadStops(const v1::GenerateRequest& request, const Engine& engine,
                       GenerateRequest& out) {
  if (request.stop_size() > kMaxStops) {
    return FieldError("stop", absl::StrCat(request.stop_size(), " strings, at most ", kMaxStops));
  }
  for (const std::string& stop : request.stop()) {
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      return FieldError("stop", absl::StrCat("a string of ", stop.size(), " bytes, 1 to ",
                                             kMaxStopBytes, " are allowed"));
    }
  }
  if (request.stop_size() > 0) RETURN_IF_ERROR(RequireTokenizer(engine, "stop").status());
  if (request.stop_ids_size() > kMaxStopIds) {
    return FieldError("stop_ids",
                      absl::StrCat(request.stop_ids_size(), " ids, at most ", kMaxStopIds));
  }
  RETURN_IF_ERROR(CheckIds(engine, "stop_ids", request.stop_ids()));
  out.stop_strings.assign(request.stop().begin(), request.stop().end());
  out.stop_ids.assign(request.stop_ids().begin(), request.stop_ids().end());
  return absl::OkStatus();
}

absl::Status ReadConstraint(const v1::GenerateRequest& request, const Engine& engine,
                            GenerateRequest& out) {
  absl::string_view field;
  switch (request.constraint_case()) {
    case v1::GenerateRequest::kRegex:
      field = "regex";
      out.constraint = {ConstraintSpec::Kind::kRegex, request.regex()};
      break;
    case v1::GenerateRequest::kJsonSchema:
      field = "json_schema";
      out.constraint = {ConstraintSpec::Kind::kJsonSchema, request.json_schema()};
      break;
    case v1::GenerateRequest::kJsonObject:
      if (!request.json_object()) return absl::OkStatus();
      field = "json_object";
      out.constraint = {ConstraintSpec::Kind::kJsonObject, ""};
      break;
    case v1::GenerateRequest::CONSTRAINT_NOT_SET:
      return absl::OkStatus();
  }
  RETURN_IF_ERROR(RequireTokenizer(engine, field).status());
  const absl::Status status = engine.CheckConstraint(out.constraint);
  if (!absl::IsInvalidArgument(status)) return status;
  // The engine names the field, too.
  absl::string_view what = status.message();
  absl::ConsumePrefix(&what, absl::StrCat(field, ": "));
  return FieldError(field, what);
}

absl::Status ReadPrompt(const v1::GenerateRequest& request, const Engine& engine,
                        GenerateRequest& out) {
  absl::string_view field = "prompt_ids";
  switch (request.input_case()) {
    case v1::GenerateRequest::kPrompt: {
      field = "prompt";
      const bool special = !request.has_add_special_tokens() || request.add_special_tokens();
      ASSIGN_OR_RETURN(out.prompt, TextToIds(engine, field, request.prompt(), special));
      break;
    }
    case v1::GenerateRequest::kPromptIds:
      out.prompt.assign(request.prompt_ids().ids().begin(), request.prompt_ids().ids().end());
      RETURN_IF_ERROR(CheckIds(engine, field, out.prompt));
      break;
    case v1::GenerateRequest::INPUT_NOT_SET:
      return FieldError("prompt", "or prompt_ids is required");
  }
  if (out.prompt.empty()) return FieldError(field, "has no token; at least one is needed");
  const int32_t context = engine.model().context_tokens;
  if (static_cast<int64_t>(out.prompt.size()) >= context) {
    return FieldError(field, absl::StrCat("has ", out.prompt.size(),
                                          " tokens, which leaves no room "
                                          "in the context of ",
                                          context, " tokens; shorten it to at most ", context - 1));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GenerateRequest> ToEngine(const v1::GenerateRequest& request, const Engine& engine) {
  GenerateRequest out;
  if (request.max_tokens() < 0) return OutOfRange("max_tokens", request.max_tokens(), ">= 0");
  out.max_tokens = request.max_tokens();
  if (request.has_logprobs()) out.logprobs = request.logprobs();
  if (out.logprobs < -1 || out.logprobs > kMaxLogprobs ||
      (request.has_logprobs() && out.logprobs < 0)) {
    return OutOfRange("logprobs", out.logprobs, absl::StrCat("in 0..", kMaxLogprobs));
  }
  out.ignore_eos = request.ignore_eos();
  out.priority = request.priority();
  if (out.priority < -kMaxPriority || out.priority > kMaxPriority) {
    return OutOfRange("priority", out.priority,
                      absl::StrCat("in ", -kMaxPriority, "..", kMaxPriority));
  }
  ASSIGN_OR_RETURN(out.sampling, ReadSampling(request));
  RETURN_IF_ERROR(ReadStops(request, engine, out));
  RETURN_IF_ERROR(ReadConstraint(request, engine, out));
  RETURN_IF_ERROR(ReadPrompt(request, engine, out));
  return out;
}

absl::StatusOr<int> SampleCount(const v1::GenerateRequest& request, int32_t max_queued_requests) {
  if (request.n() < 0 || request.n() > kMaxSamples) {
    return OutOfRange("n", request.n(), absl::StrCat("in 1..", kMaxSamples));
  }
  if (request.n() > max_queued_requests) {
    return FieldError(
        "n", absl::StrCat(request.n(), " answers never fit the queue of ", max_queued_requests,
                          " (--max_queued_requests) together; ask for fewer"));
  }
  return request.n() == 0 ? 1 : request.n();
}

uint64_t SampleSeed(uint64_t seed, int index) {
  if (index == 0) return seed;
  uint64_t z = seed + static_cast<uint64_t>(index) * 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

}  // namespace lorad::server
