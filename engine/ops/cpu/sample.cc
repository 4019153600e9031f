// Rows go to the threads; each is engine/ops/sample_row.h on its logits in fp32.
#include "engine/ops/sample.h"

#include <algorithm>
#include <vector>

#include "engine/ops/cpu/kernels.h"
#include "engine/ops/sample_row.h"

namespace lorad::cpu {
namespace {

absl::Span<const float> AsFloats(const float* logits, int64_t vocab, std::vector<float>&) {
  return absl::MakeConstSpan(logits, vocab);
}
absl::Span<const float> AsFloats(const double* logits, int64_t vocab, std::vector<float>& floats) {
  floats.assign(logits, logits + vocab);
  return floats;
}

void WriteLogprobs(const SampleArgs& args, int64_t row, const RowSampler::Logprobs& logprobs) {
  args.logprobs.as<float>()[row] = logprobs.drawn;
  if (args.top_ids.empty()) return;
  const int64_t columns = args.top_ids.shape[1];
  for (int64_t i = 0; i < std::min(columns, static_cast<int64_t>(logprobs.top.size())); ++i) {
    args.top_ids.as<int32_t>()[row * columns + i] = logprobs.top[i].first;
    args.top_logprobs.as<float>()[row * columns + i] = logprobs.top[i].second;
  }
}

// No answers beside the id.
void Clear(const SampleArgs& args, int64_t row) {
  args.logprobs.as<float>()[row] = 0;
  if (args.top_ids.empty()) return;
  const int64_t columns = args.top_ids.shape[1];
  std::fill_n(args.top_ids.as<int32_t>() + row * columns, columns, -1);
  std::fill_n(args.top_logprobs.as<float>() + row * columns, columns, 0.0f);
}

}  // namespace

template <typename T>
void Sample(const SampleArgs& args, ThreadPool& pool) {
  const int64_t rows = args.logits.shape[0], vocab = args.logits.shape[1];
  const auto* params = static_cast<const DrawParams*>(args.params.data);
  const int64_t grain = std::max<int64_t>(1, 4096 / vocab);
  pool.For(rows, grain, [&](int64_t begin, int64_t end) {
    RowSampler sampler;
    std::vector<float> floats;
    for (int64_t row = begin; row < end; ++row) {
      const absl::Span<const float> logits =
          AsFloats(args.logits.as<T>() + row * vocab, vocab, floats);
      const int32_t id = sampler.Draw(logits, params[row]);
      args.ids.as<int32_t>()[row] = id;
      Clear(args, row);
      if (id >= 0 && params[row].top >= 0)
        WriteLogprobs(args, row, sampler.LogprobsOf(logits, id, params[row].top));
    }
  });
}

template void Sample<float>(const SampleArgs&, ThreadPool&);
template void Sample<double>(const SampleArgs&, ThreadPool&);

}  // namespace lorad::cpu
