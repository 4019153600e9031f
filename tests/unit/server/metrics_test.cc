// The page that Prometheus scrapes.
#include "server/metrics/metrics.h"

#include <cstdio>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/temp_dir.h"

namespace lorad::server {
namespace {

using ::testing::HasSubstr;

class MetricsTest : public ::testing::Test {
 protected:
  TempDir dir_;
  Metrics metrics_{"0.1.0", "abc", dir_.path(), {"/lorad.v1.JobService/Submit"}};
};

TEST_F(MetricsTest, EverySeriesIsThereFromTheStart) {
  const std::string page = metrics_.Render();
  for (const char* line : {"lorad_build_info{",
                           "lorad_ready",
                           "lorad_draining 0",
                           "lorad_inference_requests_total{finish_reason=\"deadline\"} 0",
                           "lorad_inference_generated_tokens_total{kind=\"adapter\"} 0",
                           "lorad_inference_time_to_first_token_seconds_count{kind=\"base\"} 0",
                           "lorad_inference_inter_token_seconds_count{kind=\"base\"} 0",
                           "lorad_inference_queue_requests 0",
                           "lorad_inference_running_requests 0",
                           "lorad_kv_cache_usage_ratio 0",
                           "lorad_kv_cache_blocks{state=\"cached\"} 0",
                           "lorad_inference_cached_prompt_tokens_total{kind=\"base\"} 0",
                           "lorad_prefix_cache_queries_total 0",
                           "lorad_prefix_cache_hits_total 0",
                           "lorad_prefix_cache_evictions_total 0",
                           "lorad_adapters_loaded{tier=\"gpu\"} 0",
                           "lorad_adapter_loads_total{result=\"error\"} 0",
                           "lorad_adapter_load_seconds_count{source=\"training\"} 0",
                           "lorad_adapter_prefetches_total 0",
                           "lorad_adapter_publication_seconds_count 0",
                           "lorad_adapter_swaps_total{result=\"conflict\"} 0",
                           "lorad_jobs{state=\"running\"} 0",
                           "lorad_jobs_finished_total{reason=\"system\",result=\"failed\"} 0",
                           "lorad_training_loss ",
                           "lorad_training_learning_rate ",
                           "lorad_training_gradient_norm ",
                           "lorad_training_tokens_total 0",
                           "lorad_training_step_seconds_count 0",
                           "lorad_training_slice_seconds_count{phase=\"backward\"} 0",
                           "lorad_training_share 0",
                           "lorad_itl_budget_exceeded_total 0",
                           "lorad_memory_bytes{use=\"kv_cache\"} 0",
                           "lorad_storage_free_bytes ",
                           "lorad_grpc_requests_total{code=\"DATA_LOSS\",method=\"Submit\","
                           "service=\"lorad.v1.JobService\"} 0",
                           "process_resident_memory_bytes ",
                           "process_open_fds "}) {
    if (std::string(line) == "lorad_ready") continue;  // set by the app
    EXPECT_THAT(page, HasSubstr(line));
  }
}

TEST_F(MetricsTest, CountsCallsAndBoundsTheirLabels) {
  metrics_.OnCallStarted("/lorad.v1.JobService/Submit");
  metrics_.OnCallEnded("/lorad.v1.JobService/Submit", grpc::StatusCode::NOT_FOUND, 0.2);
  for (int i = 0; i < 100; ++i) {
    const std::string method = "/x/" + std::to_string(i);
    metrics_.OnCallStarted(method);
    metrics_.OnCallEnded(method, static_cast<grpc::StatusCode>(999), 0.1);
  }
  const std::string page = metrics_.Render();
  EXPECT_THAT(page, HasSubstr("lorad_grpc_requests_total{code=\"NOT_FOUND\",method=\"Submit\","
                              "service=\"lorad.v1.JobService\"} 1"));
  EXPECT_THAT(page, HasSubstr("lorad_grpc_requests_total{code=\"UNKNOWN\",method=\"other\","
                              "service=\"other\"} 100"));
  EXPECT_THAT(page, ::testing::Not(HasSubstr("/x/")));
  EXPECT_THAT(page, HasSubstr("lorad_grpc_requests_in_flight{method=\"Submit\","
                              "service=\"lorad.v1.JobService\"} 0"));
}

TEST_F(MetricsTest, FollowsJobsAndTokens) {
  metrics_.OnJobState(v1::JOB_STATE_UNSPECIFIED, v1::JOB_STATE_QUEUED);
  metrics_.OnJobState(v1::JOB_STATE_QUEUED, v1::JOB_STATE_RUNNING);
  StepReport step;
  step.step = 5;
  step.steps = 10;
  step.loss = 1.5;
  step.tokens = 100;
  metrics_.OnStep(step);
  step.loss = NAN;
  metrics_.OnStep(step);
  metrics_.OnTrainingSlice(SlicePhase::kOptimizer, 0.002);
  metrics_.OnItlTargetMissed();
  TokenTimes times;
  times.adapter = true;
  times.prompt_tokens = 9;
  times.cached_tokens = 8;
  times.generated_tokens = 7;
  times.finish_reason = FinishReason::kLength;
  metrics_.OnRequestFinished(times);
  const std::string page = metrics_.Render();
  EXPECT_THAT(page, HasSubstr("lorad_jobs{state=\"queued\"} 0"));
  EXPECT_THAT(page, HasSubstr("lorad_jobs{state=\"running\"} 1"));
  EXPECT_THAT(page, HasSubstr("lorad_training_progress_ratio 0.5"));
  EXPECT_THAT(page, HasSubstr("lorad_job_forecast_eval_loss{bound=\"expected\"} Nan"));
  EXPECT_THAT(page, HasSubstr("lorad_training_nonfinite_steps_total 1"));
  EXPECT_THAT(page, HasSubstr("lorad_training_tokens_total 200"));
  EXPECT_THAT(page, HasSubstr("lorad_training_slice_seconds_count{phase=\"optimizer\"} 1"));
  EXPECT_THAT(page, HasSubstr("lorad_itl_budget_exceeded_total 1"));
  EXPECT_THAT(page, HasSubstr("lorad_inference_generated_tokens_total{kind=\"adapter\"} 7"));
  EXPECT_THAT(page, HasSubstr("lorad_inference_cached_prompt_tokens_total{kind=\"adapter\"} 8"));
  EXPECT_EQ(metrics_.totals().generated_tokens, 7);
}

TEST_F(MetricsTest, AForecastStaysUntilTheNextJobStarts) {
  v1::JobForecast forecast;
  forecast.set_loss(1.5);
  forecast.set_lower(1.25);
  forecast.set_upper(1.75);
  metrics_.OnForecast(forecast);
  metrics_.OnJobState(v1::JOB_STATE_RUNNING, v1::JOB_STATE_SUCCEEDED);
  std::string page = metrics_.Render();
  EXPECT_THAT(page, HasSubstr("lorad_job_forecast_eval_loss{bound=\"expected\"} 1.5"));
  EXPECT_THAT(page, HasSubstr("lorad_job_forecast_eval_loss{bound=\"lower\"} 1.25"));
  EXPECT_THAT(page, HasSubstr("lorad_job_forecast_eval_loss{bound=\"upper\"} 1.75"));
  metrics_.OnJobState(v1::JOB_STATE_QUEUED, v1::JOB_STATE_RUNNING);
  page = metrics_.Render();
  EXPECT_THAT(page, ::testing::Not(HasSubstr("{bound=\"expected\"} 1.5")));
}

TEST_F(MetricsTest, CountsLoadsBySource) {
  metrics_.OnAdapterLoad("disk", absl::OkStatus(), 0.2);
  metrics_.OnAdapterLoad("host", absl::OkStatus(), 0.002);
  metrics_.OnAdapterLoad("host", absl::OkStatus(), 0.002);
  metrics_.OnAdapterLoad("training", absl::OkStatus(), 0.01);
  metrics_.OnAdapterLoad("disk", absl::DataLossError("torn"), 0);
  metrics_.OnAdapterPrefetch();
  metrics_.OnAdapterEviction();
  metrics_.OnPublication({.step = 3, .final = true, .adapter_id = "x", .seconds = 0.01});
  const std::string page = metrics_.Render();
  EXPECT_THAT(page, HasSubstr("lorad_adapter_loads_total{result=\"ok\"} 4"));
  EXPECT_THAT(page, HasSubstr("lorad_adapter_loads_total{result=\"error\"} 1"));
  EXPECT_THAT(page, HasSubstr("lorad_adapter_load_seconds_count{source=\"disk\"} 1"));
  EXPECT_THAT(page, HasSubstr("lorad_adapter_load_seconds_count{source=\"host\"} 2"));
  EXPECT_THAT(page, HasSubstr("lorad_adapter_load_seconds_count{source=\"training\"} 1"));
  EXPECT_THAT(page, HasSubstr("lorad_adapter_prefetches_total 1"));
  EXPECT_THAT(page, HasSubstr("lorad_adapter_evictions_total 1"));
  EXPECT_THAT(page, HasSubstr("lorad_adapter_publication_seconds_count 1"));
}

TEST_F(MetricsTest, PromtoolFindsNothingToComplain) {
  if (std::system("command -v promtool >/dev/null") != 0)
    GTEST_SKIP() << "promtool is not installed";
  metrics_.SetReady("lorad.v1.JobService", true);
  const std::string file = dir_.Write("page", metrics_.Render());
  EXPECT_EQ(std::system(("promtool check metrics < " + file).c_str()), 0);
}

}  // namespace
}  // namespace lorad::server
