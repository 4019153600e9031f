// OptimalSchedule: the dynamic programme, and the schedule read off its table.
#include <algorithm>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/plan/checkpointing.h"

namespace lorad {
namespace {

using Step = CheckpointingStep;

constexpr int64_t kMostScheduledLayers = 192;

// Forward passes for the layers of a chain whose input is held, when `inputs` more inputs and
// `layers` layers' activations are held already.
class Table {
 public:
  // What the budget leaves beside the chain's own input.
  Table(const LayerChain& chain, int64_t room)
      : chain_(chain),
        room_(room),
        inputs_(chain.input_bytes == 0 ? chain.num_layers
                                       : std::min(chain.num_layers, room / chain.input_bytes + 1)),
        layers_(std::min(chain.num_layers, room / chain.layer_bytes + 1)),
        cost_((chain.num_layers + 1) * inputs_ * layers_, kNever) {
    for (int64_t i = inputs_ - 1; i >= 0; --i)
      for (int64_t j = layers_ - 1; j >= 0; --j)
        for (int64_t length = 1; length <= chain.num_layers; ++length) Fill(length, i, j);
  }

  CheckpointingSchedule Read() const {
    CheckpointingSchedule schedule;
    Walk(0, chain_.num_layers, 0, 0, schedule);
    schedule.cost.recomputed_layers = Cost(chain_.num_layers, 0, 0) - chain_.num_layers;
    return schedule;
  }

 private:
  static constexpr int32_t kNever = std::numeric_limits<int32_t>::max() / 4;

  size_t Index(int64_t length, int64_t i, int64_t j) const {
    return static_cast<size_t>((i * layers_ + j) * (chain_.num_layers + 1) + length);
  }
  int32_t Cost(int64_t length, int64_t i, int64_t j) const {
    return i < inputs_ && j < layers_ ? cost_[Index(length, i, j)] : kNever;
  }
  int64_t Held(int64_t i, int64_t j) const {
    return i * chain_.input_bytes + j * chain_.layer_bytes;
  }
  // Whether a layer can run at all: what it makes must find room, kept or not.
  bool Runs(int64_t i, int64_t j) const { return Held(i, j + 1) <= room_; }

  int32_t Keeping(int64_t length, int64_t i, int64_t j) const {
    return 1 + (length == 1 ? 0 : Cost(length - 1, i, j + 1));
  }
  // `first` layers without keeping, then the rest, then the first ones again.
  int32_t Splitting(int64_t length, int64_t first, int64_t i, int64_t j) const {
    return static_cast<int32_t>(first) + Cost(length - first, i + 1, j) + Cost(first, i, j);
  }
  void Fill(int64_t length, int64_t i, int64_t j) {
    if (!Runs(i, j)) return;
    int32_t best = Keeping(length, i, j);
    if (i + 1 < inputs_) {
      // Splitting(), with its two rows of the table by the pointers that the loop runs along.
      const int32_t* const rest = &cost_[Index(0, i + 1, j)];
      const int32_t* const own = &cost_[Index(0, i, j)];
      for (int64_t first = 1; first < length; ++first)
        best = std::min(best, static_cast<int32_t>(first) + rest[length - first] + own[first]);
    }
    cost_[Index(length, i, j)] = std::min(best, kNever);
  }

  void Walk(int64_t begin, int64_t length, int64_t i, int64_t j,
            CheckpointingSchedule& schedule) const {
    int64_t& peak = schedule.cost.peak_bytes;
    peak = std::max(peak, chain_.fixed_bytes + chain_.input_bytes + Held(i, j + 1));
    const int32_t cost = Cost(length, i, j);
    if (Keeping(length, i, j) == cost) {
      schedule.steps.push_back({Step::Kind::kKeep, begin, begin + 1});
      if (length > 1) Walk(begin + 1, length - 1, i, j + 1, schedule);
      schedule.steps.push_back({Step::Kind::kBackward, begin, begin + 1});
      return;
    }
    int64_t first = 1;
    while (Splitting(length, first, i, j) != cost) ++first;
    schedule.steps.push_back({Step::Kind::kForward, begin, begin + first});
    Walk(begin + first, length - first, i + 1, j, schedule);
    Walk(begin, first, i, j, schedule);
  }

  const LayerChain& chain_;
  const int64_t room_;
  const int64_t inputs_, layers_;  // bounds of what can be held
  std::vector<int32_t> cost_;      // [inputs held][layers held][length]
};

}  // namespace

absl::StatusOr<CheckpointingSchedule> OptimalSchedule(const LayerChain& chain,
                                                      int64_t budget_bytes) {
  RETURN_IF_ERROR(Validate(chain));
  if (chain.num_layers > kMostScheduledLayers)
    return absl::InvalidArgumentError(absl::StrCat("num_layers is ", chain.num_layers,
                                                   "; an optimal schedule is searched for up to ",
                                                   kMostScheduledLayers));
  const int64_t least = KeepNothingCost(chain).peak_bytes;
  if (budget_bytes < least)
    return absl::ResourceExhaustedError(
        absl::StrCat("activations: at least ", least, " bytes are needed, ", budget_bytes,
                     " are there; use a smaller micro-batch or shorter sequences"));
  return Table(chain, budget_bytes - chain.fixed_bytes - chain.input_bytes).Read();
}

}  // namespace lorad
