#include "engine/train/packing.h"

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <utility>

#include "engine/core/check.h"
#include "engine/core/checked_math.h"
#include "engine/core/philox.h"
#include "engine/train/random_key.h"

namespace lorad {
namespace {

// Uniform in [0, bound): the high half of a 64 by 64 bit product; its bias is below bound / 2^64.
uint64_t Below(uint64_t bound, uint64_t key, uint64_t index, int64_t epoch) {
  const PhiloxBlock block =
      Philox4x32(key, static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                 static_cast<uint32_t>(epoch), 0);
  const uint64_t random = uint64_t{block.words[1]} << 32 | block.words[0];
  return static_cast<uint64_t>((static_cast<unsigned __int128>(random) * bound) >> 64);
}

std::vector<std::vector<uint32_t>> OneSamplePerRow(absl::Span<const uint32_t> order) {
  std::vector<std::vector<uint32_t>> rows;
  rows.reserve(order.size());
  for (const uint32_t sample : order) rows.push_back({sample});
  return rows;
}

}  // namespace

std::vector<uint32_t> EpochOrder(int64_t num_samples, const PackingOptions& options,
                                 int64_t epoch) {
  std::vector<uint32_t> order(num_samples);
  std::iota(order.begin(), order.end(), 0u);
  if (!options.shuffle) return order;
  const uint64_t key = StreamKey(options.seed, RandomStream::kShuffle);
  for (int64_t i = num_samples - 1; i > 0; --i)
    std::swap(order[i], order[Below(static_cast<uint64_t>(i) + 1, key, i, epoch)]);
  return order;
}

std::vector<std::vector<uint32_t>> PackRows(const TokenDataset& dataset,
                                            absl::Span<const uint32_t> order,
                                            int64_t max_seq_length) {
  std::vector<std::vector<uint32_t>> rows;
  std::multimap<int64_t, size_t> open;  // room left -> row; equals in order of insertion
  for (const uint32_t sample : order) {
    const int64_t tokens = dataset.num_tokens(sample);
    LORAD_CHECK(tokens <= max_seq_length);
    int64_t room = max_seq_length;
    size_t row = rows.size();
    if (const auto fit = open.lower_bound(tokens); fit != open.end()) {
      std::tie(room, row) = *fit;
      open.erase(fit);
    } else {
      rows.emplace_back();
    }
    rows[row].push_back(sample);
    if (room > tokens) open.emplace(room - tokens, row);
  }
  return rows;
}

EpochPlan::EpochPlan(const TokenDataset& dataset, const PackingOptions& options, int64_t epoch)
    : accumulation_steps_(options.accumulation_steps) {
  const std::vector<uint32_t> order = EpochOrder(dataset.num_samples(), options, epoch);
  const std::vector<std::vector<uint32_t>> rows =
      options.packing ? PackRows(dataset, order, options.max_seq_length) : OneSamplePerRow(order);
  samples_.reserve(order.size());
  for (size_t row = 0; row < rows.size(); ++row) {
    if (row % options.micro_batch_size == 0) begins_.push_back(samples_.size());
    samples_.insert(samples_.end(), rows[row].begin(), rows[row].end());
  }
  begins_.push_back(samples_.size());
}

int64_t EpochPlan::num_steps() const { return CeilDiv(num_micro_batches(), accumulation_steps_); }

std::pair<int64_t, int64_t> EpochPlan::Step(int64_t step) const {
  const int64_t begin = step * accumulation_steps_;
  return {begin, std::min(begin + accumulation_steps_, num_micro_batches())};
}

absl::Span<const uint32_t> EpochPlan::MicroBatch(int64_t index) const {
  return absl::MakeSpan(samples_).subspan(begins_[index], begins_[index + 1] - begins_[index]);
}

int64_t MaxMicroBatchTokens(const TokenDataset& dataset, const PackingOptions& options) {
  if (options.packing)
    return std::min<int64_t>(dataset.report.tokens,
                             int64_t{options.max_seq_length} * options.micro_batch_size);
  std::vector<int64_t> lengths(dataset.num_samples());
  for (int64_t i = 0; i < dataset.num_samples(); ++i) lengths[i] = dataset.num_tokens(i);
  const int64_t rows = std::min<int64_t>(options.micro_batch_size, dataset.num_samples());
  std::partial_sort(lengths.begin(), lengths.begin() + rows, lengths.end(), std::greater<>());
  return std::accumulate(lengths.begin(), lengths.begin() + rows, int64_t{0});
}

}  // namespace lorad
