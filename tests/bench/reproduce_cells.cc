#include "tests/bench/reproduce_cells.h"

#include <map>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/core/status_macros.h"
#include "tests/bench/case_flags.h"

namespace lorad::bench {
namespace {

// Of the comparison with full rank: the demo's.
constexpr int32_t kLoraRank = 16;
constexpr int32_t kFullRank = 0;

struct Method {
  std::string base;
  int32_t rank;
};

const std::map<std::string, std::vector<std::string>>& WeightTypes() {
  static const auto& types = *new std::map<std::string, std::vector<std::string>>{
      {"q", {"q_proj"}},
      {"k", {"k_proj"}},
      {"v", {"v_proj"}},
      {"all", {"q_proj", "k_proj", "v_proj", "o_proj"}}};
  return types;
}

const std::map<std::string, Method>& Methods() {
  static const auto& methods =
      *new std::map<std::string, Method>{{"qlora", {"nf4", kLoraRank}},
                                         {"lora", {"none", kLoraRank}},
                                         {"full_rank", {"none", kFullRank}}};
  return methods;
}

FlagSet<ReproduceOptions> Flags() {
  FlagSet<ReproduceOptions> flags;
  flags.Add("table", &ReproduceOptions::table)
      .Add("task", &ReproduceOptions::task)
      .Add("steps", &ReproduceOptions::steps)
      .Add("batch", &ReproduceOptions::batch)
      .Add("eval_rows", &ReproduceOptions::eval_rows)
      .Add("num_threads", &ReproduceOptions::num_threads)
      .Add("seeds", &ReproduceOptions::seeds)
      .Add("learning_rates", &ReproduceOptions::learning_rates)
      .Add("alpha", &ReproduceOptions::alpha)
      .Add("ranks", &ReproduceOptions::ranks)
      .Add("weights", &ReproduceOptions::weights)
      .Add("methods", &ReproduceOptions::methods)
      .Add("output", &ReproduceOptions::output);
  return flags;
}

template <typename Known>
absl::Status CheckNames(const char* flag, const std::vector<std::string>& names,
                        const Known& known) {
  for (const std::string& name : names)
    if (known.count(name) == 0)
      return absl::InvalidArgumentError(
          absl::StrCat("--", flag, " names \"", name, "\"; known are ",
                       absl::StrJoin(known, ", ", [](std::string* out, const auto& one) {
                         absl::StrAppend(out, one.first);
                       })));
  return absl::OkStatus();
}

absl::Status CheckRange(bool holds, const char* flag, double value, const char* bound) {
  if (holds) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--", flag, "=", value, ": it must be ", bound));
}

absl::Status CheckOptions(const ReproduceOptions& of) {
  static const auto& tables = *new std::map<std::string, int>{{"rank", 0}, {"full_rank", 0}};
  static const auto& tasks = *new std::map<std::string, int>{{"sql", 0}, {"tickets", 0}};
  RETURN_IF_ERROR(CheckNames("table", {of.table}, tables));
  RETURN_IF_ERROR(CheckNames("task", of.task, tasks));
  RETURN_IF_ERROR(CheckNames("weights", of.weights, WeightTypes()));
  RETURN_IF_ERROR(CheckNames("methods", of.methods, Methods()));
  RETURN_IF_ERROR(CheckRange(of.eval_rows >= 0, "eval_rows", static_cast<double>(of.eval_rows),
                             "from 0, which means all"));
  RETURN_IF_ERROR(CheckRange(of.num_threads >= 0, "num_threads", of.num_threads,
                             "from 0, which means all cores"));
  // The ranges that a job has are checked by the job, except these: 0 means something else here.
  RETURN_IF_ERROR(CheckRange(of.steps >= 1, "steps", static_cast<double>(of.steps), "at least 1"));
  for (const int32_t rank : of.ranks)
    RETURN_IF_ERROR(CheckRange(rank >= 1, "ranks", rank, "at least 1"));
  return absl::OkStatus();
}

// The rows of the table: everything but learning rate and seed.
std::vector<LoraCell> TableRows(const ReproduceOptions& options, const std::string& task) {
  std::vector<LoraCell> rows;
  LoraCell row;
  row.task = task;
  if (options.table == "full_rank") {
    row.weights = "all-linear";
    row.targets = {"all-linear"};
    for (const std::string& method : options.methods) {
      row.method = method;
      row.base = Methods().at(method).base;
      row.rank = Methods().at(method).rank;
      rows.push_back(row);
    }
    return rows;
  }
  row.method = "qlora";
  row.base = Methods().at(row.method).base;
  for (const std::string& weights : options.weights)
    for (const int32_t rank : options.ranks) {
      row.weights = weights;
      row.targets = WeightTypes().at(weights);
      row.rank = rank;
      rows.push_back(row);
    }
  return rows;
}

}  // namespace

absl::StatusOr<ReproduceOptions> ParseReproduceOptions(const std::vector<std::string>& arguments) {
  struct NoCase {};
  ReproduceOptions options;
  std::vector<NoCase> cases;
  RETURN_IF_ERROR(ParseArguments(arguments, Flags(), FlagSet<NoCase>(), options, cases));
  RETURN_IF_ERROR(CheckOptions(options));
  return options;
}

std::vector<LoraCell> MakeCells(const ReproduceOptions& options) {
  std::vector<LoraCell> cells;
  for (const std::string& task : options.task)
    for (LoraCell cell : TableRows(options, task))
      for (const double learning_rate : options.learning_rates)
        for (const uint64_t seed : options.seeds) {
          cell.learning_rate = learning_rate;
          cell.seed = seed;
          cells.push_back(cell);
        }
  return cells;
}

}  // namespace lorad::bench
