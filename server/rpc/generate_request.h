// GenerateRequest from the wire to the engine.
#ifndef LORAD_SERVER_RPC_GENERATE_REQUEST_H_
#define LORAD_SERVER_RPC_GENERATE_REQUEST_H_

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "lorad/v1/inference_service.pb.h"

namespace lorad::server {

// Checks every field and turns text into ids; all but the adapter, which the caller resolves.
// kInvalidArgument names the field, its value and its bound.
absl::StatusOr<GenerateRequest> ToEngine(const v1::GenerateRequest& request, const Engine& engine);

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_GENERATE_REQUEST_H_
