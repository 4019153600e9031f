// The number of answers and their seeds, as the wire contract defines them.
#include "server/rpc/generate_request.h"

#include <set>

#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad::server {
namespace {

TEST(SampleSeedTest, AnswerZeroHasTheSeedItself) {
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}}) {
    EXPECT_EQ(SampleSeed(seed, 0), seed);
  }
}

// The first outputs of SplitMix64 from the states 0 and 1234567, as its reference implementation
// (Vigna, splitmix64.c) prints them.
TEST(SampleSeedTest, TheOthersAreTheOutputsOfSplitMix64) {
  EXPECT_EQ(SampleSeed(0, 1), 0xe220a8397b1dcdafu);
  EXPECT_EQ(SampleSeed(0, 2), 0x6e789e6aa1b965f4u);
  EXPECT_EQ(SampleSeed(0, 3), 0x06c45d188009454fu);
  EXPECT_EQ(SampleSeed(1234567, 1), 6457827717110365317u);
  EXPECT_EQ(SampleSeed(1234567, 2), 3203168211198807973u);
}

TEST(SampleSeedTest, NeighbouringSeedsShareNoAnswer) {
  std::set<uint64_t> seeds;
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    for (int i = 0; i < 16; ++i) seeds.insert(SampleSeed(seed, i));
  }
  EXPECT_EQ(seeds.size(), 16'000u);
}

TEST(SampleCountTest, OneUnlessSaidOtherwise) {
  v1::GenerateRequest request;
  EXPECT_EQ(SampleCount(request, 100).value(), 1);
  request.set_n(16);
  EXPECT_EQ(SampleCount(request, 16).value(), 16);
  EXPECT_THAT(SampleCount(request, 15), StatusIs(absl::StatusCode::kInvalidArgument,
                                                 "n: 16 answers never fit the queue of "
                                                 "15"));
  request.set_n(17);
  EXPECT_THAT(SampleCount(request, 100),
              StatusIs(absl::StatusCode::kInvalidArgument, "n: 17 is not in 1..16"));
  request.set_n(-1);
  EXPECT_THAT(SampleCount(request, 100), StatusIs(absl::StatusCode::kInvalidArgument, "n: -1"));
}

}  // namespace
}  // namespace lorad::server
