// Draws a token from each row of bf16 logits; meaning, order and arithmetic: engine/ops/sample.h.
//
// logits: bf16 [rows, vocab], rows a stride apart. params [rows]. ids int32 [rows], logprobs fp32
// [rows], top_ids int32 and top_logprobs fp32 [rows, top_columns]. Nothing aliases.
//
// A block of 1024 threads takes a row and walks through it
//   once for the largest logit, and where that is an error no further;
//   once for the histogram of its numbers (sample_histogram.cuh), which answers top-k, top-p, the
//   draw itself and the sum of softmax; greedy rows without logprobs leave it out;
//   once for the ids of the tokens with the number that was drawn, of which one is taken;
//   for the likeliest tokens, twice more.
//
// Bound by memory: 2 * rows * vocab bytes, which the output head has just left in L2 (16 MB for 64
// rows of 128,256). What a row takes is mostly the histogram's atomics in shared memory, about one
// instruction a token; with fewer rows than SMs, time does not depend on rows.
#include "engine/ops/cuda/sample.h"
#include "engine/ops/cuda/sample_histogram.cuh"

namespace lorad::cuda {
namespace {

struct SampleLaunch {
  const __nv_bfloat16* logits;
  int64_t stride;
  int vocab;
  const DrawParams* params;
  SampleOutputs out;
  int tiles;  // of bins that shared memory has room for
};

struct SampleShared {
  float warp_max[kBlockWarps];
  uint32_t equals[kBlockWarps];
  SampleScratch scratch;
  int id;
  // The likeliest tokens, those above the last one's number first, in no order.
  int num_above;
  float top_logits[kMaxTopLogprobs];
  int top_ids[kMaxTopLogprobs];
};

__device__ bool IsGreedy(const DrawParams& draw) { return draw.octaves_per_unit == 0; }
// A greedy row counts weights for its logprobs alone.
__device__ float OctavesPerUnit(const DrawParams& draw) {
  return IsGreedy(draw) ? kLog2E : draw.octaves_per_unit;
}

// The smallest key that can matter: of the last token with a weight, with room for rounding, or of
// any number where the likeliest are listed.
__device__ uint32_t LowestKey(const DrawParams& draw, float max) {
  if (draw.top > 0) return kKeyOfMinusInfinity;
  float octaves = OctavesPerUnit(draw);
  if (draw.top == 0) octaves = fminf(octaves, kLog2E);
  const uint32_t key = KeyOf(max - (kSampleOctaves + 1) / octaves);
  return key > kKeyOfMinusInfinity ? key - 1 : kKeyOfMinusInfinity;
}

// The number that is drawn, and which of its tokens.
struct Drawn {
  uint32_t key, rank;
};
template <int kWidth>
__device__ Drawn DrawKey(const DrawParams& draw, SampleHistogram<kWidth>& histogram) {
  uint64_t kept = histogram.weight();
  if (draw.top_k > 0 && static_cast<uint32_t>(draw.top_k) < histogram.count()) {
    const SamplePlace last = histogram.FindByCount(draw.top_k - 1);
    kept = last.weight_before + last.count * last.weight;
  }
  if (draw.top_p != 0) {
    const uint64_t target = ShareOfWeight(draw.top_p, kept) - 1;
    const SamplePlace last = histogram.FindByWeight(target);
    const uint64_t whole = (target - last.weight_before) / last.weight + 1;
    kept = last.weight_before + whole * last.weight;
  }
  const uint64_t target = HighProduct(SampleBits(draw.seed, draw.step), kept);
  const SamplePlace place = histogram.FindByWeight(target);
  return {place.key, static_cast<uint32_t>((target - place.weight_before) / place.weight)};
}

// The `top` likeliest tokens into shared memory, then in their order to row `row` of the outputs.
template <int kWidth>
__device__ void WriteTop(const SampleLaunch& p, int64_t row, const SampleRow<kWidth>& logits,
                         int top, float max, double log_sum, SampleHistogram<kWidth>& histogram,
                         SampleShared& shared) {
  const SamplePlace last = histogram.FindByCount(top - 1);
  const float value = LogitOf(last.key);
  if (threadIdx.x == 0) shared.num_above = 0;
  __syncthreads();
  logits.ForEach([&](float logit, int id) {
    if (!(logit > value)) return;
    const int place = atomicAdd(&shared.num_above, 1);
    shared.top_logits[place] = logit;
    shared.top_ids[place] = id;
  });
  logits.CountEquals(value, shared.equals);
  for (int i = static_cast<int>(last.count_before); i < top; ++i) {
    logits.FindEqual(value, i - last.count_before, shared.equals, &shared.top_ids[i]);
    if (threadIdx.x == 0) shared.top_logits[i] = value;
  }
  __syncthreads();
  if (threadIdx.x >= top) return;
  const float logit = shared.top_logits[threadIdx.x];
  const int id = shared.top_ids[threadIdx.x];
  int place = 0;
  for (int i = 0; i < top; ++i) {
    const float other = shared.top_logits[i];
    place += other > logit || (other == logit && shared.top_ids[i] < id) ? 1 : 0;
  }
  p.out.top_ids[row * p.out.top_columns + place] = id;
  p.out.top_logprobs[row * p.out.top_columns + place] = SampleLogprob(logit, max, log_sum);
}

// No answers: what a row does not fill in stays so.
__device__ void ClearOutputs(const SampleLaunch& p, int64_t row) {
  if (threadIdx.x == 0) p.out.ids[row] = -1, p.out.logprobs[row] = 0.0f;
  if (threadIdx.x >= p.out.top_columns) return;
  p.out.top_ids[row * p.out.top_columns + threadIdx.x] = -1;
  p.out.top_logprobs[row * p.out.top_columns + threadIdx.x] = 0.0f;
}

template <int kWidth>
__global__ void __launch_bounds__(kBlockThreads) SampleKernel(const SampleLaunch p) {
  extern __shared__ uint64_t memory[];
  __shared__ SampleShared shared;
  const int64_t row = blockIdx.x;
  const DrawParams draw = p.params[row];
  const SampleRow<kWidth> logits(p.logits + row * p.stride, p.vocab);
  ClearOutputs(p, row);
  const uint32_t largest = logits.LargestKey(shared.warp_max);
  if (largest >= kKeyOfInfinity || largest <= kKeyOfMinusInfinity) return;

  const bool greedy = IsGreedy(draw), wants_logprobs = draw.top >= 0;
  const float max = LogitOf(largest);
  const SampleBins bins(memory, p.tiles);
  SampleHistogram<kWidth> histogram(logits, largest, LowestKey(draw, max), OctavesPerUnit(draw),
                                    greedy ? 1 : draw.min_weight, bins, shared.scratch);
  if (!greedy || wants_logprobs) histogram.Count(wants_logprobs);
  const Drawn drawn = greedy ? Drawn{largest, 0} : DrawKey(draw, histogram);
  logits.CountEquals(LogitOf(drawn.key), shared.equals);
  logits.FindEqual(LogitOf(drawn.key), drawn.rank, shared.equals, &shared.id);
  __syncthreads();
  const double log_sum = wants_logprobs ? LogOfSampleWeights(histogram.plain_weight()) : 0;
  if (threadIdx.x == 0) {
    p.out.ids[row] = shared.id;
    if (wants_logprobs) p.out.logprobs[row] = SampleLogprob(LogitOf(drawn.key), max, log_sum);
  }
  const int top = min(min(draw.top, p.out.top_columns), p.vocab);
  if (top > 0) WriteTop(p, row, logits, top, max, log_sum, histogram, shared);
}

// Tiles of bins that fit beside the block's static shared memory.
cudaError_t CountTiles(int* tiles) {
  constexpr int kReserved = 1024;  // the system's own, for each block
  int device = 0, most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  const int64_t left = most - kReserved - static_cast<int64_t>(sizeof(SampleShared));
  *tiles = static_cast<int>(left / SampleBins::kBytesPerTile);
  return error;
}

template <int kWidth>
cudaError_t Launch(const SampleLaunch& p, int64_t rows, cudaStream_t stream) {
  const int64_t bytes = p.tiles * SampleBins::kBytesPerTile;
  const cudaError_t error = cudaFuncSetAttribute(
      SampleKernel<kWidth>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (error != cudaSuccess) return error;
  SampleKernel<kWidth>
      <<<static_cast<unsigned>(rows), kBlockThreads, static_cast<size_t>(bytes), stream>>>(p);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchSample(const BFloat16* logits, int64_t stride, int64_t rows, int64_t vocab,
                         const DrawParams* params, const SampleOutputs& outputs,
                         cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  SampleLaunch p = {reinterpret_cast<const __nv_bfloat16*>(logits),
                    stride,
                    static_cast<int>(vocab),
                    params,
                    outputs,
                    /*tiles=*/0};
  if (const cudaError_t error = CountTiles(&p.tiles); error != cudaSuccess) return error;
  if (IsAligned(logits, stride)) return Launch<kVectorWidth>(p, rows, stream);
  return Launch<1>(p, rows, stream);
}

}  // namespace lorad::cuda
