#include "tests/bench/bench_serve_options.h"

#include <algorithm>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "engine/core/status_macros.h"
#include "tests/bench/case_flags.h"

namespace lorad::bench {
namespace {

FlagSet<ServeOptions> OptionFlags() {
  FlagSet<ServeOptions> flags;
  flags.Add("device", &ServeOptions::device)
      .Add("num_threads", &ServeOptions::num_threads)
      .Add("bandwidth_gbps", &ServeOptions::bandwidth_gbps)
      .Add("output", &ServeOptions::output);
  return flags;
}

FlagSet<ServeCase> CaseFlags() {
  FlagSet<ServeCase> flags;
  flags.Add("mode", &ServeCase::mode)
      .Add("shape", &ServeCase::shape)
      .Add("quant", &ServeCase::quant)
      .Add("quant_head", &ServeCase::quant_head)
      .Add("seed", &ServeCase::seed)
      .Add("adapters", &ServeCase::adapters)
      .Add("idle_adapters", &ServeCase::idle_adapters)
      .Add("rank", &ServeCase::rank)
      .Add("adapter_memory", &ServeCase::adapter_memory)
      .Add("adapter_host_memory", &ServeCase::adapter_host_memory)
      .Add("memory_limit", &ServeCase::memory_limit)
      .Add("kv_cache_tokens", &ServeCase::kv_cache_tokens)
      .Add("max_batch_tokens", &ServeCase::max_batch_tokens)
      .Add("max_running", &ServeCase::max_running)
      .Add("batch", &ServeCase::batch)
      .Add("context", &ServeCase::context)
      .Add("steps", &ServeCase::steps)
      .Add("warmup_steps", &ServeCase::warmup_steps)
      .Add("through", &ServeCase::through)
      .Add("preload", &ServeCase::preload)
      .Add("churn", &ServeCase::churn)
      .Add("churn_rate", &ServeCase::churn_rate)
      .Add("rounds", &ServeCase::rounds)
      .Add("train", &ServeCase::train)
      .Add("train_rank", &ServeCase::train_rank)
      .Add("train_policy", &ServeCase::train_policy)
      .Add("train_optim", &ServeCase::train_optim)
      .Add("train_solo_seconds", &ServeCase::train_solo_seconds);
  AddLoadFlags(flags);
  return flags;
}

absl::Status Refused(const char* name, const std::string& value, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("--", name, "=", value, ": it must be ", what));
}

absl::Status CheckRange(const char* name, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return Refused(name, absl::StrCat(value), absl::StrCat("in [", min, ", ", max, "]"));
}

absl::Status CheckOneOf(const char* name, const std::string& value,
                        const std::vector<std::string>& known) {
  if (std::find(known.begin(), known.end(), value) != known.end()) return absl::OkStatus();
  return Refused(name, value, absl::StrJoin(known, " or "));
}

absl::Status Check(const ServeCase& of) {
  constexpr int64_t kMany = 1'000'000, kMax = std::numeric_limits<int64_t>::max();
  RETURN_IF_ERROR(CheckOneOf("mode", of.mode, {"decode", "load", "publish"}));
  RETURN_IF_ERROR(CheckOneOf("through", of.through, {"runner", "scheduler"}));
  for (const int64_t batch : of.batch) RETURN_IF_ERROR(CheckRange("batch", batch, 1, 4096));
  RETURN_IF_ERROR(CheckRange("context", of.context, 1, kMany));
  RETURN_IF_ERROR(CheckRange("steps", of.steps, 1, kMany));
  RETURN_IF_ERROR(CheckRange("warmup_steps", of.warmup_steps, 0, kMany));
  RETURN_IF_ERROR(CheckRange("adapters", of.adapters, 0, kMany));
  RETURN_IF_ERROR(CheckRange("idle_adapters", of.idle_adapters, 0, kMany));
  if (of.idle_adapters > 0 && (of.mode != "decode" || of.through != "runner"))
    return Refused("idle_adapters", absl::StrCat(of.idle_adapters),
                   "0, but with --mode=decode --through=runner");
  RETURN_IF_ERROR(CheckRange("preload", of.preload, 0, of.adapters));
  RETURN_IF_ERROR(CheckRange("churn", of.churn, 0, kMany));
  RETURN_IF_ERROR(CheckRange("rounds", of.rounds, 1, kMany));
  if (!(of.churn_rate >= 0))
    return Refused("churn_rate", absl::StrCat(of.churn_rate), ">= 0 (0: without a pause)");
  if (of.mode == "publish" && of.train.empty())
    return Refused("train", of.train, "MICRO_BATCHxSEQ of the jobs, with --mode=publish");
  RETURN_IF_ERROR(CheckRange("rank", of.rank, 1, 4096));
  RETURN_IF_ERROR(CheckRange("train_rank", of.train_rank, 1, 4096));
  RETURN_IF_ERROR(CheckRange("adapter_memory", of.adapter_memory, 0, kMax));
  RETURN_IF_ERROR(CheckRange("adapter_host_memory", of.adapter_host_memory, 0, kMax));
  if (!(of.train_solo_seconds > 0))
    return Refused("train_solo_seconds", absl::StrCat(of.train_solo_seconds), "> 0");
  if (!of.train.empty()) RETURN_IF_ERROR(ParseMicroBatch(of.train).status());
  return MakeLoadPlan(of, of.adapters, of.seed).status();
}

}  // namespace

absl::StatusOr<MicroBatch> ParseMicroBatch(const std::string& text) {
  const std::vector<std::string> sizes = absl::StrSplit(text, 'x');
  MicroBatch batch;
  if (sizes.size() == 2 && absl::SimpleAtoi(sizes[0], &batch.rows) &&
      absl::SimpleAtoi(sizes[1], &batch.tokens) && batch.rows >= 1 && batch.tokens >= 2)
    return batch;
  return Refused("train", text, "MICRO_BATCHxSEQ such as 4x2048, from 1x2");
}

absl::StatusOr<ServeOptions> ParseServeOptions(const std::vector<std::string>& arguments) {
  ServeOptions options;
  RETURN_IF_ERROR(ParseArguments(arguments, OptionFlags(), CaseFlags(), options, options.cases));
  if (!(options.bandwidth_gbps >= 0))
    return Refused("bandwidth_gbps", absl::StrCat(options.bandwidth_gbps), ">= 0 (0: measured)");
  for (const ServeCase& one : options.cases) RETURN_IF_ERROR(Check(one));
  return options;
}

}  // namespace lorad::bench
