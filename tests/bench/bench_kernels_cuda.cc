// The memory-bound CUDA kernels at the shapes of Llama 3 8B: what each takes, and its share of what
// a copy within the device's memory reaches. One line of JSON a kernel.
//   bench_kernels_cuda [TOKENS]
// Each time is the median of 20, over launches that follow one another on one stream and walk
// through buffers larger than the L2 cache. `bytes` is what the kernel must read and write once.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "engine/core/float16.h"
#include "engine/ops/adamw_scalars.h"
#include "engine/ops/cuda/dequantize.h"
#include "engine/ops/cuda/dropout.h"
#include "engine/ops/cuda/elementwise.h"
#include "engine/ops/cuda/lora_operands.h"
#include "engine/ops/cuda/optimizer.h"
#include "engine/ops/cuda/sample.h"
#include "engine/ops/sample.h"
#include "tests/bench/kernel_timer.h"

namespace lorad::bench {
namespace {

constexpr int64_t kHidden = 4096, kFfn = 14336, kVocab = 128256;
constexpr int64_t kHeadDim = 128, kQHeads = 32, kKvHeads = 8;
constexpr int64_t kQ = kQHeads * kHeadDim, kKv = kKvHeads * kHeadDim;
constexpr int64_t kLayers = 32, kRank = 16;
constexpr int64_t kSpareColumns = 64;  // behind the rows of a longer contraction

class Bench : private KernelTimer {
 public:
  explicit Bench(int64_t tokens) : tokens_(tokens) {}
  void Run() {
    Ceiling();
    Norms();
    Rope();
    SwiGlu();
    Rows();
    CrossEntropy();
    Sample();
    Dequantize();
    Lora();
    Dropout();
    Optimizer();
  }

 private:
  void Ceiling();
  void Norms();
  void Rope();
  void SwiGlu();
  void Rows();
  void CrossEntropy();
  void Sample();
  void SampleRows(const std::string& name, const DrawParams& params, int64_t rows);
  void Dequantize();
  void DequantizeGroup(const std::string& name, const std::vector<int64_t>& rows, int64_t columns,
                       int bits, bool double_quant);
  void Lora();
  void LoraGroup(const std::string& name, const std::vector<int64_t>& rows);
  void Dropout();
  void Optimizer();

  const int64_t tokens_;
};

// The driver's copy, by which all others are measured, and the kernel that copies rows.
void Bench::Ceiling() {
  constexpr int64_t kBytes = int64_t{1} << 30, kColumns = 65536;
  const Memory from(kBytes, 1), to(kBytes, 1);
  Report("copy_ceiling", 2.0 * kBytes, 1, [&](int) {
    return cudaMemcpyAsync(to.at<char>(0), from.at<char>(0), kBytes, cudaMemcpyDeviceToDevice,
                           stream());
  });
  Report("copy_rows_1gib", 2.0 * kBytes, 1, [&](int) {
    return cuda::LaunchCopyRows(from.at<BFloat16>(0), kColumns, to.at<BFloat16>(0), kColumns,
                                kBytes / 2 / kColumns, kColumns, stream());
  });
}

void Bench::Norms() {
  const int64_t bytes = 2 * tokens_ * kHidden;
  const int sets = Sets(2.0 * static_cast<double>(bytes));
  const Memory x(bytes, sets), dy(bytes, sets), y(bytes, sets), gamma(4 * kHidden, 1);
  const Memory inv_rms(4 * tokens_, sets);
  const double once = static_cast<double>(bytes);
  Report("rms_norm", 2 * once, sets, [&](int s) {
    return cuda::LaunchRmsNorm(x.at<BFloat16>(s), kHidden, gamma.at<float>(0), y.at<BFloat16>(s),
                               kHidden, inv_rms.at<float>(s), tokens_, kHidden, 1e-5f, stream());
  });
  for (const bool accumulate : {false, true}) {
    Report(accumulate ? "rms_norm_backward_add" : "rms_norm_backward", (accumulate ? 4 : 3) * once,
           sets, [&](int s) {
             return cuda::LaunchRmsNormBackward(dy.at<BFloat16>(s), kHidden, x.at<BFloat16>(s),
                                                kHidden, gamma.at<float>(0), inv_rms.at<float>(s),
                                                y.at<BFloat16>(s), kHidden, accumulate, tokens_,
                                                kHidden, stream());
           });
  }
}

// q and k of one buffer [tokens, q | k | v].
void Bench::Rope() {
  constexpr int64_t kStride = kQ + 2 * kKv;
  const double bytes = 4.0 * static_cast<double>(tokens_ * (kQ + kKv));
  const int sets = Sets(bytes);
  const Memory qkv(2 * tokens_ * kStride, sets);
  Memory positions(4 * tokens_, 1), inv_freq(2 * kHeadDim, 1);
  std::vector<int32_t> position(tokens_);
  for (int64_t t = 0; t < tokens_; ++t) position[t] = static_cast<int32_t>(t);
  positions.Set(0, position);
  std::vector<float> frequency;
  for (int i = 0; i < kHeadDim / 2; ++i)
    frequency.push_back(static_cast<float>(std::pow(500000.0, -2.0 * i / kHeadDim)));
  inv_freq.Set(0, frequency);
  Report("rope", bytes, sets, [&](int s) {
    return cuda::LaunchRope(qkv.at<BFloat16>(s), kStride, positions.at<int32_t>(0),
                            inv_freq.at<float>(0), tokens_, kQHeads + kKvHeads, kHeadDim,
                            /*inverse=*/false, stream());
  });
}

// gate and up of one buffer.
void Bench::SwiGlu() {
  const int64_t bytes = 2 * tokens_ * kFfn;
  const int sets = Sets(3.0 * static_cast<double>(bytes));
  const Memory inputs(2 * bytes, sets), gradients(2 * bytes, sets), act(bytes, sets);
  const Memory dout(bytes, sets);
  const double once = static_cast<double>(bytes);
  Report("swiglu", 3 * once, sets, [&](int s) {
    const BFloat16* gate = inputs.at<BFloat16>(s);
    return cuda::LaunchSwiGlu(gate, 2 * kFfn, gate + kFfn, 2 * kFfn, act.at<BFloat16>(s), kFfn,
                              tokens_, kFfn, stream());
  });
  Report("swiglu_backward", 5 * once, sets, [&](int s) {
    const BFloat16* gate = inputs.at<BFloat16>(s);
    BFloat16* dgate = gradients.at<BFloat16>(s);
    return cuda::LaunchSwiGluBackward(dout.at<BFloat16>(s), kFfn, gate, 2 * kFfn, gate + kFfn,
                                      2 * kFfn, dgate, 2 * kFfn, dgate + kFfn, 2 * kFfn, tokens_,
                                      kFfn, stream());
  });
}

void Bench::Rows() {
  constexpr int64_t kWide = kHidden + kSpareColumns, kBiased = kQ + 2 * kKv;
  const int64_t bytes = 2 * tokens_ * kBiased;
  const int sets = Sets(2.0 * 2.0 * static_cast<double>(tokens_ * kHidden));
  const Memory table(2 * kVocab * kHidden, 1), x(bytes, sets), y(bytes, sets), bias(4 * kBiased, 1);
  Memory ids(4 * tokens_, 1);
  std::mt19937 random(1);
  std::vector<int32_t> tokens(tokens_);
  for (int32_t& id : tokens) id = static_cast<int32_t>(random() % kVocab);
  ids.Set(0, tokens);
  const double moved = 4.0 * static_cast<double>(tokens_ * kHidden);
  Report("embedding", moved, sets, [&](int s) {
    return cuda::LaunchEmbedding(ids.at<int32_t>(0), table.at<BFloat16>(0), y.at<BFloat16>(s),
                                 kHidden, tokens_, kHidden, stream());
  });
  Report("copy_rows", moved, sets, [&](int s) {
    return cuda::LaunchCopyRows(x.at<BFloat16>(s), kHidden, y.at<BFloat16>(s), kWide, tokens_,
                                kHidden, stream());
  });
  Report("add_bias", 4.0 * static_cast<double>(tokens_ * kBiased), sets, [&](int s) {
    return cuda::LaunchAddBias(y.at<BFloat16>(s), kBiased, bias.at<float>(0), tokens_, kBiased,
                               stream());
  });
}

void Bench::CrossEntropy() {
  const Memory logits(2 * tokens_ * kVocab, 1), loss(4 * tokens_, 1);
  Memory labels(4 * tokens_, 1);
  std::vector<int32_t> label(tokens_);
  for (int64_t t = 0; t < tokens_; ++t) label[t] = static_cast<int32_t>(t * 7919 % kVocab);
  labels.Set(0, label);
  const double once = 2.0 * static_cast<double>(tokens_ * kVocab);
  for (const bool gradient : {false, true}) {
    Report(gradient ? "softmax_cross_entropy_gradient" : "softmax_cross_entropy",
           (gradient ? 2 : 1) * once, 1, [&](int) {
             return cuda::LaunchSoftmaxCrossEntropy(logits.at<BFloat16>(0), labels.at<int32_t>(0),
                                                    loss.at<float>(0), 1e-3f, gradient, tokens_,
                                                    kVocab, kVocab, stream());
           });
  }
}

// Decoding rows draw their tokens: logits like a model's, a few units wide.
void Bench::SampleRows(const std::string& name, const DrawParams& params, int64_t rows) {
  const double bytes = 2.0 * static_cast<double>(rows * kVocab);
  const int sets = std::min(Sets(bytes), 8);
  Memory logits(2 * rows * kVocab, sets), draws(sizeof(DrawParams) * rows, 1);
  const Memory ids(4 * rows, 1), logprobs(4 * rows, 1);
  const Memory top_ids(4 * rows * kMaxTopLogprobs, 1), top_logprobs(4 * rows * kMaxTopLogprobs, 1);
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 3);
  std::vector<BFloat16> values(rows * kVocab);
  for (BFloat16& value : values) value = ToBFloat16(normal(random));
  for (int s = 0; s < sets; ++s) logits.Set(s, values);
  std::vector<DrawParams> all(rows, params);
  for (int64_t r = 0; r < rows; ++r) all[r].seed = r;
  draws.Set(0, all);
  const cuda::SampleOutputs outputs = {ids.at<int32_t>(0), logprobs.at<float>(0),
                                       top_ids.at<int32_t>(0), top_logprobs.at<float>(0),
                                       kMaxTopLogprobs};
  Report(name + "_" + std::to_string(rows), bytes, sets, [&](int s) {
    return cuda::LaunchSample(logits.at<BFloat16>(s), kVocab, rows, kVocab, draws.at<DrawParams>(0),
                              outputs, stream());
  });
}

void Bench::Sample() {
  DrawParams listed = MakeDrawParams(0.7, 50, 0.95, 0, 0);
  listed.top = kMaxTopLogprobs;
  for (const int64_t rows : {1, 64}) {
    SampleRows("sample_greedy", MakeDrawParams(0, 0, 1, 0, 0), rows);
    SampleRows("sample_all", MakeDrawParams(1, 0, 1, 0, 0), rows);
    SampleRows("sample_top_k_top_p", MakeDrawParams(0.7, 50, 0.95, 0, 0), rows);
    SampleRows("sample_top_k_top_p_logprobs", listed, rows);
  }
}

// Weights of `rows` outputs each, below one another in rows with spare columns. Block 64.
void Bench::DequantizeGroup(const std::string& name, const std::vector<int64_t>& rows,
                            int64_t columns, int bits, bool double_quant) {
  constexpr int64_t kBlock = 64, kNested = 256;
  int64_t all_rows = 0;
  for (const int64_t count : rows) all_rows += count;
  const int64_t elements = all_rows * columns, blocks = elements / kBlock;
  const int64_t code_bytes = elements * bits / 8, ld = columns + kSpareColumns;
  const int64_t scale_bytes = double_quant ? blocks + 4 * blocks / kNested : 4 * blocks;
  const double bytes = static_cast<double>(code_bytes + scale_bytes + 2 * elements);
  const int sets = Sets(bytes);
  Memory codes(code_bytes, sets), scales_u8(blocks, sets), books(1024, 1);
  const Memory scales(4 * blocks, sets), out(2 * all_rows * ld, sets);
  const std::vector<uint8_t> code = RandomBytes(code_bytes), scale = RandomBytes(blocks);
  for (int s = 0; s < sets; ++s) codes.Set(s, code), scales_u8.Set(s, scale);
  std::vector<std::vector<cuda::PackedWeight>> weights(sets);
  for (int s = 0; s < sets; ++s) {
    int64_t row = 0;
    for (const int64_t count : rows) {
      const int64_t block = row * columns / kBlock;
      cuda::PackedWeight weight;
      weight.codes = codes.at<uint8_t>(s) + row * columns * bits / 8;
      weight.code_book = books.at<float>(0);
      weight.bits = bits, weight.block = kBlock;
      weight.rows = count, weight.columns = columns, weight.row_offset = row;
      weight.scales = scales.at<float>(s) + block;
      if (double_quant) {
        weight.scales_u8 = scales_u8.at<uint8_t>(s) + block;
        weight.nested_scales = scales.at<float>(s) + block / kNested;
        weight.nested_code = books.at<float>(0);
      }
      weights[s].push_back(weight);
      row += count;
    }
  }
  Report(name, bytes, sets, [&](int s) {
    return cuda::LaunchDequantize(weights[s].data(), static_cast<int>(rows.size()),
                                  out.at<BFloat16>(s), ld, stream());
  });
}

void Bench::Dequantize() {
  DequantizeGroup("dequantize_nf4_q", {kQ}, kHidden, 4, true);
  DequantizeGroup("dequantize_nf4_k", {kKv}, kHidden, 4, true);
  DequantizeGroup("dequantize_nf4_v", {kKv}, kHidden, 4, true);
  DequantizeGroup("dequantize_nf4_qkv", {kQ, kKv, kKv}, kHidden, 4, true);
  DequantizeGroup("dequantize_nf4_o", {kHidden}, kQ, 4, true);
  DequantizeGroup("dequantize_nf4_gate", {kFfn}, kHidden, 4, true);
  DequantizeGroup("dequantize_nf4_up", {kFfn}, kHidden, 4, true);
  DequantizeGroup("dequantize_nf4_gate_up", {kFfn, kFfn}, kHidden, 4, true);
  DequantizeGroup("dequantize_nf4_down", {kHidden}, kFfn, 4, true);
  DequantizeGroup("dequantize_nf4_single_gate_up", {kFfn, kFfn}, kHidden, 4, false);
  DequantizeGroup("dequantize_int8_gate_up", {kFfn, kFfn}, kHidden, 8, true);
}

void Bench::LoraGroup(const std::string& name, const std::vector<int64_t>& rows) {
  const int count = static_cast<int>(rows.size());
  int64_t out = 0;
  for (const int64_t some : rows) out += some;
  constexpr int64_t kColumns = kSpareColumns, kLd = kHidden + kColumns;
  const int64_t ranks = count * kRank;
  // A read and written, B read and written.
  const double bytes = static_cast<double>(4 * ranks * kHidden + 2 * kColumns * kHidden +
                                           4 * kRank * out + 2 * kColumns * out);
  const int sets = Sets(bytes);
  const Memory a(4 * ranks * kHidden, sets), b(4 * kRank * out, sets);
  const Memory wide((out + kColumns) * kLd * 2, 1);
  Report("lora_operands_" + name, bytes, sets, [&](int s) {
    cuda::LoraOperand terms[cuda::kMaxLoraTerms];
    int64_t row = 0;
    for (int i = 0; i < count; ++i) {
      terms[i] = {.a = a.at<float>(s) + i * kRank * kHidden,
                  .a_stride = kHidden,
                  .b = b.at<float>(s) + row * kRank,
                  .b_stride = kRank,
                  .scaling = 2,
                  .rank = kRank,
                  .rows = rows[i],
                  .column = i * kRank,
                  .row = row,
                  .is_fp32 = true};
      row += rows[i];
    }
    BFloat16* matrix = wide.at<BFloat16>(0);
    return cuda::LaunchLoraOperands(terms, count, kHidden, out, kColumns, matrix + out * kLd, kLd,
                                    matrix + kHidden, kLd, stream());
  });
}

void Bench::Lora() {
  LoraGroup("qkv", {kQ, kKv, kKv});
  LoraGroup("gate_up", {kFfn, kFfn});
  constexpr int64_t kStride = kHidden + kSpareColumns;
  const double bytes = 4.0 * static_cast<double>(tokens_ * 3 * kRank);
  const int sets = Sets(2.0 * static_cast<double>(tokens_ * kStride));
  const Memory s(2 * tokens_ * kStride, sets), xa(2 * tokens_ * 3 * kRank, sets);
  Report("save_xa_qkv", bytes, sets, [&](int set) {
    cuda::XaColumns terms[3];
    for (int i = 0; i < 3; ++i) {
      terms[i] = {.xa = xa.at<BFloat16>(set) + i * tokens_ * kRank,
                  .stride = kRank,
                  .rank = kRank,
                  .column = kHidden + i * kRank};
    }
    return cuda::LaunchSaveXa(terms, 3, s.at<BFloat16>(set), kStride, tokens_, stream());
  });
}

void Bench::Dropout() {
  const int64_t bytes = 2 * tokens_ * kHidden;
  const int sets = Sets(2.0 * static_cast<double>(bytes));
  const Memory x(bytes, sets), out(bytes, sets), keys(8 * tokens_, 1);
  const cuda::DropoutMask mask = {
      .probability = 0.05f, .seed = 1, .step = 2, .module = 3, .token_keys = keys.at<uint64_t>(0)};
  Report("dropout", 2.0 * static_cast<double>(bytes), sets, [&](int s) {
    return cuda::LaunchDropout(mask, x.at<BFloat16>(s), kHidden, tokens_, kHidden,
                               out.at<BFloat16>(s), kHidden, stream());
  });
  Report("dropout_add", 3.0 * static_cast<double>(bytes), sets, [&](int s) {
    return cuda::LaunchDropoutAdd(mask, x.at<BFloat16>(s), kHidden, tokens_, kHidden,
                                  out.at<BFloat16>(s), kHidden, stream());
  });
}

// The adapters of all layers, A and B of each linear.
void Bench::Optimizer() {
  std::vector<int64_t> sizes;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    for (const int64_t width : {kHidden, kQ, kHidden, kKv, kHidden, kKv, kQ, kHidden, kHidden, kFfn,
                                kHidden, kFfn, kFfn, kHidden})
      sizes.push_back(kRank * width);
  }
  int64_t all = 0;
  for (const int64_t size : sizes) all += size;
  const Memory param(4 * all, 1), grad(4 * all, 1), m(4 * all, 1), v(4 * all, 1);
  const Memory scales(8 * all / 256, 1), partials(8 * cuda::kSumSquaresPartials, 1), sum(8, 1);
  Memory code(1024, 1), m_codes(all, 1), v_codes(all, 1);
  std::vector<float> entries;
  for (int i = 0; i < 256; ++i) entries.push_back(static_cast<float>(i - 127) / 128);
  code.Set(0, entries), m_codes.Set(0, RandomBytes(all)), v_codes.Set(0, RandomBytes(all));
  std::vector<cuda::AdamWBuffers> full, codes;
  std::vector<cuda::SumSquaresInput> inputs;
  int64_t at = 0;
  for (const int64_t size : sizes) {
    full.push_back({.param = param.at<float>(0) + at,
                    .grad = grad.at<float>(0) + at,
                    .m = m.at<float>(0) + at,
                    .v = v.at<float>(0) + at,
                    .num_elements = size});
    codes.push_back(full.back());
    codes.back().m = m_codes.at<uint8_t>(0) + at, codes.back().v = v_codes.at<uint8_t>(0) + at;
    codes.back().m_scales = scales.at<float>(0) + at / 256;
    codes.back().v_scales = scales.at<float>(0) + (all + at) / 256;
    inputs.push_back({grad.at<float>(0) + at, size});
    at += size;
  }
  struct Settings {
    double grad_scale = 1, beta1 = 0.9, beta2 = 0.999, learning_rate = 1e-6, weight_decay = 0,
           eps = 1e-8;
    int64_t step = 10;
  };
  const auto scalars = AdamWScalars<float>::Of(Settings());
  const auto count = static_cast<int64_t>(sizes.size());
  const double elements = static_cast<double>(all);
  Report("adamw", 28 * elements, 1,
         [&](int) { return cuda::LaunchAdamW(full.data(), count, scalars, stream()); });
  Report("adamw_8bit", (16 + 16.0 / 256) * elements, 1, [&](int) {
    return cuda::LaunchAdamW8Bit(codes.data(), count, scalars, code.at<float>(0), code.at<float>(0),
                                 stream());
  });
  Report("sum_squares", 4 * elements, 1, [&](int) {
    return cuda::LaunchSumSquares(inputs.data(), count, partials.at<double>(0), sum.at<double>(0),
                                  stream());
  });
}

int Main(int argc, char** argv) {
  const int64_t tokens = argc > 1 ? std::atoll(argv[1]) : 8192;
  if (tokens < 1) {
    std::fprintf(stderr, "usage: bench_kernels_cuda [TOKENS >= 1]\n");
    return 2;
  }
  Bench(tokens).Run();
  return 0;
}

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) { return lorad::bench::Main(argc, argv); }
