#include "engine/plan/flop_count.h"

#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace lorad {
namespace {

constexpr std::array<std::string_view, kNumPlanOps> kNames = {
    "embedding", "norm",   "qkv",     "rope",      "scores",     "softmax",
    "values",    "output", "gate_up", "swiglu",    "down",       "lora",
    "dropout",   "head",   "loss",    "optimizer", "dequantize", "tiling"};

}  // namespace

std::string_view Name(PlanOp op) { return kNames[static_cast<int>(op)]; }

PhaseFlops FlopCount::Sum() const {
  PhaseFlops sum;
  for (const PhaseFlops& op : ops)
    for (int phase = 0; phase < kNumFlopPhases; ++phase) sum.by_phase[phase] += op.by_phase[phase];
  return sum;
}

void FlopSheet::Add(const FlopSheet& other, absl::int128 times) {
  for (int op = 0; op < kNumPlanOps; ++op)
    for (int phase = 0; phase < kNumFlopPhases; ++phase)
      sums_[op][phase] += times * other.sums_[op][phase];
}

absl::StatusOr<FlopCount> FlopSheet::Finish() const {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  FlopCount count;
  absl::int128 total = 0;
  for (int op = 0; op < kNumPlanOps; ++op) {
    for (int phase = 0; phase < kNumFlopPhases; ++phase) {
      total += sums_[op][phase];
      count.ops[op].by_phase[phase] = static_cast<int64_t>(sums_[op][phase]);
    }
  }
  if (total > kMost)
    return absl::OutOfRangeError(absl::StrCat("the plan takes ", static_cast<double>(total),
                                              " operations; at most ", kMost,
                                              " can be counted: plan fewer tokens at a time"));
  return count;
}

absl::StatusOr<double> SecondsAt(int64_t flops, double flops_per_second) {
  constexpr double kMostPerSecond = 1e21;
  if (!(flops_per_second > 0 && flops_per_second <= kMostPerSecond))
    return absl::InvalidArgumentError(absl::StrCat("the rate is ", flops_per_second,
                                                   " operations per second; it must be in (0, ",
                                                   kMostPerSecond, "]"));
  return static_cast<double>(flops) / flops_per_second;
}

}  // namespace lorad
