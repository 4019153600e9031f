// Sampling on CUDA against the CPU, which defines it: the same ids from the same logits, whatever
// the parameters; log-probabilities within their bound.
#include "engine/ops/cuda/sample.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/device/cuda/cuda_stream.h"
#include "tests/parity/parity_fixture.h"
#include "tests/unit/engine/ops/sample_fixture.h"

namespace lorad {
namespace {

class SampleParityTest : public ParityTest {
 protected:
  // Rows of one vocabulary, with `spare` columns between them on the device. Ids and lists must be
  // equal; returns the device's answers.
  SampleAnswers Check(const std::vector<std::vector<float>>& rows,
                      const std::vector<DrawParams>& params, int64_t top, int64_t spare) {
    const auto count = static_cast<int64_t>(rows.size());
    const auto vocab = static_cast<int64_t>(rows[0].size());
    SCOPED_TRACE(testing::Message() << count << " rows, vocabulary " << vocab << ", spare " << spare
                                    << ", " << top << " columns");
    std::vector<float> all;
    for (const std::vector<float>& row : rows) all.insert(all.end(), row.begin(), row.end());
    Slices logits = MakeSlices({{count, vocab}}, {std::move(all)}, spare);
    SampleAnswers expected(count, top);
    EXPECT_OK(cpu().ops().Sample(CpuArgs(logits.cpu(0), params, top, expected), cpu_stream()));
    SampleAnswers answers = OnCuda(logits.cuda(0), params, top);
    Compare(rows, params, top, answers, expected);
    FetchSlice(logits, 0);  // nothing was written
    return answers;
  }

  static SampleArgs CpuArgs(ConstTensorView logits, const std::vector<DrawParams>& params,
                            int64_t top, SampleAnswers& answers) {
    const int64_t rows = logits.shape[0];
    SampleArgs args;
    args.logits = logits;
    args.params = {params.data(), DType::kU8, {rows, sizeof(DrawParams)}};
    args.ids = {answers.ids.data(), DType::kI32, {rows}};
    args.logprobs = {answers.logprobs.data(), DType::kF32, {rows}};
    if (top == 0) return args;
    args.top_ids = {answers.top_ids.data(), DType::kI32, {rows, top}};
    args.top_logprobs = {answers.top_logprobs.data(), DType::kF32, {rows, top}};
    return args;
  }

  SampleAnswers OnCuda(ConstTensorView logits, const std::vector<DrawParams>& params, int64_t top) {
    const int64_t rows = logits.shape[0];
    SampleAnswers answers(rows, top);
    const DeviceBuffer draws =
        Upload(params.data(), static_cast<int64_t>(params.size() * sizeof(DrawParams)));
    const auto ids = Same<int32_t>({rows}, answers.ids);
    const auto logprobs = Same<float>({rows}, answers.logprobs);
    SampleArgs args;
    args.logits = logits;
    args.params = draws.View(DType::kU8, {rows, sizeof(DrawParams)});
    args.ids = ids.cuda();
    args.logprobs = logprobs.cuda();
    Both<int32_t> top_ids;
    Both<float> top_logprobs;
    if (top > 0) {
      top_ids = Same<int32_t>({rows, top}, answers.top_ids);
      top_logprobs = Same<float>({rows, top}, answers.top_logprobs);
      args.top_ids = top_ids.cuda(), args.top_logprobs = top_logprobs.cuda();
    }
    EXPECT_OK(cuda().ops().Sample(args, stream()));
    answers.ids = Fetch(ids), answers.logprobs = Fetch(logprobs);
    if (top > 0) answers.top_ids = Fetch(top_ids), answers.top_logprobs = Fetch(top_logprobs);
    return answers;
  }

  static void Compare(const std::vector<std::vector<float>>& rows,
                      const std::vector<DrawParams>& params, int64_t top,
                      const SampleAnswers& answers, const SampleAnswers& expected) {
    for (size_t r = 0; r < rows.size(); ++r) {
      ASSERT_EQ(answers.ids[r], expected.ids[r]) << "row " << r << ", " << Describe(params[r]);
      ExpectLogprob(answers.logprobs[r], expected.logprobs[r]);
      for (int64_t i = 0; i < top; ++i) {
        const size_t at = r * top + i;
        ASSERT_EQ(answers.top_ids[at], expected.top_ids[at])
            << "row " << r << ", number " << i << ", " << Describe(params[r]);
        ExpectLogprob(answers.top_logprobs[at], expected.top_logprobs[at]);
      }
    }
  }
  // The sums are the same whole numbers; only the logarithm, in double, may differ in its last
  // bits, and its rounding to float by one unit with them.
  static void ExpectLogprob(float actual, float expected) {
    if (actual == expected) return;
    EXPECT_NEAR(actual, expected, 0x1p-23 * std::abs(expected));
  }
};

TEST_F(SampleParityTest, EveryFilterAtEveryVocabulary) {
  std::vector<DrawParams> params = ManyParams();
  for (size_t i = 0; i < params.size(); ++i) params[i].top = static_cast<int32_t>(i % 7) - 1;
  // One pack, odd ones, less and more than a pack for each thread.
  for (const int64_t vocab : {1, 7, 8, 9, 500, 8192, 10001}) {
    std::vector<std::vector<float>> rows;
    for (size_t i = 0; i < params.size(); ++i)
      rows.push_back(SomeLogits(vocab, 0.5 + static_cast<double>(i % 5), static_cast<uint32_t>(i)));
    // Rows that can be read 16 bytes at a time, and rows that cannot.
    for (const int64_t spare : {(8 - vocab % 8) % 8, (8 - vocab % 8) % 8 + 3})
      Check(rows, params, 5, spare);
  }
}

TEST_F(SampleParityTest, TheVocabularyOfLlama3) {
  std::vector<DrawParams> params = {
      MakeDrawParams(0, 0, 1, 0, 1),       MakeDrawParams(1, 0, 1, 0, 2),
      MakeDrawParams(0.7, 40, 0.95, 0, 3), MakeDrawParams(1.3, 0, 0.9, 0, 4),
      MakeDrawParams(1, 0, 1, 0.05, 5),    MakeDrawParams(1, 1000, 1, 0, 6),
      MakeDrawParams(100, 0, 0.999, 0, 7), MakeDrawParams(0.01, 0, 0.5, 0, 8)};
  for (const int32_t top : {-1, 0, 20}) {
    for (const int64_t vocab : {128256, 128259}) {
      std::vector<std::vector<float>> rows;
      for (size_t r = 0; r < params.size(); ++r) {
        params[r].top = top, params[r].step += 1;
        rows.push_back(SomeLogits(vocab, 3, static_cast<uint32_t>(r + vocab)));
      }
      Check(rows, params, std::max(top, 0), (8 - vocab % 8) % 8);
      Check(rows, params, std::max(top, 0), 1);
    }
  }
}

// More keys between the largest and the smallest of interest than shared memory has bins: large
// positive and negative numbers at a temperature that gives all of them a weight.
TEST_F(SampleParityTest, NumbersOfEverySize) {
  const int64_t vocab = 65536;
  std::vector<float> row(vocab);
  for (int64_t i = 0; i < vocab; ++i) {
    const auto bits = static_cast<uint16_t>(i * 40503 % vocab);  // each once, out of order
    row[i] = ToFloat(BFloat16{bits});
    if (!std::isfinite(row[i])) row[i] = -kInfinity;
  }
  std::vector<DrawParams> params;
  for (const double temperature : {1e-3, 1.0, 1e6, 1e20, 1e38})
    for (const int32_t top_k : {0, 30000, 60000})
      for (const double top_p : {0.5, 0.99, 1.0})
        for (uint64_t seed = 0; seed < 4; ++seed) {
          params.push_back(MakeDrawParams(temperature, top_k, top_p, 0, seed));
          params.back().top = static_cast<int32_t>(seed * 6) - 1;
        }
  const std::vector<std::vector<float>> rows(params.size(), row);
  Check(rows, params, 20, 0);
}

TEST_F(SampleParityTest, EqualsEverywhere) {
  const int64_t vocab = 20000;
  std::vector<float> same(vocab, 1.5f), two(vocab, -0.0f), masked(vocab, -kInfinity);
  for (int64_t i = 1; i < vocab; i += 2) two[i] = 0.0f;
  for (int64_t i = 19000; i < vocab; i += 100) masked[i] = -3;
  std::vector<std::vector<float>> rows;
  std::vector<DrawParams> params;
  for (const auto& row : {same, two, masked}) {
    for (const double top_p : {0.25, 1.0}) {
      for (const double temperature : {0.0, 1.0}) {
        rows.push_back(row);
        params.push_back(MakeDrawParams(temperature, 7, top_p, 0, rows.size()));
        params.back().top = 20;
      }
    }
  }
  Check(rows, params, 20, 0);
}

TEST_F(SampleParityTest, RowsWithoutNumbersSayMinusOne) {
  for (const int64_t vocab : {9, 4096}) {
    std::vector<std::vector<float>> rows(6, SomeLogits(vocab, 2, 1));
    rows[0][vocab - 1] = std::nanf("");
    rows[1][0] = -std::nanf("");
    rows[2][vocab / 2] = kInfinity;
    rows[3].assign(vocab, -kInfinity);
    rows[4].assign(vocab, std::nanf(""));
    for (const double temperature : {0.0, 1.0}) {
      std::vector<DrawParams> params(rows.size(), MakeDrawParams(temperature, 0, 0.9, 0, 1));
      for (DrawParams& p : params) p.top = 2;
      for (const int64_t spare : {vocab % 8 == 0 ? 0 : 7, 3}) {
        const SampleAnswers answers = Check(rows, params, 2, spare);
        EXPECT_EQ(answers.ids[4], -1);
        EXPECT_GE(answers.ids[5], 0);
      }
    }
  }
}

TEST_F(SampleParityTest, RunsGiveTheSameBits) {
  const std::vector<DrawParams> params = ManyParams();
  std::vector<float> all;
  for (size_t i = 0; i < params.size(); ++i) {
    const std::vector<float> row = SomeLogits(4096, 2, static_cast<uint32_t>(i));
    all.insert(all.end(), row.begin(), row.end());
  }
  const auto rows = static_cast<int64_t>(params.size());
  const Slices logits = MakeSlices({{rows, 4096}}, {std::move(all)}, 0);
  const SampleAnswers first = OnCuda(logits.cuda(0), params, 0);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(OnCuda(logits.cuda(0), params, 0).ids, first.ids);
}

TEST_F(SampleParityTest, NothingIsLaunchedForNoRows) {
  EXPECT_EQ(cuda::LaunchSample(nullptr, 8, 0, 8, nullptr, {}, cuda::Handle(stream())), cudaSuccess);
}

}  // namespace
}  // namespace lorad
