// The softmax with cross-entropy kernel on rows of bf16 logits, against the formulas in double. The
// whole op, with the output head, has a test of its own.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "engine/device/cuda/cuda_stream.h"
#include "engine/ops/cuda/elementwise.h"
#include "tests/parity/parity_fixture.h"

namespace lorad {
namespace {

constexpr double kU = kFloatRoundoff;
constexpr double kExpRoundoff = 0x1p-21;  // of ExpFrom, argument aside; it gives 0 below 2^-126
constexpr double kSmallestNormal = 0x1p-126;

// Loss and gradient of one row in double, and how far fp32 may be from them.
//
// The device's exp(x - max) errs by kExpRoundoff and, for its rounded argument, by 3 u |x - max|,
// both relatively: by e_j. A thread adds up its n terms in fp32, and corrects its sum by such an
// exponential whenever a batch of packs brings a larger logit; the block adds 1024 sums at most.
// Where terms are positive, their sum errs by no more than the worst of its terms weighted, the
// mean of e_j under the softmax, plus (terms + 10) u + (batches + 1) e of the corrections.
struct Reference {
  double loss = 0, loss_slack = 0;
  std::vector<double> gradient, slack;
};

Reference RowReference(const float* logits, int64_t vocab, int32_t label, double scale) {
  Reference reference;
  reference.gradient.assign(vocab, 0.0);
  reference.slack.assign(vocab, 0.0);
  if (label == kIgnoreLabel) return reference;
  const double largest = *std::max_element(logits, logits + vocab);
  double sum = 0, sum_error = 0, target_error = 0;
  std::vector<double> exponentials(vocab), errors(vocab);
  for (int64_t j = 0; j < vocab; ++j) {
    const double distance = largest - logits[j];
    exponentials[j] = std::exp(-distance);
    errors[j] = exponentials[j] == 0 ? 0 : kExpRoundoff + 3 * kU * distance;
    sum += exponentials[j];
    sum_error += exponentials[j] * errors[j];
  }
  // 128 threads at least, each with batches of 4 logits at least.
  const double terms = std::ceil(static_cast<double>(vocab) / 128), batches = terms / 4 + 1;
  // A correction's own argument may be as long as the row's range, but then it multiplies little:
  // what it scales is at most exp(-distance), and distance * exp(-distance) is below 1.
  sum_error = sum_error / sum + (terms + 10) * kU + (batches + 1) * (kExpRoundoff + 3 * kU);
  target_error = largest - logits[label];
  reference.loss = target_error + std::log(sum);
  reference.loss_slack = sum_error + 4 * kU * std::abs(reference.loss);
  for (int64_t j = 0; j < vocab; ++j) {
    const double p = exponentials[j] / sum, hot = j == label ? 1 : 0;
    reference.gradient[j] = scale * (p - hot);
    reference.slack[j] =
        scale * (p * (errors[j] + sum_error + 3 * kU) + kU * hot) + kSmallestNormal * (1 + scale);
  }
  return reference;
}

class CrossEntropyKernelTest : public ParityTest {
 protected:
  // Runs the kernel on rows `spare` wider than the vocabulary, which stays as it is there, and
  // compares losses and gradients.
  void Check(std::vector<float> logits, int64_t vocab, const std::vector<int32_t>& labels,
             int64_t spare, float scale) {
    const int64_t rows = static_cast<int64_t>(labels.size());
    SCOPED_TRACE(testing::Message()
                 << rows << " rows, vocabulary " << vocab << ", spare " << spare);
    for (float& value : logits) value = ToFloat(ToBFloat16(value));
    const Slices slices = MakeSlices({{rows, vocab}}, {logits}, spare);
    auto targets = Same<int32_t>({rows}, labels);
    auto loss = Same<float>({rows}, std::vector<float>(rows, std::nanf("")));

    Launch(slices, targets, loss, scale, /*gradient=*/false);
    ExpectBits(FetchSlice(slices, 0), logits);  // the loss alone leaves the logits
    const std::vector<float> loss_alone = Fetch(loss);

    Launch(slices, targets, loss, scale, /*gradient=*/true);
    const std::vector<float> losses = Fetch(loss), gradients = FetchSlice(slices, 0);
    ExpectBits(losses, loss_alone);
    for (int64_t r = 0; r < rows; ++r) {
      const Reference reference = RowReference(logits.data() + r * vocab, vocab, labels[r], scale);
      ASSERT_LE(std::abs(losses[r] - reference.loss), reference.loss_slack) << "row " << r;
      for (int64_t j = 0; j < vocab; ++j) {
        const double expected = reference.gradient[j], slack = reference.slack[j];
        const double bound = kBFloat16Roundoff * (std::abs(expected) + slack) + slack;
        ASSERT_LE(std::abs(gradients[r * vocab + j] - expected), bound)
            << "row " << r << ", logit " << j << " is " << gradients[r * vocab + j] << ", expected "
            << expected;
      }
    }

    const Slices again = MakeSlices({{rows, vocab}}, {logits}, spare);
    Launch(again, targets, loss, scale, /*gradient=*/true);
    ExpectBits(FetchSlice(again, 0), gradients);
  }

  void Launch(const Slices& slices, const Both<int32_t>& labels, const Both<float>& loss,
              float scale, bool gradient) {
    ASSERT_EQ(cuda::LaunchSoftmaxCrossEntropy(
                  slices.Base(), static_cast<const int32_t*>(labels.device.data()),
                  static_cast<float*>(loss.device.data()), scale, gradient, slices.rows,
                  slices.width, slices.stride, cuda::Handle(stream())),
              cudaSuccess);
  }
  // NaN equals NaN.
  static void ExpectBits(const std::vector<float>& actual, const std::vector<float>& expected) {
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      ASSERT_TRUE(actual[i] == expected[i] || (std::isnan(actual[i]) && std::isnan(expected[i])))
          << i << ": " << actual[i] << ", expected " << expected[i];
    }
  }
};

// The first and the last token, one in the vectors, one in the tail.
std::vector<int32_t> SomeLabels(int64_t vocab) {
  const auto last = static_cast<int32_t>(vocab - 1);
  return {0, last, kIgnoreLabel, last / 2, std::max(0, last - 1), kIgnoreLabel};
}

TEST_F(CrossEntropyKernelTest, VocabulariesOfEverySize) {
  // One thread's worth, odd, 128 and 512 threads a row, all of the row kept on chip.
  for (const int64_t vocab : {1, 2, 7, 8, 9, 1001, 1024, 8200, 32000, 32003}) {
    const std::vector<int32_t> labels = SomeLabels(vocab);
    const Shape shape = {static_cast<int64_t>(labels.size()), vocab};
    // A stride that is a multiple of 8, whatever the vocabulary; and one that is not.
    const int64_t aligned = (8 - vocab % 8) % 8;
    for (const int64_t spare : {aligned, aligned + 8, aligned + 3})
      Check(Random<float>(shape, 1, 12).data, vocab, labels, spare, 0.125f);
  }
}

// More than 1024 threads' batches, and more than shared memory keeps.
TEST_F(CrossEntropyKernelTest, TheVocabularyOfLlama3) {
  for (const int64_t vocab : {128256, 128259}) {
    for (const int64_t spare : {vocab % 8 == 0 ? 0 : 5, 1}) {
      const std::vector<int32_t> labels = {128255, kIgnoreLabel, 117000};
      Check(Random<float>({3, vocab}, 2, 9).data, vocab, labels, spare, 1.0f / 1024);
    }
  }
}

// Rows in which the largest logit comes first, last, and later and later: every batch corrects.
TEST_F(CrossEntropyKernelTest, TheLargestLogitAnywhere) {
  const int64_t vocab = 16400;
  std::vector<float> logits(4 * vocab);
  for (int64_t j = 0; j < vocab; ++j) {
    logits[j] = j == 0 ? 20.0f : 1.0f;
    logits[vocab + j] = j == vocab - 1 ? 20.0f : 1.0f;
    logits[2 * vocab + j] = 30.0f * static_cast<float>(j) / static_cast<float>(vocab);
    logits[3 * vocab + j] = -30.0f * static_cast<float>(j) / static_cast<float>(vocab);
  }
  for (const int64_t spare : {0, 1}) Check(logits, vocab, {0, 5, 16399, 16399}, spare, 0.5f);
}

TEST_F(CrossEntropyKernelTest, ExtremeLogits) {
  const int64_t vocab = 4099;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> logits(6 * vocab);
  for (int64_t j = 0; j < vocab; ++j) {
    logits[j] = 3e38f;                                       // all alike, at the end of the range
    logits[vocab + j] = j == 77 ? 3e38f : -3e38f;            // a difference that overflows
    logits[2 * vocab + j] = j % 3 == 0 ? -kInfinity : 1.0f;  // tokens that are masked
    logits[3 * vocab + j] = -20000.0f + static_cast<float>(j % 50) * 128.0f;
    logits[4 * vocab + j] = j == 4098 ? 0.0f : -87.5f;  // exponentials at the end of theirs
    logits[5 * vocab + j] = -3e38f;
  }
  for (const int64_t spare : {5, 0}) Check(logits, vocab, {4098, 77, 1, 49, 4098, 0}, spare, 1.0f);
}

// No logit of an ignored row is read, whatever it holds.
TEST_F(CrossEntropyKernelTest, IgnoredRowsAreZeroWhateverTheyHold) {
  for (const int64_t vocab : {1001, 1024}) {
    std::vector<float> logits = Random<float>({3, vocab}, 3).data;
    std::fill(logits.begin() + vocab, logits.begin() + 2 * vocab, std::nanf(""));
    for (const int64_t spare : {0, 7}) Check(logits, vocab, {1, kIgnoreLabel, 1000}, spare, 2.0f);
  }
}

TEST_F(CrossEntropyKernelTest, NothingIsLaunchedForNoRows) {
  EXPECT_EQ(cuda::LaunchSoftmaxCrossEntropy(nullptr, nullptr, nullptr, 1, true, 0, 100, 104,
                                            cuda::Handle(stream())),
            cudaSuccess);
}

}  // namespace
}  // namespace lorad
