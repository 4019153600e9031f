#include "engine/train/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "engine/io/file.h"
#include "engine/io/sha256.h"
#include "engine/lora/peft.h"
#include "engine/train/lora_init.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace lorad {
namespace {

namespace fs = std::filesystem;

const JobIdentity kIdentity = {{"learning_rate", "0.001"}, {"train_data", "abc"}};

class CheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(
        config_, LoadModelConfig(std::string(LORAD_SOURCE_DIR) + "/tests/golden/llama-gqa"));
  }

  // Different for each step; `best` from step 2 on.
  TrainingSnapshot Snapshot(int64_t step) {
    LoraSpec spec;
    spec.r = 2;
    spec.target_modules = {"q_proj"};
    TrainingSnapshot snapshot;
    snapshot.progress = {.step = step,
                         .updates = step - 1,
                         .epoch = 3,
                         .step_in_epoch = 4,
                         .skipped_in_row = 1,
                         .evaluated = false,
                         .last_loss = 0.1 * static_cast<double>(step),
                         .best_eval_loss = step < 2 ? std::nan("") : 1.0 / 3,
                         .best_step = 2,
                         .evals_without_gain = 5};
    snapshot.adapter = *InitialAdapter(spec, config_, step);
    snapshot.moments.m.values = {1.0f, static_cast<float>(step), -0.0f};
    snapshot.moments.v.values = {1e-38f, 3.0f, 0.0f};
    if (step >= 2) snapshot.best = *InitialAdapter(spec, config_, 1000 + step);
    return snapshot;
  }

  CheckpointReport Write(int64_t step) {
    absl::StatusOr<CheckpointReport> report = WriteCheckpoint(dir(), kIdentity, Snapshot(step));
    EXPECT_OK(report);
    return *report;
  }

  void ExpectNewest(int64_t step) {
    ASSERT_OK_AND_ASSIGN(const NewestCheckpoint newest,
                         ReadNewestCheckpoint(dir(), kIdentity, config_));
    ASSERT_TRUE(newest.snapshot.has_value());
    EXPECT_EQ(newest.snapshot->progress.step, step);
  }

  std::string dir() const { return temp_.path() + "/job/checkpoints"; }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(dir()))
      names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

  const TempDir temp_;
  ModelConfig config_;
};

TEST_F(CheckpointTest, ReadsBackBitForBit) {
  for (const int64_t step : {1, 7}) {
    const CheckpointReport report = Write(step);
    const TrainingSnapshot expected = Snapshot(step);
    EXPECT_EQ(report.step, step);
    EXPECT_EQ(report.adapter_id, AdapterDigest(expected.adapter));
    EXPECT_GT(report.bytes, 0);
    ASSERT_OK_AND_ASSIGN(const NewestCheckpoint newest,
                         ReadNewestCheckpoint(dir(), kIdentity, config_));
    ASSERT_TRUE(newest.snapshot.has_value());
    EXPECT_TRUE(newest.damaged.empty());
    const TrainingProgress& found = newest.snapshot->progress;
    EXPECT_EQ(found.step, step);
    EXPECT_EQ(found.updates, step - 1);
    EXPECT_EQ(found.epoch, 3);
    EXPECT_EQ(found.step_in_epoch, 4);
    EXPECT_EQ(found.skipped_in_row, 1);
    EXPECT_FALSE(found.evaluated);
    EXPECT_EQ(found.last_loss, expected.progress.last_loss);
    EXPECT_EQ(std::isnan(found.best_eval_loss), step < 2);
    if (step >= 2) {
      EXPECT_EQ(found.best_eval_loss, 1.0 / 3);
    }
    EXPECT_EQ(found.best_step, 2);
    EXPECT_EQ(found.evals_without_gain, 5);
    EXPECT_EQ(newest.snapshot->moments.m.values, expected.moments.m.values);
    EXPECT_TRUE(std::signbit(newest.snapshot->moments.m.values[2]));
    EXPECT_EQ(newest.snapshot->moments.v.values, expected.moments.v.values);
    EXPECT_TRUE(newest.snapshot->moments.m.codes.empty());
    EXPECT_TRUE(newest.snapshot->moments.v.scales.empty());
    EXPECT_EQ(newest.snapshot->adapter.modules[1].a, expected.adapter.modules[1].a);
    ASSERT_EQ(newest.snapshot->best.has_value(), expected.best.has_value());
    if (expected.best) {
      EXPECT_EQ(AdapterDigest(*newest.snapshot->best), AdapterDigest(*expected.best));
    }
  }
}

TEST_F(CheckpointTest, EightBitMomentsReadBackBitForBit) {
  TrainingSnapshot snapshot = Snapshot(4);
  HostMoments& moments = snapshot.moments;
  moments = {};
  for (int i = 0; i < 300; ++i) {
    moments.m.codes.push_back(static_cast<uint8_t>(i));
    moments.v.codes.push_back(static_cast<uint8_t>(7 * i + 3));
  }
  moments.m.scales = {0.1f, 1e-42f};  // the second is subnormal
  moments.v.scales = {0.0f, 3e38f};
  ASSERT_OK(WriteCheckpoint(dir(), kIdentity, snapshot));
  ASSERT_OK_AND_ASSIGN(const NewestCheckpoint newest,
                       ReadNewestCheckpoint(dir(), kIdentity, config_));
  ASSERT_TRUE(newest.snapshot.has_value());
  const HostMoments& found = newest.snapshot->moments;
  EXPECT_EQ(found.m.codes, moments.m.codes);
  EXPECT_EQ(found.m.scales, moments.m.scales);
  EXPECT_EQ(found.v.codes, moments.v.codes);
  EXPECT_EQ(found.v.scales, moments.v.scales);
  EXPECT_TRUE(found.m.values.empty());
  EXPECT_TRUE(found.v.values.empty());
}

TEST_F(CheckpointTest, HoldsAnAdapterForAnyUse) {
  const CheckpointReport report = Write(3);
  ASSERT_OK_AND_ASSIGN(const HostAdapter adapter,
                       ReadPeftAdapter(report.dir + "/adapter", config_));
  EXPECT_EQ(AdapterDigest(adapter), report.adapter_id);
}

TEST_F(CheckpointTest, KeepsTheNewestTwo) {
  for (const int64_t step : {8, 9, 10, 11}) Write(step);
  EXPECT_THAT(Names(), testing::ElementsAre("step-000000000010", "step-000000000011"));
  ExpectNewest(11);
}

TEST_F(CheckpointTest, NothingThereIsNoError) {
  ASSERT_OK_AND_ASSIGN(const NewestCheckpoint newest,
                       ReadNewestCheckpoint(dir(), kIdentity, config_));
  EXPECT_FALSE(newest.snapshot.has_value());
}

TEST_F(CheckpointTest, ADamagedOneGivesWayToTheOneBeforeIt) {
  Write(1);
  const std::string newest_dir = Write(2).dir;
  for (const auto& entry : fs::recursive_directory_iterator(newest_dir)) {
    if (!entry.is_regular_file()) continue;
    SCOPED_TRACE(entry.path());
    std::string bytes = *ReadFile(entry.path());
    const std::string good = bytes;
    // A flipped bit, a torn write, a missing file.
    bytes[bytes.size() / 2] ^= 1;
    std::ofstream(entry.path(), std::ios::binary) << bytes;
    ExpectNewest(1);
    std::ofstream(entry.path(), std::ios::binary) << good.substr(0, good.size() / 2);
    ExpectNewest(1);
    fs::rename(entry.path(), temp_.path() + "/aside");
    ExpectNewest(1);
    fs::rename(temp_.path() + "/aside", entry.path());
    std::ofstream(entry.path(), std::ios::binary) << good;
    ExpectNewest(2);
  }
  fs::remove_all(newest_dir + "/best");
  ExpectNewest(1);
  ASSERT_OK_AND_ASSIGN(const NewestCheckpoint newest,
                       ReadNewestCheckpoint(dir(), kIdentity, config_));
  EXPECT_THAT(newest.damaged, testing::ElementsAre(newest_dir));
  EXPECT_TRUE(fs::exists(newest_dir));  // reading changes nothing
}

TEST_F(CheckpointTest, AllDamagedMeansNone) {
  fs::remove(Write(1).dir + "/SHA256SUMS");
  ASSERT_OK_AND_ASSIGN(const NewestCheckpoint newest,
                       ReadNewestCheckpoint(dir(), kIdentity, config_));
  EXPECT_FALSE(newest.snapshot.has_value());
  EXPECT_EQ(newest.damaged.size(), 1u);
}

TEST_F(CheckpointTest, AnotherJobsIsRefusedWithWhatDiffers) {
  Write(1);
  JobIdentity other = kIdentity;
  other["learning_rate"] = "0.002";
  other["eval_data"] = "def";
  const auto newest = ReadNewestCheckpoint(dir(), other, config_);
  const auto kPrecondition = absl::StatusCode::kFailedPrecondition;
  EXPECT_THAT(newest, StatusIs(kPrecondition, "learning_rate was 0.001 and is now 0.002"));
  EXPECT_THAT(newest, StatusIs(kPrecondition, "eval_data was unset and is now def"));
  EXPECT_THAT(newest, testing::Not(StatusIs(kPrecondition, "train_data")));
}

TEST_F(CheckpointTest, LeavesWhatIsNotItsOwn) {
  Write(1);
  for (const char* name : {"step-backup", "step-1", "step-000000000009x", "notes"})
    fs::create_directories(dir() + "/" + name);
  for (const int64_t step : {2, 3}) Write(step);
  EXPECT_EQ(Names().size(), 6u);
  ASSERT_OK_AND_ASSIGN(const NewestCheckpoint newest,
                       ReadNewestCheckpoint(dir(), kIdentity, config_));
  EXPECT_EQ(newest.snapshot->progress.step, 3);
  EXPECT_TRUE(newest.damaged.empty());
}

TEST_F(CheckpointTest, AnotherFormatIsNotDamage) {
  const std::string path = Write(1).dir;
  std::string state = *ReadFile(path + "/state.json");
  state.replace(state.find("lorad-checkpoint-1"), 18, "lorad-checkpoint-2");
  std::ofstream(path + "/state.json") << state;
  std::string sums = *ReadFile(path + "/SHA256SUMS");
  sums.replace(sums.find("  state.json") - 64, 64, Sha256Hex(state));
  std::ofstream(path + "/SHA256SUMS") << sums;
  EXPECT_THAT(ReadNewestCheckpoint(dir(), kIdentity, config_),
              StatusIs(absl::StatusCode::kFailedPrecondition, "lorad-checkpoint-2"));
}

TEST_F(CheckpointTest, WritingAStepAgainKeepsWhatIsThere) {
  Write(1);
  const auto before = fs::last_write_time(dir() + "/step-000000000001/state.json");
  Write(1);
  EXPECT_EQ(fs::last_write_time(dir() + "/step-000000000001/state.json"), before);
}

}  // namespace
}  // namespace lorad
