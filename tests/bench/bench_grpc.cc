// The loads of bench_serve --mode=load, put on a lorad that runs, over many connections: what is
// between a client and the engine shows as the difference. The fields of both are the same.
//   bench_grpc --server=127.0.0.1:7430 --connections=64 --streams=64 --duration=30
//   bench_grpc --rate=5 --adapters=8 --shape=MODEL_DIR --case="connections=1" --case=""
// Flags are the members of GrpcOptions, GrpcCase and LoadOptions (bench_grpc_options.h,
// load_options.h). One JSON line per case goes to stdout, and to the end of --output=FILE. A case
// that fails gives a line with "error", and the exit status is 1. Times are those of the client:
// messages that hold several tokens count as tokens that came together. What the daemon loads,
// evicts and trains meanwhile is in its own metrics.
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/admin.h"
#include "client/connection.h"
#include "engine/core/status_macros.h"
#include "tests/bench/bench_grpc_options.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/grpc_load_client.h"
#include "tests/bench/json_lines.h"
#include "tests/bench/load_driver.h"
#include "tests/bench/load_report.h"
#include "tests/bench/remote_adapters.h"
#include "tests/bench/shapes.h"

namespace lorad::bench {
namespace {

Json CaseJson(const GrpcCase& of, const v1::ServerInfo& server) {
  return {{"mode", "load"},
          {"shape", server.model().name()},
          {"device", server.model().device()},
          {"quant", server.model().quant()},
          {"parameters", server.model().parameters()},
          {"seed", of.seed},
          {"adapters", of.adapters},
          {"rank", of.rank},
          {"through", "grpc"},
          {"connections", of.connections},
          {"max_running", server.limits().max_running_requests()},
          {"load", PlanJson(of)}};
}

absl::Status CheckShape(const ModelConfig& shape, const v1::ModelInfo& model) {
  if (shape.vocab_size == model.vocab_size() && shape.hidden_size == model.hidden_size() &&
      shape.num_layers == model.num_layers())
    return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--shape has a vocabulary of ", shape.vocab_size, ", width ", shape.hidden_size,
                   " and ", shape.num_layers, " layers; the daemon's model ", model.name(), " has ",
                   model.vocab_size(), ", ", model.hidden_size(), " and ", model.num_layers()));
}

class Bench {
 public:
  Bench(GrpcOptions options, std::string command_line)
      : options_(std::move(options)), command_line_(std::move(command_line)) {
    connect_.server = options_.server;
    connect_.token = options_.token;
  }

  // False: a case failed.
  absl::StatusOr<bool> Run() {
    ASSIGN_OR_RETURN(connection_, client::Connection::Open(connect_));
    ASSIGN_OR_RETURN(server_, client::AdminClient(connection_).GetServerInfo());
    return RunCases(
        options_.cases, options_.output, command_line_,
        [&](const GrpcCase& one) { return CaseJson(one, server_); },
        [&](const GrpcCase& one, Json& json) { return Measure(one, json); });
  }

 private:
  absl::Status Measure(const GrpcCase& one, Json& json) {
    ASSIGN_OR_RETURN(const LoadPlan plan, MakeLoadPlan(one, one.adapters, one.seed));
    std::unique_ptr<RemoteAdapters> adapters;
    if (one.adapters > 0) {
      ASSIGN_OR_RETURN(const ModelConfig shape, ShapeConfig(one.shape));
      RETURN_IF_ERROR(CheckShape(shape, server_.model()));
      ASSIGN_OR_RETURN(
          adapters, RemoteAdapters::Import(connection_, shape, one.adapters, one.rank, one.seed));
    }
    ASSIGN_OR_RETURN(const std::unique_ptr<GrpcLoadClient> load,
                     GrpcLoadClient::Create(
                         connect_, one.connections, server_.model().vocab_size(),
                         adapters == nullptr ? std::vector<std::string>() : adapters->refs()));
    json.update(LoadJson(plan, RunLoad(plan, *load).records));
    return absl::OkStatus();
  }

  const GrpcOptions options_;
  const std::string command_line_;
  client::ConnectOptions connect_;
  std::shared_ptr<client::Connection> connection_;
  v1::ServerInfo server_;
};

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) {
  return lorad::bench::BenchMain<lorad::bench::Bench>(argc, argv, lorad::bench::ParseGrpcOptions);
}
