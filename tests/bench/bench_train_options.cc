#include "tests/bench/bench_train_options.h"

#include <functional>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/core/status_macros.h"

namespace lorad::bench {
namespace {

bool Parse(const std::string& text, std::string& value) {
  value = text;
  return true;
}
bool Parse(const std::string& text, double& value) { return absl::SimpleAtod(text, &value); }
template <typename Integer>
bool Parse(const std::string& text, Integer& value) {
  return absl::SimpleAtoi(text, &value);
}

using Setter = std::function<bool(const std::string&, TrainCase&)>;

template <typename T>
Setter Sets(T TrainCase::*member) {
  return [member](const std::string& text, TrainCase& to) { return Parse(text, to.*member); };
}

const std::map<std::string, Setter>& Setters() {
  static const auto* const setters =
      new std::map<std::string, Setter>{{"shape", Sets(&TrainCase::shape)},
                                        {"base", Sets(&TrainCase::base)},
                                        {"rank", Sets(&TrainCase::rank)},
                                        {"alpha", Sets(&TrainCase::alpha)},
                                        {"targets", Sets(&TrainCase::targets)},
                                        {"batch", Sets(&TrainCase::batch)},
                                        {"seq", Sets(&TrainCase::seq)},
                                        {"policy", Sets(&TrainCase::policy)},
                                        {"optim", Sets(&TrainCase::optim)},
                                        {"dropout", Sets(&TrainCase::dropout)},
                                        {"steps", Sets(&TrainCase::steps)},
                                        {"warmup", Sets(&TrainCase::warmup)},
                                        {"memory_limit", Sets(&TrainCase::memory_limit)},
                                        {"seed", Sets(&TrainCase::seed)}};
  return *setters;
}

std::string KnownNames() {
  return absl::StrJoin(Setters(), ", ", [](std::string* out, const auto& setter) {
    absl::StrAppend(out, setter.first);
  });
}

// "name=value", with or without dashes in front.
std::pair<std::string, std::string> Split(absl::string_view argument) {
  absl::ConsumePrefix(&argument, "--");
  return absl::StrSplit(argument, absl::MaxSplits('=', 1));
}

absl::Status Set(const std::string& argument, TrainCase& to) {
  const auto [name, value] = Split(argument);
  const auto found = Setters().find(name);
  if (found == Setters().end())
    return absl::InvalidArgumentError(absl::StrCat(
        argument, ": known are device, peak_tflops, output, case, and of a case ", KnownNames()));
  if (value.empty() || !found->second(value, to))
    return absl::InvalidArgumentError(absl::StrCat(argument, ": the value is not understood"));
  return absl::OkStatus();
}

absl::Status Check(const TrainCase& of) {
  if (of.rank < 1 || of.batch < 1 || of.seq < 2 || of.steps < 1 || of.warmup < 0 ||
      of.memory_limit < 0)
    return absl::InvalidArgumentError(
        "rank, batch and steps must be at least 1, seq at least 2, warmup and memory_limit not "
        "negative");
  return absl::OkStatus();
}

ModelConfig Llama(int64_t vocab, int64_t hidden, int64_t intermediate, int64_t layers,
                  int64_t heads, int64_t kv_heads) {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.vocab_size = vocab;
  config.hidden_size = hidden;
  config.intermediate_size = intermediate;
  config.num_layers = layers;
  config.num_heads = heads;
  config.num_kv_heads = kv_heads;
  config.head_dim = hidden / heads;
  config.max_position_embeddings = 131072;  // seq is the benchmark's to choose
  config.rms_norm_eps = 1e-5;
  return config;
}

ModelConfig Llama3(int64_t hidden, int64_t intermediate, int64_t layers) {
  ModelConfig config = Llama(128256, hidden, intermediate, layers, 32, 8);
  config.rope.theta = 500000;
  return config;
}

ModelConfig Llama32With1B() {
  ModelConfig config = Llama3(2048, 8192, 16);
  config.rope.type = RopeConfig::Type::kLlama3;
  config.rope.factor = 32;
  config.rope.original_max_position_embeddings = 8192;
  config.tie_word_embeddings = true;
  return config;
}

}  // namespace

absl::StatusOr<BenchOptions> ParseBenchOptions(const std::vector<std::string>& arguments) {
  BenchOptions options;
  TrainCase common;
  std::vector<std::string> cases;
  for (const std::string& argument : arguments) {
    const auto [name, value] = Split(argument);
    if (name == "case") {
      cases.push_back(value);
    } else if (name == "device") {
      options.device = value;
    } else if (name == "output") {
      options.output = value;
    } else if (name == "peak_tflops") {
      if (!Parse(value, options.peak_tflops) || options.peak_tflops < 0)
        return absl::InvalidArgumentError(absl::StrCat(argument, ": must be a number from 0"));
    } else {
      RETURN_IF_ERROR(Set(argument, common));
    }
  }
  if (cases.empty()) cases.emplace_back();
  for (const std::string& differences : cases) {
    TrainCase& one = options.cases.emplace_back(common);
    for (const absl::string_view difference : absl::StrSplit(differences, ' ', absl::SkipEmpty()))
      RETURN_IF_ERROR(Set(std::string(difference), one));
    RETURN_IF_ERROR(Check(one));
    if (one.alpha == 0) one.alpha = 2.0 * one.rank;
  }
  return options;
}

absl::StatusOr<ModelConfig> ShapeConfig(const std::string& shape) {
  if (shape == "llama-7b") return Llama(32000, 4096, 11008, 32, 32, 32);
  if (shape == "llama-65b") return Llama(32000, 8192, 22016, 80, 64, 64);
  if (shape == "llama3-8b") return Llama3(4096, 14336, 32);
  if (shape == "llama3.2-1b") return Llama32With1B();
  if (shape == "tiny") return Llama(512, 128, 352, 4, 4, 2);
  if (shape.find('/') == std::string::npos)
    return absl::InvalidArgumentError(
        absl::StrCat("shape is \"", shape,
                     "\"; known are llama-7b, llama-65b, llama3-8b, llama3.2-1b, tiny, and "
                     "PATH/config.json"));
  absl::string_view folder = shape;
  absl::ConsumeSuffix(&folder, "/config.json");
  return LoadModelConfig(std::string(folder));
}

}  // namespace lorad::bench
