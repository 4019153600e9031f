// GenerateRequest from the wire to the engine.
#ifndef LORAD_SERVER_RPC_GENERATE_REQUEST_H_
#define LORAD_SERVER_RPC_GENERATE_REQUEST_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "lorad/v1/inference_service.pb.h"

namespace lorad::server {

// Checks every field and turns text into ids; all but the adapter, which the caller resolves, and
// `n`. kInvalidArgument names the field, its value and its bound.
absl::StatusOr<GenerateRequest> ToEngine(const v1::GenerateRequest& request, const Engine& engine);

// The number of answers that are asked for: 1 to 16, at most `max_queued_requests`, since all are
// queued together.
absl::StatusOr<int> SampleCount(const v1::GenerateRequest& request, int32_t max_queued_requests);

// The seed of answer `index` >= 0 of a request with `seed`, as the wire contract says: `seed`
// itself for answer 0, then the outputs of SplitMix64 from it (Steele, Lea and Flood 2014), so that
// neighbouring seeds share no answers.
uint64_t SampleSeed(uint64_t seed, int index);

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_GENERATE_REQUEST_H_
