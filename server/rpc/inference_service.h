// lorad.v1.InferenceService: checks, calls the engine, translates.
#ifndef LORAD_SERVER_RPC_INFERENCE_SERVICE_H_
#define LORAD_SERVER_RPC_INFERENCE_SERVICE_H_

#include "lorad/v1/inference_service.grpc.pb.h"
#include "server/rpc/services.h"

namespace lorad::server {

// Thread-safe.
class InferenceServiceImpl : public v1::InferenceService::CallbackService {
 public:
  explicit InferenceServiceImpl(const Services* services) : services_(services) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::ServerWriteReactor<v1::GenerateBatchResponse>* GenerateBatch(
      grpc::CallbackServerContext* context, const v1::GenerateBatchRequest* request) override;
  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context,
                                  const v1::ScoreRequest* request,
                                  v1::ScoreResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;

 private:
  absl::Status StartScore(const v1::ScoreRequest& request, v1::ScoreResponse* response,
                          grpc::ServerUnaryReactor* reactor);

  const Services* const services_;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_INFERENCE_SERVICE_H_
