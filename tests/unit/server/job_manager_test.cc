// The state machine of jobs, over the fake engine and a real store.
#include "server/jobs/job_manager.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "engine/io/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/proto_time.h"
#include "server/datasets/dataset_upload.h"
#include "server/jobs/job_forecast.h"
#include "server/store/keys.h"
#include "server/store/sqlite_store.h"
#include "tests/support/fake_engine.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace lorad::server {
namespace {

using ::testing::ElementsAre;

constexpr char kData[] = "{\"prompt\": \"a\", \"completion\": \"b\"}\n";

class JobManagerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(dir_.File("uploads"));
    std::filesystem::create_directories(dir_.File("jobs"));
    Open();
    v1::UploadDatasetMetadata metadata;
    metadata.set_name("train");
    metadata.set_size_bytes(sizeof(kData) - 1);
    metadata.set_sha256(Sha256Hex(kData));
    ASSERT_OK_AND_ASSIGN(const auto upload, datasets_->Begin(metadata));
    v1::DatasetChunk chunk;
    chunk.set_data(kData);
    ASSERT_OK(upload->Append(chunk));
    ASSERT_OK(upload->Commit());
  }
  void TearDown() override {
    script_->hold_training = false;
    script_->hold_output = false;
  }

  // Opens what is stored, without starting to run jobs.
  void Open() {
    jobs_.reset();
    adapters_.reset();
    datasets_.reset();
    engine_.reset();
    store_.reset();
    ASSERT_OK_AND_ASSIGN(store_, SqliteStore::Open(dir_.File("state.db")));
    ASSERT_OK_AND_ASSIGN(blobs_, LocalBlobStore::Open(dir_.File("blobs")));
    engine_ = std::make_unique<FakeEngine>(EngineConfig{}, script_);
    ASSERT_OK_AND_ASSIGN(adapters_,
                         AdapterRegistry::Open(store_.get(), blobs_.get(), engine_.get(), nullptr));
    datasets_ =
        std::make_unique<DatasetRegistry>(store_.get(), blobs_.get(), engine_.get(),
                                          DatasetOptions{.uploads_dir = dir_.File("uploads")});
    ASSERT_OK_AND_ASSIGN(
        jobs_, JobManager::Create(store_.get(), adapters_.get(), datasets_.get(), engine_.get(),
                                  {.state_dir = dir_.path(),
                                   .jobs_dir = dir_.File("jobs"),
                                   .max_queued = 3,
                                   .max_attempts = 2}));
  }

  static v1::SubmitJobRequest Request(const std::string& name = "sql") {
    v1::SubmitJobRequest request;
    request.mutable_spec()->set_name(name);
    request.mutable_spec()->set_train_dataset("train");
    return request;
  }
  std::string Submit(const v1::SubmitJobRequest& request) {
    const auto job = jobs_->Submit(request);
    EXPECT_OK(job);
    return job.ok() ? job->job_id() : "";
  }
  // Whether `condition` comes true, however slowly the disk takes what is written meanwhile.
  template <typename Condition>
  static bool Eventually(const Condition& condition) {
    const absl::Time end = absl::Now() + absl::Seconds(60);
    while (!condition()) {
      if (absl::Now() > end) return false;
      absl::SleepFor(absl::Milliseconds(1));
    }
    return true;
  }
  v1::Job Await(const std::string& job_id, v1::JobState state) {
    v1::Job job;
    EXPECT_TRUE(Eventually([&] {
      job = jobs_->Get(job_id).value();
      return job.state() == state || IsFinal(job.state());
    }));
    EXPECT_EQ(job.state(), state) << job.ShortDebugString();
    return job;
  }
  // Waits until the running job has done `step`.
  void AwaitStep(const std::string& job_id, int64_t step) {
    EXPECT_TRUE(Eventually([&] { return jobs_->Get(job_id)->last_step().step() >= step; }));
  }
  JobEvents Events(const std::string& job_id) {
    return ReadEvents(*store_, job_id, 0, 10'000).value();
  }
  std::vector<std::string> StateChanges(const std::string& job_id) {
    std::vector<std::string> changes;
    int64_t seq = 0;
    for (const v1::JobEvent& event : Events(job_id)) {
      EXPECT_EQ(event.seq(), ++seq) << "events are numbered without gaps";
      if (event.has_state_change()) {
        changes.push_back(v1::JobState_Name(event.state_change().to()).substr(10));
      }
    }
    return changes;
  }
  // Makes the stored job look as a kill -9 in its run leaves it.
  void StoreAsRunning(const std::string& job_id, int attempts, bool cancel_requested = false) {
    v1::Job job = ReadJob(*store_, job_id).value();
    job.set_state(v1::JOB_STATE_RUNNING);
    job.set_attempts(attempts);
    job.set_cancel_requested(cancel_requested);
    ASSERT_OK(store_->Txn({}, {Op::Put(JobKey(JobNumber(job_id)), job.SerializeAsString())}));
  }

  TempDir dir_;
  std::shared_ptr<FakeScript> script_ = std::make_shared<FakeScript>();
  std::unique_ptr<SqliteStore> store_;
  std::unique_ptr<LocalBlobStore> blobs_;
  std::unique_ptr<FakeEngine> engine_;
  std::unique_ptr<AdapterRegistry> adapters_;
  std::unique_ptr<DatasetRegistry> datasets_;
  std::unique_ptr<JobManager> jobs_;
};

TEST_F(JobManagerTest, RunsAJobAndPublishesItsAdapter) {
  jobs_->Start();
  const std::string id = Submit(Request());
  const v1::Job job = Await(id, v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(job.attempts(), 1);
  EXPECT_EQ(job.last_step().step(), 10);
  EXPECT_EQ(job.result().steps(), 10);
  EXPECT_EQ(adapters_->Resolve("sql")->ref, job.result().adapter());
  EXPECT_EQ(adapters_->Resolve("sql")->id, job.result().sha256());
  EXPECT_EQ(adapters_->Get("sql")->job_id(), id);
  EXPECT_THAT(StateChanges(id), ElementsAre("VALIDATING", "QUEUED", "RUNNING", "SUCCEEDED"));
  EXPECT_GT(job.end_time().seconds(), 0);
  jobs_->Stop();
  EXPECT_FALSE(std::filesystem::exists(dir_.File("jobs/" + id))) << "nothing is left behind";
}

TEST_F(JobManagerTest, EventsTellTheWholeStory) {
  jobs_->Start();
  v1::SubmitJobRequest request = Request();
  request.mutable_spec()->mutable_training()->set_save_steps(4);
  request.mutable_spec()->set_eval_dataset("train");
  request.mutable_spec()->mutable_training()->set_eval_steps(5);
  const std::string id = Submit(request);
  Await(id, v1::JOB_STATE_SUCCEEDED);
  std::vector<int> kinds;
  for (const v1::JobEvent& event : Events(id)) {
    if (event.event_case() != v1::JobEvent::kStep) kinds.push_back(event.event_case());
  }
  using E = v1::JobEvent;
  EXPECT_THAT(kinds, ElementsAre(E::kStateChange, E::kDatasetReport, E::kStateChange,
                                 E::kStateChange, E::kStart, E::kCheckpoint, E::kEval,
                                 E::kCheckpoint, E::kEval, E::kAdapterPublished, E::kStateChange));
  int64_t position = 0;
  ASSERT_OK_AND_ASSIGN(const auto checkpoints, jobs_->ListCheckpoints(id, 10, position));
  ASSERT_EQ(checkpoints.size(), 2u);
  EXPECT_EQ(checkpoints[0].step(), 8) << "newest first";
  EXPECT_EQ(checkpoints[0].path(), "jobs/" + id + "/checkpoints/step-8");
  EXPECT_FALSE(checkpoints[0].stored()) << "the job has ended";
}

// The fake's eval loss is 2.5 / step. Its 10 steps end sooner than a fit: they are slowed down.
TEST_F(JobManagerTest, ForecastsTheFinalEvalLoss) {
  jobs_->Start();
  script_->step_delay_us = 200'000;
  v1::SubmitJobRequest request = Request();
  request.mutable_spec()->set_eval_dataset("train");
  request.mutable_spec()->mutable_training()->set_eval_steps(1);
  const std::string id = Submit(request);
  const v1::Job job = Await(id, v1::JOB_STATE_SUCCEEDED);
  int64_t evaluated = 0;
  std::vector<v1::JobForecast> forecasts;
  for (const v1::JobEvent& event : Events(id)) {
    if (event.has_eval()) evaluated = event.eval().step();
    if (!event.has_forecast()) continue;
    forecasts.push_back(event.forecast());
    EXPECT_LE(event.forecast().step(), evaluated) << "after its evaluation";
  }
  ASSERT_FALSE(forecasts.empty());
  EXPECT_GE(forecasts.front().step(), 5) << "from the fifth evaluation on";
  EXPECT_LT(forecasts.back().step(), 10) << "not after the last step";
  for (const v1::JobForecast& forecast : forecasts) {
    EXPECT_EQ(forecast.final_step(), 10);
    EXPECT_EQ(forecast.evals(), forecast.step());
    EXPECT_NEAR(forecast.loss(), 0.25, 0.01);
    EXPECT_LE(forecast.lower(), forecast.loss());
    EXPECT_GE(forecast.upper(), forecast.loss());
    EXPECT_EQ(forecast.confidence(), 0.95);
  }
  EXPECT_EQ(job.forecast().step(), forecasts.back().step());
}

TEST_F(JobManagerTest, ARunAfterARestartGoesOnWithTheCurve) {
  jobs_->Start();
  v1::SubmitJobRequest request = Request();
  request.mutable_spec()->set_eval_dataset("train");
  request.mutable_spec()->mutable_training()->set_eval_steps(2);
  const std::string id = Submit(request);
  Await(id, v1::JOB_STATE_SUCCEEDED);
  ASSERT_OK_AND_ASSIGN(const std::vector<CurvePoint> evals, StoredEvals(*store_, id));
  ASSERT_EQ(evals.size(), 5u);
  EXPECT_EQ(evals[4].step, 10);
  EXPECT_EQ(evals[4].loss, 0.25);
  EXPECT_FALSE(ForecastJob(evals, 10).has_value()) << "the last step is done";
  ASSERT_TRUE(ForecastJob(evals, 20).has_value());
  EXPECT_NEAR(ForecastJob(evals, 20)->loss(), 0.125, 0.005);
  EXPECT_FALSE(ForecastJob({evals.begin(), evals.begin() + 4}, 20).has_value()) << "too few";
}

TEST_F(JobManagerTest, ARequestIdSubmitsOnce) {
  v1::SubmitJobRequest request = Request();
  request.set_request_id("r1");
  const std::string id = Submit(request);
  EXPECT_EQ(Submit(request), id);
  Open();
  EXPECT_EQ(Submit(request), id) << "also after a restart";
  request.mutable_spec()->mutable_training()->set_seed(1);
  EXPECT_THAT(jobs_->Submit(request), StatusIs(absl::StatusCode::kAlreadyExists, id));
  request.set_request_id("");
  EXPECT_NE(Submit(request), id);
}

TEST_F(JobManagerTest, ConcurrentRetriesSubmitOnce) {
  v1::SubmitJobRequest request = Request();
  request.set_request_id("r1");
  std::vector<std::string> ids(8);
  std::vector<std::thread> threads;
  for (std::string& id : ids) threads.emplace_back([&] { id = Submit(request); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(ids, ::testing::Each(ids[0]));
  EXPECT_EQ(jobs_->QueuedJobs(), 1);
}

TEST_F(JobManagerTest, ValidateOnlyPlansAndStoresNothing) {
  v1::SubmitJobRequest request = Request();
  request.set_validate_only(true);
  ASSERT_OK_AND_ASSIGN(const v1::Job job, jobs_->Submit(request));
  EXPECT_EQ(job.job_id(), "");
  EXPECT_EQ(job.plan().steps(), 10);
  EXPECT_EQ(job.spec().training().r(), 16) << "defaults are filled in";
  int64_t position = 0;
  EXPECT_TRUE(jobs_->List({}, 10, position)->empty());
}

TEST_F(JobManagerTest, BadJobsAreRefusedByWhatIsWrong) {
  v1::SubmitJobRequest request = Request("bad name");
  EXPECT_THAT(jobs_->Submit(request), StatusIs(absl::StatusCode::kInvalidArgument, "spec.name"));
  request = Request();
  request.mutable_spec()->set_train_dataset("none");
  EXPECT_THAT(jobs_->Submit(request), StatusIs(absl::StatusCode::kNotFound, "none"));
  request = Request();
  request.mutable_spec()->mutable_training()->set_r(0);
  EXPECT_THAT(jobs_->Submit(request),
              StatusIs(absl::StatusCode::kInvalidArgument, "spec.training.r: 0"));
  request = Request();
  request.mutable_spec()->mutable_training()->add_target_modules("no_such_proj");
  EXPECT_THAT(jobs_->Submit(request),
              StatusIs(absl::StatusCode::kInvalidArgument, "no_such_proj is unknown"));
  request = Request();
  request.mutable_spec()->mutable_training()->set_warm_start("none");
  EXPECT_THAT(jobs_->Submit(request), StatusIs(absl::StatusCode::kNotFound, "none"));
  EXPECT_EQ(jobs_->QueuedJobs(), 0);
}

TEST_F(JobManagerTest, TheQueueIsBoundedAndInOrder) {
  const std::string first = Submit(Request());
  const std::string second = Submit(Request());
  const std::string third = Submit(Request());
  EXPECT_EQ(jobs_->Get(second)->queue_position(), 2);
  EXPECT_THAT(jobs_->Submit(Request()),
              StatusIs(absl::StatusCode::kResourceExhausted, "at most 3"));
  ASSERT_OK(jobs_->Cancel(first));
  EXPECT_EQ(jobs_->Get(second)->queue_position(), 1);
  jobs_->Start();
  const v1::Job last = Await(third, v1::JOB_STATE_SUCCEEDED);
  EXPECT_LE(FromProto(jobs_->Get(second)->end_time()), FromProto(last.start_time()));
}

TEST_F(JobManagerTest, CancelsQueuedAndRunningJobs) {
  script_->hold_training = true;
  jobs_->Start();
  const std::string running = Submit(Request());
  const std::string queued = Submit(Request());
  Await(running, v1::JOB_STATE_RUNNING);
  ASSERT_OK_AND_ASSIGN(v1::Job job, jobs_->Cancel(queued));
  EXPECT_EQ(job.state(), v1::JOB_STATE_CANCELLED);
  ASSERT_OK(jobs_->Cancel(running));
  job = Await(running, v1::JOB_STATE_CANCELLED);
  EXPECT_TRUE(job.cancel_requested());
  EXPECT_FALSE(job.has_error());
  ASSERT_OK_AND_ASSIGN(job, jobs_->Cancel(running));
  EXPECT_EQ(job.state(), v1::JOB_STATE_CANCELLED) << "a finished job stays as it is";
  EXPECT_THAT(jobs_->Cancel("job-99"), StatusIs(absl::StatusCode::kNotFound, "job-99"));
  EXPECT_EQ(adapters_->NumAdapters(), 0);
}

TEST_F(JobManagerTest, AFailureSaysWhoseFaultItIs) {
  script_->fail_at_step = 3;
  jobs_->Start();
  const v1::Job job = Await(Submit(Request()), v1::JOB_STATE_FAILED);
  EXPECT_EQ(job.error().fault(), v1::JOB_FAULT_SYSTEM);
  EXPECT_EQ(job.error().status().code(), static_cast<int>(absl::StatusCode::kInternal));
  EXPECT_EQ(job.error().status().message(), "scripted failure at step 3");
  EXPECT_EQ(job.last_step().step(), 3);
  // The next one runs.
  script_->fail_at_step = 0;
  Await(Submit(Request()), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(JobManagerTest, ADamagedDatasetFailsTheJobBeforeItTrains) {
  const std::string id = Submit(Request());
  ASSERT_OK_AND_ASSIGN(const std::string path, datasets_->PathOf(Sha256Hex(kData)));
  std::ofstream(path) << "{\"prompt\": \"a\", \"completion\": \"x\"}\n";
  jobs_->Start();
  const v1::Job job = Await(id, v1::JOB_STATE_FAILED);
  EXPECT_EQ(job.error().status().code(), static_cast<int>(absl::StatusCode::kDataLoss));
  EXPECT_EQ(job.error().fault(), v1::JOB_FAULT_SYSTEM);
}

TEST_F(JobManagerTest, StoppingCheckpointsAndRequeuesTheRunningJob) {
  jobs_->Start();
  script_->step_delay_us = 2000;
  v1::SubmitJobRequest request = Request();
  request.mutable_spec()->mutable_training()->set_max_steps(200);
  const std::string id = Submit(request);
  AwaitStep(id, 5);
  jobs_->Stop();
  v1::Job job = ReadJob(*store_, id).value();
  EXPECT_EQ(job.state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(job.queued_reason(), v1::QUEUED_REASON_REQUEUED);
  EXPECT_THAT(jobs_->Submit(Request()), StatusIs(absl::StatusCode::kUnavailable, "shutting down"));
  const int64_t stopped_at = job.last_step().step();
  script_->step_delay_us = 0;
  Open();
  jobs_->Start();
  job = Await(id, v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(job.attempts(), 2);
  std::vector<int64_t> resumed;
  for (const v1::JobEvent& event : Events(id)) {
    if (event.has_start()) resumed.push_back(event.start().resumed_from_step());
  }
  EXPECT_THAT(resumed, ElementsAre(0, stopped_at)) << "no step is done twice";
  EXPECT_THAT(StateChanges(id),
              ElementsAre("VALIDATING", "QUEUED", "RUNNING", "QUEUED", "RUNNING", "SUCCEEDED"));
}

TEST_F(JobManagerTest, ACrashedJobIsRequeuedBeforeTheOthers) {
  const std::string crashed = Submit(Request());
  const std::string next = Submit(Request());
  StoreAsRunning(crashed, 1);
  Open();
  const v1::Job job = jobs_->Get(crashed).value();
  EXPECT_EQ(job.state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(job.queued_reason(), v1::QUEUED_REASON_REQUEUED);
  EXPECT_EQ(job.queue_position(), 1);
  EXPECT_EQ(jobs_->Get(next)->queue_position(), 2);
}

TEST_F(JobManagerTest, AJobThatKeepsEndingTheProcessIsGivenUp) {
  const std::string id = Submit(Request());
  StoreAsRunning(id, 2);
  Open();
  const v1::Job job = jobs_->Get(id).value();
  EXPECT_EQ(job.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(job.error().fault(), v1::JOB_FAULT_SYSTEM);
  EXPECT_EQ(jobs_->QueuedJobs(), 0);
}

TEST_F(JobManagerTest, ACancelBeforeACrashIsKept) {
  const std::string id = Submit(Request());
  StoreAsRunning(id, 1, /*cancel_requested=*/true);
  Open();
  EXPECT_EQ(jobs_->Get(id)->state(), v1::JOB_STATE_CANCELLED);
}

TEST_F(JobManagerTest, WhatAnUnfinishedJobNeedsIsInUse) {
  const std::string id = Submit(Request());
  ASSERT_OK_AND_ASSIGN(const v1::Dataset dataset, datasets_->Get("train"));
  EXPECT_THAT(jobs_->CheckDatasetUnused(dataset),
              StatusIs(absl::StatusCode::kFailedPrecondition, id));
  ASSERT_OK(jobs_->Cancel(id));
  EXPECT_OK(jobs_->CheckDatasetUnused(dataset));
}

TEST_F(JobManagerTest, AWarmStartIsPinnedToItsVersion) {
  jobs_->Start();
  Await(Submit(Request()), v1::JOB_STATE_SUCCEEDED);
  const std::string ref = adapters_->Resolve("sql")->ref;
  script_->hold_training = true;
  v1::SubmitJobRequest request = Request("next");
  request.mutable_spec()->mutable_training()->set_warm_start("sql");
  ASSERT_OK_AND_ASSIGN(const v1::Job job, jobs_->Submit(request));
  EXPECT_EQ(job.spec().training().warm_start(), ref);
  EXPECT_EQ(job.spec().training().r(), 4) << "the adapter's own";
  EXPECT_THAT(jobs_->CheckAdapterUnused(ref),
              StatusIs(absl::StatusCode::kFailedPrecondition, job.job_id()));
  script_->hold_training = false;
  Await(job.job_id(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(JobManagerTest, ListsNewestFirstByStateAndPage) {
  const std::string first = Submit(Request());
  const std::string second = Submit(Request());
  const std::string third = Submit(Request());
  ASSERT_OK(jobs_->Cancel(second));
  const auto ids = [&](std::vector<v1::JobState> states, int limit, int64_t& position) {
    std::vector<std::string> found;
    const auto jobs = jobs_->List(states, limit, position).value();
    for (const v1::Job& job : jobs) {
      found.push_back(job.job_id());
    }
    return found;
  };
  int64_t position = 0;
  EXPECT_THAT(ids({}, 2, position), ElementsAre(third, second));
  EXPECT_THAT(ids({}, 2, position), ElementsAre(first));
  EXPECT_EQ(position, 0);
  EXPECT_THAT(ids({v1::JOB_STATE_QUEUED}, 1, position), ElementsAre(third));
  EXPECT_THAT(ids({v1::JOB_STATE_QUEUED}, 1, position), ElementsAre(first));
  EXPECT_EQ(position, 0);
}

TEST(JobIdTest, HasOneSpelling) {
  EXPECT_EQ(JobNumber("job-17"), 17);
  for (const char* wrong : {"", "job-", "job-0", "job-07", "job-+7", "job--7", "17", "job-7x"}) {
    EXPECT_EQ(JobNumber(wrong), 0) << wrong;
  }
  EXPECT_LT(JobKey(9), JobKey(10));
}

TEST_F(JobManagerTest, TheAdapterServesBeforeItIsDurable) {
  script_->hold_output = true;
  jobs_->Start();
  const std::string id = Submit(Request());
  ASSERT_TRUE(Eventually([&] { return adapters_->Resolve("sql").ok(); }));
  const absl::StatusOr<ResolvedAdapter> served = adapters_->Resolve("sql");
  EXPECT_EQ(jobs_->Get(id)->state(), v1::JOB_STATE_RUNNING);
  EXPECT_OK(engine_->FindAdapter(served->id));
  EXPECT_EQ(adapters_->Resolve(served->ref)->id, served->id);
  EXPECT_EQ(adapters_->Resolve("sql@" + served->id)->id, served->id);
  EXPECT_THAT(adapters_->Resolve("sql@0123456789ab"), StatusIs(absl::StatusCode::kNotFound, "sql"));
  // Nothing that outlives a crash may stand on it yet.
  EXPECT_THAT(adapters_->Get("sql"), StatusIs(absl::StatusCode::kNotFound, "sql"));
  EXPECT_THAT(adapters_->SetAlias("live", served->ref, std::nullopt),
              StatusIs(absl::StatusCode::kNotFound, "sql"));
  EXPECT_EQ(adapters_->NumAdapters(), 0);
  script_->hold_output = false;
  const v1::Job job = Await(id, v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(job.result().adapter(), served->ref);
  EXPECT_EQ(job.result().sha256(), served->id);
  EXPECT_EQ(adapters_->Resolve("sql")->id, served->id);
  EXPECT_OK(adapters_->SetAlias("live", served->ref, std::nullopt));
}

TEST_F(JobManagerTest, AnAdapterWhoseFilesCannotBeWrittenIsWithdrawn) {
  const std::string old = WriteFakeAdapter(dir_.File("old"), "old");
  ASSERT_OK_AND_ASSIGN(StagedAdapter staged, adapters_->Stage("sql", dir_.File("old"), ""));
  ASSERT_OK(adapters_->Commit(staged, {}));
  script_->hold_output = true;
  script_->fail_output = true;
  jobs_->Start();
  const std::string id = Submit(Request());
  ASSERT_TRUE(Eventually([&] { return adapters_->Resolve("sql")->id != old; }));
  const std::string served = adapters_->Resolve("sql")->id;
  script_->hold_output = false;
  EXPECT_THAT(Await(id, v1::JOB_STATE_FAILED).error().status().message(),
              ::testing::HasSubstr("failure to write"));
  // The job is told FAILED a moment before its adapter is withdrawn.
  EXPECT_TRUE(Eventually([&] { return !engine_->FindAdapter(served).ok(); }));
  EXPECT_EQ(adapters_->Resolve("sql")->id, old);
  EXPECT_THAT(engine_->FindAdapter(served), StatusIs(absl::StatusCode::kNotFound, ""));
  EXPECT_OK(engine_->FindAdapter(old));
}

TEST_F(JobManagerTest, CheckpointsServeUntilTheyAreReplaced) {
  v1::SubmitJobRequest request = Request();
  request.mutable_spec()->mutable_training()->set_save_steps(2);
  request.mutable_spec()->mutable_training()->set_serve_checkpoints(true);
  script_->hold_output = true;
  jobs_->Start();
  const std::string id = Submit(request);
  // The fake's checkpoints hold this; the last one is of step 10, then comes the result.
  const std::string first = Sha256Hex("checkpoint 2"), last = Sha256Hex("checkpoint 10");
  EXPECT_TRUE(Eventually(
      [&] { return adapters_->Resolve("sql").ok() && !engine_->FindAdapter(last).ok(); }));
  script_->hold_output = false;
  const v1::Job job = Await(id, v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(adapters_->Resolve("sql")->id, job.result().sha256());
  EXPECT_EQ(adapters_->NumAdapters(), 1);
  for (const std::string& gone : {first, last})
    EXPECT_THAT(engine_->FindAdapter(gone), StatusIs(absl::StatusCode::kNotFound, ""));
  EXPECT_THAT(adapters_->Resolve("sql@" + first.substr(0, 12)),
              StatusIs(absl::StatusCode::kNotFound, "sql"));
}

// As when the best adapter, which is the result, is an earlier checkpoint's.
TEST_F(JobManagerTest, WhatIsPublishedAgainIsNotWithdrawn) {
  std::vector<std::string> ids;
  for (const char* content : {"a", "b"}) {
    ids.push_back(WriteFakeAdapter(dir_.File(content), content));
    ASSERT_OK(engine_->RegisterAdapter(dir_.File(content)));
  }
  v1::Job job;
  job.set_job_id("job-1");
  job.mutable_spec()->set_name("sql");
  JobRun run(std::make_shared<JobRecord>(store_.get(), job), dir_.path(), adapters_.get(), nullptr);
  for (const int which : {0, 1, 0}) run.OnPublication({.adapter_id = ids[which]});
  run.RequestStop(/*discard=*/false);
  EXPECT_TRUE(run.AwaitStopRequest());  // withdraws what was replaced
  ASSERT_OK_AND_ASSIGN(const ResolvedAdapter served, adapters_->Resolve("sql"));
  EXPECT_EQ(served.id, ids[0]);
  EXPECT_OK(engine_->FindAdapter(ids[0]));
  EXPECT_THAT(engine_->FindAdapter(ids[1]), StatusIs(absl::StatusCode::kNotFound, ""));
}

TEST_F(JobManagerTest, ProvidingWhatIsThereChangesNothing) {
  const std::string id = WriteFakeAdapter(dir_.File("old"), "old");
  ASSERT_OK_AND_ASSIGN(StagedAdapter staged, adapters_->Stage("sql", dir_.File("old"), ""));
  ASSERT_OK(adapters_->Commit(staged, {}));
  EXPECT_OK(adapters_->Provide("sql", id));
  adapters_->Withdraw("sql", id);
  EXPECT_EQ(adapters_->Resolve("sql")->id, id);
  EXPECT_OK(engine_->FindAdapter(id));
  const std::string clash = id.substr(0, 12) + std::string(52, 'f');
  EXPECT_THAT(adapters_->Provide("sql", clash),
              StatusIs(absl::StatusCode::kAlreadyExists, "its content is another one"));
}

}  // namespace
}  // namespace lorad::server
