#include "engine/train/data_stream.h"

#include <cmath>

#include "engine/core/check.h"

namespace lorad {

DataStream::DataStream(const TokenDataset& dataset, const PackingOptions& options)
    : dataset_(dataset), options_(options), plan_(dataset, options, 0) {}

void DataStream::Seek(int64_t epoch, int64_t step) {
  if (epoch != epoch_) plan_ = EpochPlan(dataset_, options_, epoch);
  LORAD_CHECK(step >= 0 && step < plan_.num_steps());
  epoch_ = epoch;
  step_ = step;
}

std::vector<MicroBatch> DataStream::Next() {
  std::vector<MicroBatch> batches;
  const auto [begin, end] = plan_.Step(step_);
  for (int64_t i = begin; i < end; ++i)
    batches.push_back(MakeMicroBatch(dataset_, plan_.MicroBatch(i)));
  if (step_ + 1 < plan_.num_steps())
    ++step_;
  else
    Seek(epoch_ + 1, 0);
  return batches;
}

double DataStream::epochs_done() const {
  return static_cast<double>(epoch_) +
         static_cast<double>(step_) / static_cast<double>(plan_.num_steps());
}

int64_t CountSteps(const TokenDataset& dataset, const PackingOptions& options, double num_epochs) {
  const auto whole = static_cast<int64_t>(std::floor(num_epochs));
  const double rest = num_epochs - static_cast<double>(whole);
  // Only a new order of packed samples changes the number of rows.
  const bool same = !options.packing || !options.shuffle;
  const int64_t first = EpochPlan(dataset, options, 0).num_steps();
  int64_t steps = same ? whole * first : 0;
  for (int64_t epoch = 0; !same && epoch < whole; ++epoch)
    steps += EpochPlan(dataset, options, epoch).num_steps();
  if (rest > 0) {
    const int64_t last = same ? first : EpochPlan(dataset, options, whole).num_steps();
    steps += static_cast<int64_t>(std::ceil(rest * static_cast<double>(last)));
  }
  return steps;
}

}  // namespace lorad
