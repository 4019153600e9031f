// A lorad that answers what a test tells it to, on a free port of this machine.
#ifndef LORAD_TESTS_UNIT_CLIENT_FAKE_SERVER_H_
#define LORAD_TESTS_UNIT_CLIENT_FAKE_SERVER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/grpcpp.h"
#include "lorad/v1/adapter_service.grpc.pb.h"
#include "lorad/v1/dataset_service.grpc.pb.h"
#include "lorad/v1/inference_service.grpc.pb.h"
#include "lorad/v1/job_service.grpc.pb.h"

namespace lorad::client {

// An error as the server makes them: with a reason, and so not the transport's.
inline grpc::Status ServerError(grpc::StatusCode code, const std::string& message,
                                const std::string& field = "") {
  google::rpc::Status status;
  status.set_code(code);
  status.set_message(message);
  google::rpc::ErrorInfo info;
  info.set_reason("TEST");
  info.set_domain("lorad");
  status.add_details()->PackFrom(info);
  if (!field.empty()) {
    google::rpc::BadRequest bad_request;
    auto* violation = bad_request.add_field_violations();
    violation->set_field(field);
    violation->set_description("must be at least 1");
    status.add_details()->PackFrom(bad_request);
  }
  return grpc::Status(code, message, status.SerializeAsString());
}

// Each hook answers one method; one that is not set answers UNIMPLEMENTED.
struct FakeDatasets final : v1::DatasetService::Service {
  using Reader = grpc::ServerReader<v1::UploadDatasetRequest>;
  std::function<grpc::Status(Reader*, v1::UploadDatasetResponse*)> upload;
  std::function<grpc::Status(const v1::QueryUploadRequest&, v1::QueryUploadResponse*)> query;
  std::function<grpc::Status(const v1::GetDatasetRequest&, v1::Dataset*)> get;
  std::function<grpc::Status(const v1::ListDatasetsRequest&, v1::ListDatasetsResponse*)> list;

  grpc::Status Upload(grpc::ServerContext*, Reader* reader,
                      v1::UploadDatasetResponse* reply) override {
    return upload ? upload(reader, reply) : grpc::Status(grpc::UNIMPLEMENTED, "");
  }
  grpc::Status QueryUpload(grpc::ServerContext*, const v1::QueryUploadRequest* request,
                           v1::QueryUploadResponse* reply) override {
    return query ? query(*request, reply) : grpc::Status(grpc::UNIMPLEMENTED, "");
  }
  grpc::Status Get(grpc::ServerContext*, const v1::GetDatasetRequest* request,
                   v1::Dataset* reply) override {
    return get ? get(*request, reply) : ServerError(grpc::NOT_FOUND, "no such dataset");
  }
  grpc::Status List(grpc::ServerContext*, const v1::ListDatasetsRequest* request,
                    v1::ListDatasetsResponse* reply) override {
    return list ? list(*request, reply) : grpc::Status(grpc::UNIMPLEMENTED, "");
  }
};

struct FakeJobs final : v1::JobService::Service {
  using Writer = grpc::ServerWriter<v1::WatchJobResponse>;
  std::function<grpc::Status(const v1::SubmitJobRequest&, v1::SubmitJobResponse*)> submit;
  std::function<grpc::Status(const v1::GetJobRequest&, v1::Job*)> get;
  std::function<grpc::Status(grpc::ServerContext*, const v1::WatchJobRequest&, Writer*)> watch;

  grpc::Status Submit(grpc::ServerContext*, const v1::SubmitJobRequest* request,
                      v1::SubmitJobResponse* reply) override {
    return submit ? submit(*request, reply) : grpc::Status(grpc::UNIMPLEMENTED, "");
  }
  grpc::Status Get(grpc::ServerContext*, const v1::GetJobRequest* request,
                   v1::Job* reply) override {
    return get ? get(*request, reply) : ServerError(grpc::NOT_FOUND, "no such job");
  }
  grpc::Status Watch(grpc::ServerContext* context, const v1::WatchJobRequest* request,
                     Writer* writer) override {
    return watch ? watch(context, *request, writer) : grpc::Status(grpc::UNIMPLEMENTED, "");
  }
};

struct FakeAdapters final : v1::AdapterService::Service {
  using Writer = grpc::ServerWriter<v1::ExportAdapterResponse>;
  using Reader = grpc::ServerReader<v1::ImportAdapterRequest>;
  std::function<grpc::Status(const v1::ExportAdapterRequest&, Writer*)> export_adapter;
  std::function<grpc::Status(Reader*, v1::ImportAdapterResponse*)> import_adapter;
  std::function<grpc::Status(const v1::SetAliasRequest&, v1::Alias*)> set_alias;

  grpc::Status Export(grpc::ServerContext*, const v1::ExportAdapterRequest* request,
                      Writer* writer) override {
    return export_adapter ? export_adapter(*request, writer)
                          : grpc::Status(grpc::UNIMPLEMENTED, "");
  }
  grpc::Status Import(grpc::ServerContext*, Reader* reader,
                      v1::ImportAdapterResponse* reply) override {
    return import_adapter ? import_adapter(reader, reply) : grpc::Status(grpc::UNIMPLEMENTED, "");
  }
  grpc::Status SetAlias(grpc::ServerContext*, const v1::SetAliasRequest* request,
                        v1::Alias* reply) override {
    return set_alias ? set_alias(*request, reply) : grpc::Status(grpc::UNIMPLEMENTED, "");
  }
};

struct FakeInference final : v1::InferenceService::Service {
  using Writer = grpc::ServerWriter<v1::GenerateResponse>;
  std::function<grpc::Status(grpc::ServerContext*, const v1::GenerateRequest&, Writer*)> generate;
  using BatchWriter = grpc::ServerWriter<v1::GenerateBatchResponse>;
  std::function<grpc::Status(const v1::GenerateBatchRequest&, BatchWriter*)> generate_batch;
  std::function<grpc::Status(const v1::ScoreRequest&, v1::ScoreResponse*)> score;
  std::function<grpc::Status(const v1::TokenizeRequest&, v1::TokenizeResponse*)> tokenize;
  std::function<grpc::Status(const v1::DetokenizeRequest&, v1::DetokenizeResponse*)> detokenize;

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        Writer* writer) override {
    return generate ? generate(context, *request, writer) : grpc::Status(grpc::UNIMPLEMENTED, "");
  }
  grpc::Status GenerateBatch(grpc::ServerContext*, const v1::GenerateBatchRequest* request,
                             BatchWriter* writer) override {
    return generate_batch ? generate_batch(*request, writer)
                          : grpc::Status(grpc::UNIMPLEMENTED, "");
  }
  grpc::Status Score(grpc::ServerContext*, const v1::ScoreRequest* request,
                     v1::ScoreResponse* reply) override {
    return score ? score(*request, reply) : grpc::Status(grpc::UNIMPLEMENTED, "");
  }
  grpc::Status Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* reply) override {
    return tokenize ? tokenize(*request, reply) : grpc::Status(grpc::UNIMPLEMENTED, "");
  }
  grpc::Status Detokenize(grpc::ServerContext*, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* reply) override {
    return detokenize ? detokenize(*request, reply) : grpc::Status(grpc::UNIMPLEMENTED, "");
  }
};

class FakeServer {
 public:
  FakeServer() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.SetMaxReceiveMessageSize(8 << 20);
    builder.RegisterService(&datasets);
    builder.RegisterService(&jobs);
    builder.RegisterService(&adapters);
    builder.RegisterService(&inference);
    server_ = builder.BuildAndStart();
  }
  ~FakeServer() { server_->Shutdown(std::chrono::system_clock::now()); }

  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

  FakeDatasets datasets;
  FakeJobs jobs;
  FakeAdapters adapters;
  FakeInference inference;

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace lorad::client

#endif  // LORAD_TESTS_UNIT_CLIENT_FAKE_SERVER_H_
