// Loads: what is drawn, how it is sent, and what the records say.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <map>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/bench/load_driver.h"
#include "tests/bench/load_options.h"
#include "tests/bench/load_report.h"
#include "tests/bench/load_requests.h"
#include "tests/bench/training_progress.h"
#include "tests/support/status_matchers.h"

namespace lorad::bench {
namespace {

using testing::DoubleNear;
using testing::HasSubstr;

LoadPlan Plan(const LoadOptions& options, int64_t adapters = 0, uint64_t seed = 1) {
  absl::StatusOr<LoadPlan> plan = MakeLoadPlan(options, adapters, seed);
  EXPECT_OK(plan);
  return *std::move(plan);
}

std::vector<PlannedRequest> Draw(const LoadPlan& plan) {
  RequestSource source(plan);
  std::vector<PlannedRequest> requests;
  while (const auto next = source.Next()) requests.push_back(*next);
  return requests;
}

TEST(LoadPlanTest, OneRateLastsForTheDuration) {
  const LoadPlan plan = Plan({.rate = "2.5", .duration = 8, .prompt_tokens = "3-9"});
  ASSERT_EQ(plan.phases.size(), 1u);
  EXPECT_EQ(plan.phases[0].rate, 2.5);
  EXPECT_EQ(plan.seconds(), 8);
  EXPECT_EQ(plan.prompt.min, 3);
  EXPECT_EQ(plan.prompt.max, 9);
}

TEST(LoadPlanTest, ScheduleOfRates) {
  const LoadPlan plan = Plan({.rate = "1:5s,20:10s,0:2.5", .choice = "zipf:1.5"});
  ASSERT_EQ(plan.phases.size(), 3u);
  EXPECT_EQ(plan.phases[1].rate, 20);
  EXPECT_EQ(plan.phases[1].seconds, 10);
  EXPECT_EQ(plan.seconds(), 17.5);
  EXPECT_EQ(plan.zipf, 1.5);
}

TEST(LoadPlanTest, RefusesWhatItDoesNotUnderstandByName) {
  const std::pair<const char*, LoadOptions> wrong[] = {
      {"--rate=0", {.rate = "0"}},
      {"--rate=-1", {.rate = "-1"}},
      {"--rate=1:5s,", {.rate = "1:5s,"}},
      {"--rate=1:0s", {.rate = "1:0s"}},
      {"--rate=1:2:3", {.rate = "1:2:3"}},
      {"--rate=inf", {.rate = "inf"}},
      {"--duration=0", {.duration = 0}},
      {"--streams=-1", {.streams = -1}},
      {"--warmup=30", {.duration = 30, .warmup = 30}},
      {"--prompt_tokens=0", {.prompt_tokens = "0"}},
      {"--prompt_tokens=9-3", {.prompt_tokens = "9-3"}},
      {"--output_tokens=x", {.output_tokens = "x"}},
      {"--choice=zipf", {.choice = "zipf"}},
      {"--choice=zipf:0", {.choice = "zipf:0"}},
      {"--itl_target_ms=-1", {.itl_target_ms = -1}},
  };
  for (const auto& [name, options] : wrong) {
    const absl::Status status = MakeLoadPlan(options, 0, 0).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  }
}

TEST(RequestSourceTest, PoissonArrivalsAtEachPhasesRate) {
  const std::vector<PlannedRequest> requests = Draw(Plan({.rate = "10:200s,0:50s,40:100s"}));
  std::map<int, double> counts;
  double last = 0;
  for (const PlannedRequest& request : requests) {
    EXPECT_GE(request.at, last);
    last = request.at;
    ++counts[request.at < 200 ? 0 : request.at < 250 ? 1 : 2];
  }
  EXPECT_LT(last, 350);
  // Counts are Poisson: mean and variance are rate times seconds; five deviations.
  EXPECT_THAT(counts[0], DoubleNear(2000, 5 * std::sqrt(2000)));
  EXPECT_EQ(counts[1], 0);
  EXPECT_THAT(counts[2], DoubleNear(4000, 5 * std::sqrt(4000)));
  // Gaps are exponential: a share of 1 - 1/e is shorter than their mean. Variance p (1 - p) / n.
  double shorter = 0;
  for (size_t i = 1; requests[i].at < 200; ++i)
    shorter += requests[i].at - requests[i - 1].at < 0.1;
  const double p = 1 - std::exp(-1.0);
  EXPECT_THAT(shorter / counts[0], DoubleNear(p, 5 * std::sqrt(p * (1 - p) / counts[0])));
}

TEST(RequestSourceTest, SamePlanSameRequests) {
  const LoadPlan plan = Plan({.rate = "5", .prompt_tokens = "1-100", .choice = "zipf:1"}, 10);
  const std::vector<PlannedRequest> one = Draw(plan), two = Draw(plan);
  ASSERT_EQ(one.size(), two.size());
  ASSERT_GT(one.size(), 50u);
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_EQ(one[i].at, two[i].at);
    EXPECT_EQ(one[i].adapter, two[i].adapter);
    EXPECT_EQ(PromptIds(one[i], 512), PromptIds(two[i], 512));
    if (i > 0) {
      EXPECT_NE(one[i].prompt_seed, one[i - 1].prompt_seed);
    }
  }
}

TEST(RequestSourceTest, AdaptersByUniformAndZipfChoice) {
  constexpr int kDraws = 20000;
  for (const char* choice : {"uniform", "zipf:1"}) {
    RequestSource source(Plan({.streams = 1, .choice = choice}, 4));
    std::vector<double> counts(4);
    for (int i = 0; i < kDraws; ++i) ++counts.at(source.Next()->adapter);
    for (int k = 0; k < 4; ++k) {
      // 1 + 1/2 + 1/3 + 1/4 = 25/12.
      const double p = choice[0] == 'u' ? 0.25 : 12.0 / 25 / (k + 1);
      EXPECT_THAT(counts[k] / kDraws, DoubleNear(p, 5 * std::sqrt(p * (1 - p) / kDraws)))
          << choice << " " << k;
    }
  }
}

TEST(RequestSourceTest, WithoutAdaptersTheBaseModelAnswers) {
  RequestSource source(Plan({.streams = 1, .prompt_tokens = "2-4", .output_tokens = "7"}));
  std::map<int64_t, int> lengths;
  for (int i = 0; i < 100; ++i) {
    const PlannedRequest request = *source.Next();
    EXPECT_EQ(request.adapter, -1);
    EXPECT_EQ(request.output_tokens, 7);
    ++lengths[request.prompt_tokens];
    for (const int32_t id : PromptIds(request, 5)) EXPECT_TRUE(id >= 0 && id < 5);
  }
  EXPECT_EQ(lengths.size(), 3u);
  EXPECT_EQ(lengths.begin()->first, 2);
  EXPECT_EQ(lengths.rbegin()->first, 4);
}

// Answers each request on a thread of its own; every fifth is refused, every seventh fails.
class FakeClient final : public LoadClient {
 public:
  ~FakeClient() override {
    for (std::thread& thread : threads_) thread.join();
  }
  absl::Status Start(const PlannedRequest& request, RequestListener* listener) override {
    const int64_t number = ++started_;
    if (refuses && number % 5 == 0) return absl::ResourceExhaustedError("the queue is full");
    threads_.emplace_back([this, number, request, listener] {
      most_ = std::max<int64_t>(most_, ++running_);
      for (int64_t i = 0; i < request.output_tokens && !(hangs && i > 0); ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        listener->OnTokens(1);
      }
      while (hangs && !cancelled_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      --running_;
      listener->OnEnd(hangs                        ? absl::CancelledError("")
                      : refuses && number % 7 == 0 ? absl::InternalError("broken")
                                                   : absl::OkStatus());
    });
    return absl::OkStatus();
  }
  void CancelAll() override { cancelled_ = true; }
  int64_t most() const { return most_; }

  bool refuses = false, hangs = false;

 private:
  int64_t started_ = 0;
  std::atomic<int64_t> running_{0}, most_{0};
  std::atomic<bool> cancelled_{false};
  std::vector<std::thread> threads_;
};

int64_t Sum(const Json& requests) {
  return requests["completed"].get<int64_t>() + requests["refused"].get<int64_t>() +
         requests["failed"].get<int64_t>() + requests["unfinished"].get<int64_t>();
}

TEST(RunLoadTest, SendsArrivalsWhenTheyAreDue) {
  const LoadPlan plan = Plan({.rate = "100", .duration = 0.5, .output_tokens = "3"});
  FakeClient client;
  client.refuses = true;
  const LoadResult result = RunLoad(plan, client);
  const std::vector<PlannedRequest> drawn = Draw(plan);
  ASSERT_EQ(result.records.size(), drawn.size());
  for (size_t i = 0; i < drawn.size(); ++i) {
    const RequestRecord& record = result.records[i];
    EXPECT_EQ(record.request.at, drawn[i].at);
    EXPECT_GE(record.end, drawn[i].at);
    const int64_t number = static_cast<int64_t>(i) + 1;
    const RequestOutcome expected = number % 5 == 0   ? RequestOutcome::kRefused
                                    : number % 7 == 0 ? RequestOutcome::kFailed
                                                      : RequestOutcome::kCompleted;
    EXPECT_EQ(record.outcome, expected) << number;
    EXPECT_EQ(record.tokens.size(), number % 5 == 0 ? 0u : 3u);
    EXPECT_TRUE(std::is_sorted(record.tokens.begin(), record.tokens.end()));
  }
  const Json json = LoadJson(plan, result.records);
  EXPECT_EQ(json["requests"]["offered"], drawn.size());
  EXPECT_EQ(Sum(json["requests"]), static_cast<int64_t>(drawn.size()));
  EXPECT_THAT(json["requests"]["first_failed"].get<std::string>(), HasSubstr("broken"));
  EXPECT_THAT(json["requests"]["first_refused"].get<std::string>(), HasSubstr("full"));
}

TEST(RunLoadTest, StreamsKeepTheirNumberAndEndWithTheDuration) {
  const LoadPlan plan = Plan({.duration = 0.3, .streams = 3, .output_tokens = "2"});
  FakeClient client;
  const LoadResult result = RunLoad(plan, client);
  EXPECT_EQ(client.most(), 3);
  EXPECT_GT(result.records.size(), 6u);
  for (const RequestRecord& record : result.records) EXPECT_LT(record.request.at, 0.3);
}

TEST(RunLoadTest, CancelsWhatRunsTooLongAfterTheLastArrival) {
  FakeClient client;
  client.hangs = true;
  const LoadPlan plan = Plan({.rate = "50", .duration = 0.2, .drain_timeout = 0.05});
  const LoadResult result = RunLoad(plan, client);
  ASSERT_FALSE(result.records.empty());
  for (const RequestRecord& record : result.records)
    EXPECT_EQ(record.outcome, RequestOutcome::kUnfinished);
}

RequestRecord Record(double at, std::vector<double> tokens, RequestOutcome outcome) {
  RequestRecord record;
  record.request.at = at;
  record.end = tokens.empty() ? at : tokens.back();
  record.tokens = std::move(tokens);
  record.outcome = outcome;
  return record;
}

TEST(LoadReportTest, CountsRequestsByWhenTheyWereDueAndTokensByWhenTheyCame) {
  const std::vector<RequestRecord> records = {
      Record(0.5, {0.9, 1.125, 1.375}, RequestOutcome::kCompleted),  // due in the warm-up
      Record(1, {1.25, 1.5, 3.5}, RequestOutcome::kCompleted),
      Record(2, {2.5}, RequestOutcome::kUnfinished),
      Record(2.5, {}, RequestOutcome::kRefused),
  };
  const Json json = WindowJson(records, 1, 3, 250);
  EXPECT_EQ(json["requests"]["offered"], 3);
  EXPECT_EQ(json["requests"]["completed"], 1);
  EXPECT_EQ(Sum(json["requests"]), 3);
  EXPECT_EQ(json["completed_tokens"], 3);
  EXPECT_EQ(json["tokens"], 5);  // 1.125, 1.375, 1.25, 1.5, 2.5
  EXPECT_EQ(json["tokens_per_s"], 2.5);
  EXPECT_EQ(json["ttft_ms"]["count"], 2);
  EXPECT_EQ(json["ttft_ms"]["mean"], 375);
  EXPECT_EQ(json["e2e_ms"]["p50"], 2500);
  EXPECT_EQ(json["itl_ms"]["count"], 3);  // 225, 250 and 250
  EXPECT_EQ(json["itl_ms"]["p50"], 250);
  EXPECT_EQ(json["within_itl_target"], 1);
  EXPECT_THAT(WindowJson(records, 1, 3, 240)["within_itl_target"].get<double>(),
              DoubleNear(1.0 / 3, 1e-12));
  EXPECT_TRUE(WindowJson(records, 1, 3, 0)["within_itl_target"].is_null());
  EXPECT_TRUE(WindowJson(records, 10, 11, 0)["ttft_ms"].is_null());
}

TEST(LoadReportTest, PhasesAddUpToTheWhole) {
  const LoadPlan plan = Plan({.rate = "1:1s,2:2s"});
  const std::vector<RequestRecord> records = {
      Record(0.5, {0.9, 1.5}, RequestOutcome::kCompleted),
      Record(1.5, {2, 2.5, 3.5}, RequestOutcome::kCompleted)};
  const Json json = LoadJson(plan, records);
  ASSERT_EQ(json["phases"].size(), 2u);
  EXPECT_EQ(json["tokens"], 4);
  EXPECT_EQ(json["phases"][0]["tokens"], 1);
  EXPECT_EQ(json["phases"][1]["tokens"], 3);
  EXPECT_EQ(json["phases"][1]["rate"], 2);
}

Clock::time_point At(double seconds) {
  return Clock::time_point() +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

TEST(TrainingProgressTest, RatesBetweenAndBeyondTheMarks) {
  const TrainingProgress progress({{At(1), 100}, {At(2), 200}, {At(4), 300}});
  EXPECT_NEAR(progress.Rate(At(1), At(4)), 200.0 / 3, 1e-6);
  EXPECT_NEAR(progress.Rate(At(1.5), At(2)), 100, 1e-6);
  EXPECT_NEAR(progress.Rate(At(1.5), At(3)), 100 / 1.5, 1e-6);
  EXPECT_NEAR(progress.Rate(At(3), At(5)), 25, 1e-6);  // nothing after the last mark
  EXPECT_NEAR(progress.Rate(At(0), At(1)), 0, 1e-6);
}

TEST(TrainingProgressTest, RecoveryIsTheTimeFromTheDropToTheRateBefore) {
  // Steps of 10 tokens: every 0.1 s in the first second, every 0.5 s until 3.5, then as before.
  std::vector<TrainingProgress::Mark> marks;
  int64_t tokens = 0;
  for (double at = 0; at < 8.05; at += at < 0.95 || at > 3.45 ? 0.1 : 0.5)
    marks.push_back({At(at), tokens += 10});
  const TrainingProgress progress(std::move(marks));
  const Json json = TrainingJson(100, progress, Plan({.rate = "1:1s,20:2s,1:4s"}), At(0));
  EXPECT_NEAR(json["phases"][0].get<double>(), 100, 1e-6);
  EXPECT_NEAR(json["phases"][1].get<double>(), 20, 1e-6);
  // From t on, the second's mean is 20 (3.5 - t) + 100 (t - 2.5) = 95 at 3.4375: 0.4375 after the
  // drop at 3, found in steps of 0.01.
  EXPECT_NEAR(json["recovery_s"].get<double>(), 0.44, 0.0101);
  EXPECT_FALSE(
      TrainingJson(100, progress, Plan({.rate = "1:1s,20:2s"}), At(0)).contains("recovery_s"));
}

TEST(TrainingProgressTest, NeverRecovered) {
  const TrainingProgress progress({{At(0), 0}, {At(1), 100}, {At(5), 200}});
  const Json json = TrainingJson(100, progress, Plan({.rate = "1:1s,20:2s,1:2s"}), At(0));
  EXPECT_TRUE(json["recovery_s"].is_null());
}

}  // namespace
}  // namespace lorad::bench
