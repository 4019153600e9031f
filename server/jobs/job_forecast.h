// The learning curve of a job, and where it leads (engine/plan/learning_curve.h).
#ifndef LORAD_SERVER_JOBS_JOB_FORECAST_H_
#define LORAD_SERVER_JOBS_JOB_FORECAST_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/plan/learning_curve.h"
#include "lorad/v1/job_service.pb.h"
#include "server/store/store.h"

namespace lorad::server {

// The job's evaluations that the store has, oldest first: those of runs before a restart. Reads all
// its events.
absl::StatusOr<std::vector<CurvePoint>> StoredEvals(Store& store, absl::string_view job_id);

// Nothing where the curve allows no forecast: too few evaluations, a loss that does not fall or is
// not finite; nor after `final_step`'s own evaluation. Tens of milliseconds on one core.
std::optional<v1::JobForecast> ForecastJob(const std::vector<CurvePoint>& evals,
                                           int64_t final_step);

}  // namespace lorad::server

#endif  // LORAD_SERVER_JOBS_JOB_FORECAST_H_
