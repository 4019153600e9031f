// What the engine gives, as messages of the wire.
#ifndef LORAD_SERVER_RPC_GENERATE_RESPONSE_H_
#define LORAD_SERVER_RPC_GENERATE_RESPONSE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "engine/engine.h"
#include "lorad/v1/inference_service.pb.h"

namespace lorad::server {

// Text, ids and log-probabilities; adapter and index are the caller's to set.
v1::GenerateResponse ToProto(GenerateDelta delta);
// REQUIRES: StatusOf(result.finish_reason) is OK.
v1::GenerateFinish ToProto(const GenerateResult& result);

// OK for an answer that is complete, else why it is not.
absl::Status StatusOf(FinishReason reason);

// Adds the next message of an answer to the one before it, which has no `finish`.
void Append(v1::GenerateResponse& last, v1::GenerateResponse more);

// Size in memory.
int64_t ApproximateBytes(const v1::GenerateResponse& response);

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_GENERATE_RESPONSE_H_
