#include "client/cli/plan_flags.h"

#include <cmath>
#include <filesystem>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "client/cli/errors.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"

namespace lorad::client::cli {
namespace {

constexpr int kChartHeight = 20;

std::string ConfigPath(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored) ? path + "/config.json" : path;
}

}  // namespace

Option PlanModelOption() {
  return {"model", OptionType::kText, "NAME|PATH",
          "a published shape such as llama-65b, llama-3-8b or qwen2.5-7b, or a model directory or "
          "config.json",
          "with --server, the server's model"};
}

std::vector<Option> PlanChartOptions() {
  return {{"plot", OptionType::kText, "FILE", "draw it into a .png or .svg, with gnuplot"},
          {"chart", OptionType::kBool, "", "draw it in the output", "on a terminal"}};
}

std::vector<Option> PlanSpecOptions() {
  std::vector<Option> options = {
      PlanModelOption(),
      {"mode",
       OptionType::kText,
       "",
       "what is done with the model",
       "qlora",
       {"inference", "full", "lora", "qlora"}},
      {"precision",
       OptionType::kText,
       "",
       "of the decoder's weights",
       "nf4 for qlora, else bf16",
       {"fp32", "fp16", "bf16", "int8", "int4", "fp4", "nf4"}},
      {"quant_block", OptionType::kInt, "N", "weights that share a scale, for k-bit weights", "64"},
      {"double_quant", OptionType::kBool, "", "scales in 8 bits, for k-bit weights", "true"},
      {"rank", OptionType::kInt, "N", "of the adapters", "16"},
      {"targets", OptionType::kList, "NAMES", "linears that have an adapter", "all-linear"},
      {"dropout", OptionType::kBool, "", "with a dropout of the adapters' inputs", "false"},
      {"batch", OptionType::kInt, "N", "sequences of a micro-batch, or served at once", "1"},
      {"seq", OptionType::kInt, "N", "tokens of a sequence", "2048"},
      {"accumulation", OptionType::kInt, "N", "micro-batches of an optimiser step", "1"},
      {"optim",
       OptionType::kText,
       "",
       "where and how AdamW keeps its moments",
       "adamw_torch",
       {"adamw_torch", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"}},
      {"activations", OptionType::kText, "POLICY",
       "none, every_layer, every_k:K, sqrt, offload or auto",
       "none for the textbook, else every_layer"},
      {"account",
       OptionType::kText,
       "",
       "textbook: what automatic differentiation of an unfused decoder keeps; engine: what lorad "
       "lays out",
       "engine where lorad can run it",
       {"textbook", "engine"}},
      {"device",
       OptionType::kText,
       "",
       "whose layout the engine's account takes",
       "cuda",
       {"cuda", "cpu"}}};
  for (Option& option : PlanChartOptions()) options.push_back(std::move(option));
  return options;
}

bool PlansOnServer(const Arguments& arguments) { return arguments.Has("server"); }

absl::StatusOr<v1::PlanModel> PlanModelOf(const Arguments& arguments) {
  v1::PlanModel model;
  const std::string name = arguments.Text("model");
  if (name.empty()) {
    if (PlansOnServer(arguments)) return model;
    return UsageError("--model is needed: the name of a published shape, or a path; or --server");
  }
  std::error_code ignored;
  if (name.find('/') == std::string::npos && !std::filesystem::exists(name, ignored)) {
    model.set_preset(name);
    return model;
  }
  ASSIGN_OR_RETURN(*model.mutable_config_json(), ReadFile(ConfigPath(name)));
  return model;
}

absl::StatusOr<v1::PlanSpec> PlanSpecOf(const Arguments& arguments) {
  v1::PlanSpec spec;
  ASSIGN_OR_RETURN(v1::PlanModel model, PlanModelOf(arguments));
  if (model.source_case() != v1::PlanModel::SOURCE_NOT_SET)
    *spec.mutable_model() = std::move(model);
  // An explicit 0 is no default: it is sent as what is refused by name.
  const struct {
    const char* name;
    void (v1::PlanSpec::*set)(int64_t);
  } counts[] = {{"rank", &v1::PlanSpec::set_rank},
                {"batch", &v1::PlanSpec::set_batch},
                {"seq", &v1::PlanSpec::set_sequence},
                {"accumulation", &v1::PlanSpec::set_accumulation}};
  for (const auto& [name, set] : counts) {
    if (!arguments.Has(name)) continue;
    const int64_t value = arguments.Int(name);
    if (value < 1) return UsageError(absl::StrCat("--", name, " is ", value, "; it must be >= 1"));
    (spec.*set)(value);
  }
  if (arguments.Has("quant_block")) {
    const int64_t block = arguments.Int("quant_block");
    if (block < 32 || block > 4096)
      return UsageError(
          absl::StrCat("--quant_block is ", block, "; it must be a power of two in [32, 4096]"));
    spec.set_quant_block(static_cast<int32_t>(block));
  }
  if (arguments.Has("double_quant")) spec.set_double_quant(arguments.Bool("double_quant"));
  for (std::string& target : arguments.List("targets")) spec.add_target_modules(std::move(target));
  spec.set_dropout(arguments.Bool("dropout"));
  spec.set_mode(arguments.Text("mode"));
  spec.set_precision(arguments.Text("precision"));
  spec.set_optim(arguments.Text("optim"));
  spec.set_activations(arguments.Text("activations"));
  spec.set_account(arguments.Text("account"));
  spec.set_device(arguments.Text("device"));
  return spec;
}

absl::StatusOr<int64_t> ParseByteCount(const std::string& option, std::string_view text) {
  constexpr std::pair<const char*, double> kUnits[] = {
      {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}, {"TiB", 1099511627776.0},
      {"KB", 1e3},     {"MB", 1e6},        {"GB", 1e9},           {"TB", 1e12},
      {"B", 1.0}};
  absl::string_view number(text.data(), text.size());
  double unit = 1;
  for (const auto& [name, bytes] : kUnits) {
    if (!absl::ConsumeSuffix(&number, name)) continue;
    unit = bytes;
    break;
  }
  double value = 0;
  if (!absl::SimpleAtod(absl::StripAsciiWhitespace(number), &value) || !std::isfinite(value) ||
      value * unit < 1 || value * unit > 1152921504606846976.0)
    return UsageError(absl::StrCat("--", option, " is \"", std::string(text),
                                   "\"; give bytes such as 48GB or 44.5GiB, at most 2^60"));
  return static_cast<int64_t>(value * unit);
}

std::string DecimalBytes(int64_t bytes) {
  constexpr std::pair<double, const char*> kUnits[] = {{1e9, "GB"}, {1e6, "MB"}, {1e3, "KB"}};
  const double value = static_cast<double>(bytes);
  for (const auto& [unit, name] : kUnits)
    if (value >= unit) return absl::StrFormat("%.2f %s", value / unit, name);
  return absl::StrCat(bytes, " B");
}

absl::Status ShowChart(Session& session, const Arguments& arguments, const Chart& chart) {
  if (arguments.Has("plot")) RETURN_IF_ERROR(WriteChart(chart, arguments.Text("plot")));
  if (!session.json() && arguments.Bool("chart", session.terminal())) {
    session.out() << "\n";
    DrawChart(chart, session.width(), kChartHeight, session.terminal(), session.out());
  }
  return absl::OkStatus();
}

}  // namespace lorad::client::cli
