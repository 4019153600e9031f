#include "server/jobs/job_forecast.h"

#include "engine/core/status_macros.h"
#include "server/jobs/job_record.h"

namespace lorad::server {
namespace {

constexpr int kEventsAtOnce = 1000;

BootstrapOptions ForecastOptions() {
  BootstrapOptions options;
  options.draws = 200;
  options.threads = 1;  // the others are serving's
  return options;
}

}  // namespace

absl::StatusOr<std::vector<CurvePoint>> StoredEvals(Store& store, absl::string_view job_id) {
  std::vector<CurvePoint> evals;
  int64_t seq = 0;
  while (true) {
    ASSIGN_OR_RETURN(const JobEvents events, ReadEvents(store, job_id, seq, kEventsAtOnce));
    for (const v1::JobEvent& event : events) {
      seq = event.seq();
      if (event.has_eval()) evals.push_back({event.eval().step(), event.eval().loss()});
    }
    if (events.size() < kEventsAtOnce) return evals;
  }
}

std::optional<v1::JobForecast> ForecastJob(const std::vector<CurvePoint>& evals,
                                           int64_t final_step) {
  if (evals.empty() || evals.back().step >= final_step) return std::nullopt;
  const BootstrapOptions options = ForecastOptions();
  const absl::StatusOr<LossForecast> forecast = ForecastFinalLoss(evals, final_step, options);
  if (!forecast.ok()) return std::nullopt;
  v1::JobForecast proto;
  proto.set_step(forecast->step);
  proto.set_final_step(forecast->final_step);
  proto.set_loss(forecast->loss);
  proto.set_lower(forecast->interval.lower);
  proto.set_upper(forecast->interval.upper);
  proto.set_confidence(options.confidence);
  proto.set_evals(forecast->points);
  return proto;
}

}  // namespace lorad::server
