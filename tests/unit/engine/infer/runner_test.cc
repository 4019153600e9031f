// What a pass gives for each sequence: tokens drawn on the device, or logits.
#include "engine/infer/runner.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "engine/infer/sampler.h"
#include "engine/ops/sample.h"
#include "gtest/gtest.h"
#include "tests/support/failing_backend.h"
#include "tests/unit/engine/sched/serving_harness.h"

namespace lorad {
namespace {

using absl::StatusCode;

// Some prompts, in pages of their own.
class RunnerTest : public testing::Test {
 protected:
  static constexpr int kSequences = 3;

  RunnerTest() {
    for (int s = 0; s < kSequences; ++s) {
      prompts_.push_back(harness_.Prompt(s, 4 + s));
      EXPECT_TRUE(cache().Reserve(tables_[s], static_cast<int64_t>(prompts_[s].size())));
    }
  }
  ~RunnerTest() override {
    for (KvTable& table : tables_) cache().Release(table);
  }

  KvCache& cache() { return *harness_.cache; }
  Runner& runner() { return *harness_.runner; }
  int64_t vocab() const { return harness_.model->config().vocab_size; }

  std::vector<SequenceRows> Batch() const {
    std::vector<SequenceRows> batch;
    for (int s = 0; s < kSequences; ++s)
      batch.push_back({.ids = prompts_[s], .position = 0, .pages = tables_[s].pages()});
    return batch;
  }
  // Of each sequence on its own.
  std::vector<std::vector<float>> Logits() {
    std::vector<std::vector<float>> logits;
    for (const SequenceRows& rows : Batch()) {
      DrawResult result;
      EXPECT_OK(runner().Draw({rows}, PassKind::kRowInvariant, {{.logits = true, .params = {}}},
                              absl::MakeSpan(&result, 1)));
      logits.emplace_back(result.logits.begin(), result.logits.end());
      EXPECT_EQ(static_cast<int64_t>(logits.back().size()), vocab());
    }
    return logits;
  }
  absl::Status Draw(const std::vector<DrawRequest>& requests, std::vector<DrawResult>& results) {
    return runner().Draw(Batch(), PassKind::kRowInvariant, requests, absl::MakeSpan(results));
  }
  static DrawRequest Sampled(uint64_t seed, int32_t top) {
    DrawRequest request;
    request.params = MakeDrawParams(1.2, 30, 0.95, 0, seed);
    request.params.top = top;
    return request;
  }

  ServingHarness harness_;
  std::vector<std::vector<int32_t>> prompts_;
  KvTable tables_[kSequences];
};

TEST_F(RunnerTest, TokensAreDrawnFromTheLogitsOfTheirRow) {
  const std::vector<std::vector<float>> logits = Logits();
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<DrawRequest> requests = {Sampled(seed, -1), Sampled(seed, 0),
                                               Sampled(seed, 7)};
    std::vector<DrawResult> results(kSequences);
    ASSERT_OK(Draw(requests, results));
    for (int s = 0; s < kSequences; ++s) {
      EXPECT_TRUE(results[s].logits.empty());
      const TokenLogprob& token = results[s].token;
      ASSERT_EQ(token.id, RowSampler().Draw(logits[s], requests[s].params)) << s;
      if (s == 0) continue;
      const TokenLogprob expected =
          Sampler({}, {}, vocab()).LogprobOf(logits[s], token.id, requests[s].params.top);
      EXPECT_EQ(token.logprob, expected.logprob) << s;
      EXPECT_EQ(token.top, expected.top) << s;
    }
  }
}

TEST_F(RunnerTest, LogitsComeForTheRowsThatAskForThem) {
  const std::vector<std::vector<float>> logits = Logits();
  std::vector<DrawRequest> requests = {
      {.logits = true, .params = {}}, Sampled(3, 2), {.logits = true, .params = {}}};
  std::vector<DrawResult> results(kSequences);
  ASSERT_OK(Draw(requests, results));
  for (const int s : {0, 2})
    EXPECT_EQ(std::vector<float>(results[s].logits.begin(), results[s].logits.end()), logits[s]);
  EXPECT_TRUE(results[1].logits.empty());
  EXPECT_EQ(results[1].token.id, RowSampler().Draw(logits[1], requests[1].params));

  requests[1].logits = true;
  ASSERT_OK(Draw(requests, results));
  for (int s = 0; s < kSequences; ++s)
    EXPECT_EQ(std::vector<float>(results[s].logits.begin(), results[s].logits.end()), logits[s]);
}

TEST_F(RunnerTest, ABadRowConcernsItsOwnResult) {
  const std::vector<std::vector<float>> logits = Logits();
  // Decoding again from position 1: what the cache holds at position 0 of sequence 1 is no number.
  const TensorView values = cache().values(0);
  const int64_t token = RowElements(values.shape) / cache().page_tokens();
  std::fill_n(values.as<float>() + tables_[1].pages()[0] * values.stride(), token, std::nanf(""));
  std::vector<SequenceRows> batch = Batch();
  for (int s = 0; s < kSequences; ++s) batch[s].ids.remove_prefix(1), batch[s].position = 1;
  const std::vector<DrawRequest> requests(kSequences, Sampled(5, 1));
  std::vector<DrawResult> results(kSequences);
  ASSERT_OK(runner().Draw(batch, PassKind::kRowInvariant, requests, absl::MakeSpan(results)));
  EXPECT_EQ(results[1].token.id, -1);
  EXPECT_TRUE(results[1].token.top.empty());
  for (const int s : {0, 2})
    EXPECT_EQ(results[s].token.id, RowSampler().Draw(logits[s], requests[s].params)) << s;
}

TEST_F(RunnerTest, RefusesWhatDoesNotFit) {
  std::vector<DrawResult> results(kSequences);
  EXPECT_THAT(Draw({Sampled(1, 0)}, results),
              StatusIs(StatusCode::kInvalidArgument, "1 requests and 3 results for 3 sequences"));
  EXPECT_THAT(
      Draw({Sampled(1, 0), Sampled(1, 21), Sampled(1, 0)}, results),
      StatusIs(StatusCode::kInvalidArgument, "the 21 likeliest tokens; at most 20 can be listed"));
  EXPECT_THAT(Draw({}, results), StatusIs(StatusCode::kInvalidArgument, "0 requests"));
  // Nothing of it stays.
  EXPECT_OK(Draw({Sampled(1, 20), Sampled(1, 0), Sampled(1, -1)}, results));
}

TEST_F(RunnerTest, ADeviceErrorIsReported) {
  HarnessOptions options;
  auto failing = std::make_unique<FailingBackend>(CreateCpuBackend());
  FailingBackend& device = *failing;
  options.backend = std::move(failing);
  ServingHarness harness(std::move(options));
  const std::vector<int32_t> prompt = harness.Prompt(0, 4);
  KvTable table;
  ASSERT_TRUE(harness.cache->Reserve(table, 4));
  const SequenceRows rows = {.ids = prompt, .position = 0, .pages = table.pages()};
  DrawResult result;
  const auto draw = [&] {
    return harness.runner->Draw({rows}, PassKind::kRowInvariant, {Sampled(1, 1)},
                                absl::MakeSpan(&result, 1));
  };
  int64_t works = 0;
  for (int64_t n = 1; device.FailWork(n), !draw().ok(); ++n) works = n;
  EXPECT_FALSE(device.work_failed());
  // One copy up, the embedding, two norms and more a layer, the last row, norm, head, the draw, one
  // copy down.
  EXPECT_GT(works, 7);
  EXPECT_GE(result.token.id, 0);
  harness.cache->Release(table);
}

}  // namespace
}  // namespace lorad
