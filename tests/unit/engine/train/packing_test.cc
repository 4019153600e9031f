#include "engine/train/packing.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <vector>

#include "engine/ops/cross_entropy.h"
#include "engine/train/data_stream.h"
#include "engine/train/micro_batch.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lorad {
namespace {

using testing::ElementsAre;

// Samples of these lengths; sample s has ids 100 s, 100 s + 1, ... and every token is a target.
TokenDataset Dataset(const std::vector<int64_t>& lengths) {
  TokenDataset dataset;
  for (size_t s = 0; s < lengths.size(); ++s) {
    for (int64_t t = 0; t < lengths[s]; ++t) {
      dataset.ids.push_back(static_cast<int32_t>(100 * s + t));
      dataset.labels.push_back(dataset.ids.back());
    }
    dataset.begins.push_back(static_cast<int64_t>(dataset.ids.size()));
    dataset.report.samples += 1;
    dataset.report.tokens += lengths[s];
  }
  return dataset;
}

std::vector<uint32_t> FileOrder(size_t samples) {
  std::vector<uint32_t> order(samples);
  std::iota(order.begin(), order.end(), 0u);
  return order;
}

std::vector<int64_t> SomeLengths(int count) {
  std::vector<int64_t> lengths;
  for (int i = 0; i < count; ++i) lengths.push_back(2 + (i * 37) % 63);
  return lengths;
}

TEST(PackRowsTest, PutsEachSampleIntoTheFullestRowWithRoom) {
  // Rows of 10: 6 | 5 | 4 fits both, the first is fuller | 5 fits the second | 3 begins a row.
  const TokenDataset dataset = Dataset({6, 5, 4, 5, 3});
  EXPECT_THAT(PackRows(dataset, FileOrder(5), 10),
              ElementsAre(ElementsAre(0, 2), ElementsAre(1, 3), ElementsAre(4)));
}

TEST(PackRowsTest, HoldsEverySampleOnceWithinTheRow) {
  const TokenDataset dataset = Dataset(SomeLengths(1000));
  const auto rows = PackRows(dataset, FileOrder(1000), 64);
  std::set<uint32_t> seen;
  int64_t tokens = 0;
  for (const auto& row : rows) {
    int64_t row_tokens = 0;
    for (const uint32_t sample : row) {
      EXPECT_TRUE(seen.insert(sample).second) << sample;
      row_tokens += dataset.num_tokens(sample);
    }
    EXPECT_LE(row_tokens, 64);
    tokens += row_tokens;
  }
  EXPECT_EQ(seen.size(), 1000u);
  EXPECT_EQ(tokens, dataset.report.tokens);
  // Best fit never leaves two rows that one could hold.
  const int64_t least = (tokens + 63) / 64;
  EXPECT_LT(rows.size(), static_cast<size_t>(1.1 * static_cast<double>(least)));
}

TEST(EpochOrderTest, IsAPermutationOfSeedAndEpoch) {
  PackingOptions options{.shuffle = true, .seed = 7};
  const std::vector<uint32_t> first = EpochOrder(500, options, 0);
  std::vector<uint32_t> sorted = first;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(sorted, FileOrder(500));
  EXPECT_NE(first, FileOrder(500));
  EXPECT_EQ(EpochOrder(500, options, 0), first);
  EXPECT_NE(EpochOrder(500, options, 1), first);
  options.seed = 8;
  EXPECT_NE(EpochOrder(500, options, 0), first);
  options.shuffle = false;
  EXPECT_EQ(EpochOrder(500, options, 0), FileOrder(500));
}

TEST(EpochOrderTest, ReachesEveryPlaceAboutEquallyOften) {
  // Where sample 0 of 10 lands in 4000 epochs: 400 each, standard deviation 19; 5 of them is 95.
  std::vector<int> counts(10, 0);
  for (int64_t epoch = 0; epoch < 4000; ++epoch) {
    const auto order = EpochOrder(10, {.shuffle = true, .seed = 1}, epoch);
    ++counts[std::find(order.begin(), order.end(), 0u) - order.begin()];
  }
  for (const int count : counts) EXPECT_NEAR(count, 400, 95);
}

TEST(EpochPlanTest, CutsRowsIntoMicroBatchesAndSteps) {
  const TokenDataset dataset = Dataset({4, 4, 4, 4, 4, 4, 4});
  const PackingOptions options{.packing = false,
                               .shuffle = false,
                               .max_seq_length = 8,
                               .micro_batch_size = 2,
                               .accumulation_steps = 3};
  const EpochPlan plan(dataset, options, 0);
  EXPECT_EQ(plan.num_micro_batches(), 4);
  EXPECT_EQ(plan.num_steps(), 2);
  EXPECT_THAT(plan.Step(0), testing::Pair(0, 3));
  EXPECT_THAT(plan.Step(1), testing::Pair(3, 4));
  EXPECT_THAT(plan.MicroBatch(2), ElementsAre(4, 5));
  EXPECT_THAT(plan.MicroBatch(3), ElementsAre(6));
}

TEST(EpochPlanTest, NoMicroBatchPassesTheBound) {
  const TokenDataset dataset = Dataset(SomeLengths(300));
  for (const bool packing : {false, true}) {
    const PackingOptions options{.packing = packing,
                                 .shuffle = true,
                                 .seed = 3,
                                 .max_seq_length = 64,
                                 .micro_batch_size = 4};
    const int64_t bound = MaxMicroBatchTokens(dataset, options);
    for (int64_t epoch = 0; epoch < 5; ++epoch) {
      const EpochPlan plan(dataset, options, epoch);
      for (int64_t i = 0; i < plan.num_micro_batches(); ++i)
        EXPECT_LE(MakeMicroBatch(dataset, plan.MicroBatch(i)).num_tokens(), bound);
    }
  }
}

TEST(MicroBatchTest, KeepsSamplesApart) {
  TokenDataset dataset = Dataset({3, 2});
  dataset.labels[1] = kIgnoreLabel;  // sample 0, position 1
  const uint32_t samples[] = {1, 0};
  const MicroBatch batch = MakeMicroBatch(dataset, samples);
  EXPECT_THAT(batch.ids, ElementsAre(100, 101, 0, 1, 2));
  EXPECT_THAT(batch.labels, ElementsAre(101, kIgnoreLabel, kIgnoreLabel, 2, kIgnoreLabel));
  EXPECT_THAT(batch.positions, ElementsAre(0, 1, 0, 1, 2));
  EXPECT_THAT(batch.cu_seqlens, ElementsAre(0, 2, 5));
  EXPECT_THAT(batch.token_keys, ElementsAre(uint64_t{1} << 32, uint64_t{1} << 32 | 1, 0, 1, 2));
  EXPECT_EQ(batch.target_tokens, 2);
}

TEST(DataStreamTest, ContinuesAnywhereAsIfReadFromTheStart) {
  const TokenDataset dataset = Dataset(SomeLengths(40));
  const PackingOptions options{.packing = true,
                               .shuffle = true,
                               .seed = 5,
                               .max_seq_length = 64,
                               .micro_batch_size = 2,
                               .accumulation_steps = 2};
  DataStream whole(dataset, options);
  for (int i = 0; i < 30; ++i) {
    DataStream resumed(dataset, options);
    resumed.Seek(whole.epoch(), whole.step());
    const std::vector<MicroBatch> expected = whole.Next(), found = resumed.Next();
    ASSERT_EQ(found.size(), expected.size());
    for (size_t j = 0; j < found.size(); ++j) {
      EXPECT_EQ(found[j].ids, expected[j].ids);
      EXPECT_EQ(found[j].token_keys, expected[j].token_keys);
    }
    EXPECT_EQ(resumed.epoch(), whole.epoch());
    EXPECT_EQ(resumed.step(), whole.step());
  }
  EXPECT_GE(whole.epoch(), 2);
}

TEST(DataStreamTest, CountsStepsAsTheStreamTakesThem) {
  const TokenDataset dataset = Dataset(SomeLengths(90));
  for (const bool packing : {false, true}) {
    const PackingOptions options{.packing = packing,
                                 .shuffle = true,
                                 .seed = 5,
                                 .max_seq_length = 64,
                                 .micro_batch_size = 4,
                                 .accumulation_steps = 2};
    DataStream stream(dataset, options);
    int64_t steps = 0;
    for (; stream.epoch() < 3; ++steps) stream.Next();
    EXPECT_EQ(CountSteps(dataset, options, 3), steps);
    EXPECT_EQ(CountSteps(dataset, options, 0.01), 1);
    const int64_t two = CountSteps(dataset, options, 2);
    EXPECT_EQ(CountSteps(dataset, options, 2.5), two + (steps - two + 1) / 2);
  }
}

}  // namespace
}  // namespace lorad
