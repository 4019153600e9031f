// Plans against a server: its model, its free memory. Without one, see proto/planner.
#ifndef LORAD_CLIENT_PLANNER_H_
#define LORAD_CLIENT_PLANNER_H_

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "client/connection.h"
#include "lorad/v1/planner_service.pb.h"

namespace lorad::client {

// Thread-safe. Errors are the server's (client/status.h has their details).
class PlannerClient {
 public:
  explicit PlannerClient(std::shared_ptr<Connection> connection)
      : connection_(std::move(connection)) {}

  absl::StatusOr<v1::PlanMemoryResponse> PlanMemory(const v1::PlanMemoryRequest& request);
  absl::StatusOr<v1::PlanCheckpointingResponse> PlanCheckpointing(
      const v1::PlanCheckpointingRequest& request);
  absl::StatusOr<v1::CountFlopsResponse> CountFlops(const v1::CountFlopsRequest& request);
  absl::StatusOr<v1::FitScalingLawResponse> FitScalingLaw(const v1::FitScalingLawRequest& request);

 private:
  std::shared_ptr<Connection> connection_;
};

}  // namespace lorad::client

#endif  // LORAD_CLIENT_PLANNER_H_
