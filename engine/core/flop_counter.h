// What counts as a floating point operation, and a counter of those that ops carry out.
//
// The convention, for the CPU's ops and for the plan of engine/plan/flops.h alike:
//   - An addition, subtraction, multiplication, division, square root, exponential or logarithm is
//     one operation; a fused multiply-add is two. How a library computes an exponential is its own
//     business.
//   - A dot product of n terms is 2 n, also where it is added to what is there already: a residual
//     connection costs nothing beside its product. A matrix product [n, m] [m, p] is 2 n m p. Where
//     its result is scaled, that is one more for each element.
//   - Comparisons, maxima, changes of sign, copies, conversions, random numbers, and addresses are
//     none; nor are the sine and cosine of a position, which are kept in a table.
//   - A decoded weight is one multiplication, code times scale, in each op that decodes
//     it, whatever tables a kernel uses. What the scales themselves take is left out.
//   - Lanes and results that only fill up a vector are not counted, nor the few additions that join
//     the partial sums of lanes and threads. Double precision, which only checks gradients, counts
//     like float.
//   - Attention counts the pairs of a query and a key that it sees. What tiles cost on top of that
//     has a name of its own, kTiling: products with keys that a query does not see, sums scaled
//     again for another tile of keys, and weights decoded again for another tile of rows.
#ifndef LORAD_ENGINE_CORE_FLOP_COUNTER_H_
#define LORAD_ENGINE_CORE_FLOP_COUNTER_H_

#include <array>
#include <atomic>
#include <cstdint>

namespace lorad {

enum class FlopOp : uint8_t {
  kLinear,  // products with base weights, and biases
  kLora,    // products with A and B, and the scaling
  kDropout,
  kScores,      // q k^T, and what is like it in the backward pass: dq and dk
  kSoftmax,     // of the scores, the output divided by the sum; backward also rowsum(dout * o)
  kValues,      // weights times v; backward dv, and dout v^T
  kNorm,        // RMS norms
  kRope,        // the rotation
  kSwiGlu,      // silu(gate) * up
  kHead,        // the output head in the loss; the head of serving is a kLinear
  kLoss,        // softmax and cross entropy
  kOptimizer,   // AdamW, and the norm of the gradient
  kDequantize,  // each weight once an op
  kTiling,
};
inline constexpr int kNumFlopOps = 14;

// Of an op, not of the step: what is computed again for the backward pass is forward.
enum class FlopPass : uint8_t { kForward, kBackward };
inline constexpr int kNumFlopPasses = 2;

// Counts by op and pass; a plain value.
class FlopTally {
 public:
  int64_t& at(FlopOp op, FlopPass pass) { return counts_[Index(op, pass)]; }
  int64_t at(FlopOp op, FlopPass pass) const { return counts_[Index(op, pass)]; }
  bool operator==(const FlopTally&) const = default;
  FlopTally operator-(const FlopTally& earlier) const {
    FlopTally difference = *this;
    for (size_t i = 0; i < counts_.size(); ++i) difference.counts_[i] -= earlier.counts_[i];
    return difference;
  }

  static constexpr int Index(FlopOp op, FlopPass pass) {
    return static_cast<int>(op) * kNumFlopPasses + static_cast<int>(pass);
  }

 private:
  std::array<int64_t, kNumFlopOps * kNumFlopPasses> counts_{};
};

// Sums over all ops of a backend since its creation. Thread-safe. 2^63 operations are years of a
// host's work, so it does not overflow.
class FlopCounter {
 public:
  void Add(FlopOp op, FlopPass pass, int64_t flops) {
    counts_[FlopTally::Index(op, pass)].fetch_add(flops, std::memory_order_relaxed);
  }
  FlopTally Tally() const {
    FlopTally tally;
    for (int op = 0; op < kNumFlopOps; ++op) {
      for (int pass = 0; pass < kNumFlopPasses; ++pass) {
        const auto o = static_cast<FlopOp>(op);
        const auto p = static_cast<FlopPass>(pass);
        tally.at(o, p) = counts_[FlopTally::Index(o, p)].load(std::memory_order_relaxed);
      }
    }
    return tally;
  }

 private:
  std::array<std::atomic<int64_t>, kNumFlopOps * kNumFlopPasses> counts_{};
};

}  // namespace lorad

#endif  // LORAD_ENGINE_CORE_FLOP_COUNTER_H_
