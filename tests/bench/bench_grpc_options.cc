#include "tests/bench/bench_grpc_options.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "tests/bench/case_flags.h"

namespace lorad::bench {
namespace {

FlagSet<GrpcOptions> OptionFlags() {
  FlagSet<GrpcOptions> flags;
  flags.Add("server", &GrpcOptions::server)
      .Add("token", &GrpcOptions::token)
      .Add("output", &GrpcOptions::output);
  return flags;
}

FlagSet<GrpcCase> CaseFlags() {
  FlagSet<GrpcCase> flags;
  flags.Add("connections", &GrpcCase::connections)
      .Add("seed", &GrpcCase::seed)
      .Add("adapters", &GrpcCase::adapters)
      .Add("rank", &GrpcCase::rank)
      .Add("shape", &GrpcCase::shape);
  AddLoadFlags(flags);
  return flags;
}

absl::Status Check(const GrpcCase& of) {
  if (of.connections < 1 || of.connections > 10000)
    return absl::InvalidArgumentError(
        absl::StrCat("--connections=", of.connections, ": it must be in [1, 10000]"));
  if (of.adapters < 0 || of.adapters > 10000)
    return absl::InvalidArgumentError(
        absl::StrCat("--adapters=", of.adapters, ": it must be in [0, 10000]"));
  if (of.rank < 1) return absl::InvalidArgumentError(absl::StrCat("--rank=", of.rank, ": from 1"));
  if (of.adapters > 0 && of.shape.empty())
    return absl::InvalidArgumentError(
        absl::StrCat("--adapters=", of.adapters,
                     " needs --shape: the daemon's model directory, or the name of its shape"));
  return MakeLoadPlan(of, of.adapters, of.seed).status();
}

}  // namespace

absl::StatusOr<GrpcOptions> ParseGrpcOptions(const std::vector<std::string>& arguments) {
  GrpcOptions options;
  RETURN_IF_ERROR(ParseArguments(arguments, OptionFlags(), CaseFlags(), options, options.cases));
  for (const GrpcCase& one : options.cases) RETURN_IF_ERROR(Check(one));
  return options;
}

}  // namespace lorad::bench
