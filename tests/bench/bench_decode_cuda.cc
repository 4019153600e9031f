// The CUDA kernels of decoding at the shapes of Llama 3 8B, over graphs of launches that walk
// through buffers larger than the L2 cache: what each takes, and its share of what a copy within
// the device's memory reaches. One line of JSON a kernel.
//   bench_decode_cuda [NAME]      only kernels whose name contains NAME
// `bytes` is what the kernel must read and write once.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/ops/cuda/compiled_code.h"
#include "engine/ops/cuda/decode_attention.h"
#include "engine/ops/cuda/dequantize.h"
#include "engine/ops/cuda/elementwise.h"
#include "engine/ops/cuda/paged_attention.h"
#include "engine/ops/cuda/row_lora.h"
#include "engine/ops/cuda/row_product.h"
#include "tests/bench/kernel_timer.h"

namespace lorad::bench {
namespace {

constexpr int64_t kHidden = 4096, kFfn = 14336, kVocab = 128256;
constexpr int64_t kHeadDim = 128, kQHeads = 32, kKvHeads = 8;
constexpr int64_t kQ = kQHeads * kHeadDim, kKv = kKvHeads * kHeadDim;
constexpr int64_t kMaxRows = 64, kRank = 16;
constexpr int64_t kBlock = 64, kNested = 256;
constexpr int64_t kPageTokens = 64;
constexpr int64_t kAdapters = 256;  // in memory, more than the L2 cache holds

class Bench : private KernelTimer {
 public:
  explicit Bench(std::string only) : KernelTimer(Launching::kGraph), only_(std::move(only)) {
    counters_.Set(0, std::vector<uint32_t>(cuda::kRowProductCounters));
    cuda::RunningCode();  // not while a graph is captured
  }
  void Run() {
    Ceiling();
    Products("qkv", {kQ, kKv, kKv}, kHidden);
    Products("o", {kHidden}, kQ);
    Products("gate_up", {kFfn, kFfn}, kHidden);
    Products("down", {kHidden}, kFfn);
    Head();
    Loras("qkv", {kQ, kKv, kKv}, kHidden);
    Loras("gate_up", {kFfn, kFfn}, kHidden);
    Loras("down", {kHidden}, kFfn);
    for (const int64_t context : {1024, 8192}) {
      for (const int64_t rows : {1, 8, 64}) Attention(rows, context);
    }
    for (const int64_t rows : {1, 8, 64}) Layer(rows, /*tokens=*/1024, /*adapters=*/0);
    for (const int64_t adapters : {1, 8, 64}) Layer(/*rows=*/64, /*tokens=*/1024, adapters);
    Layer(/*rows=*/1, /*tokens=*/1024, /*adapters=*/1);
  }

 private:
  void Ceiling();
  void Products(const std::string& name, const std::vector<int64_t>& outs, int64_t columns);
  void Head();
  void Loras(const std::string& name, const std::vector<int64_t>& outs, int64_t columns);
  void LorasOf(const std::string& name, const std::vector<int64_t>& outs, int64_t columns,
               int64_t rows, int64_t adapters);
  cudaError_t LaunchHead(const Memory& weight, int64_t rows, const BFloat16* x, BFloat16* y);
  void Attention(int64_t rows, int64_t tokens);
  void Layer(int64_t rows, int64_t tokens, int64_t adapters);
  cuda::RowProductScratch scratch() const {
    return {partial_sums_.at<void>(0), kPartialBytes, counters_.at<uint32_t>(0)};
  }
  void Measure(const std::string& name, double bytes, int sets, const Launch& launch) {
    if (name.find(only_) != std::string::npos) Report(name, bytes, sets, launch);
  }

  static constexpr int64_t kPartialBytes = 32 << 20;
  const std::string only_;
  const Memory partial_sums_{kPartialBytes, 1};
  Memory counters_{cuda::kRowProductCounters * sizeof(uint32_t), 1};
};

void Bench::Ceiling() {
  constexpr int64_t kBytes = int64_t{1} << 30;
  const Memory from(kBytes, 1), to(kBytes, 1);
  Report("copy_ceiling", 2.0 * kBytes, 1, [&](int) {
    return cudaMemcpyAsync(to.at<char>(0), from.at<char>(0), kBytes, cudaMemcpyDeviceToDevice,
                           stream());
  });
}

// NF4 with double quantisation, the outputs of all terms side by side.
class Weights {
 public:
  Weights(std::vector<int64_t> outs, int64_t columns)
      : outs_(std::move(outs)),
        columns_(columns),
        elements_(std::accumulate(outs_.begin(), outs_.end(), int64_t{0}) * columns),
        sets_(KernelTimer::Sets(bytes())),
        codes_(elements_ / 2, sets_),
        scales_u8_(elements_ / kBlock, sets_),
        scales_(4 * elements_ / kBlock / kNested, sets_),
        books_(1024, 1) {
    const std::vector<uint8_t> code = RandomBytes(elements_ / 2);
    const std::vector<uint8_t> scale = RandomBytes(elements_ / kBlock);
    for (int s = 0; s < sets_; ++s) codes_.Set(s, code), scales_u8_.Set(s, scale);
  }
  double bytes() const {
    return static_cast<double>(elements_) * (1.0 / 2 + 1.0 / kBlock + 4.0 / kBlock / kNested);
  }
  int sets() const { return sets_; }
  int count() const { return static_cast<int>(outs_.size()); }
  int64_t columns() const { return columns_; }
  int64_t outs() const { return elements_ / columns_; }
  const std::vector<int64_t>& outs_of_terms() const { return outs_; }

  // Term i's outputs are columns of y [rows, outs()].
  std::array<cuda::RowProductTerm, cuda::kMaxRowProductTerms> Terms(int set, BFloat16* y) const {
    std::array<cuda::RowProductTerm, cuda::kMaxRowProductTerms> terms;
    int64_t row = 0;
    for (size_t i = 0; i < outs_.size(); ++i) {
      const int64_t block = row * columns_ / kBlock;
      cuda::PackedWeight& weight = terms[i].weight;
      weight.codes = codes_.at<uint8_t>(set) + row * columns_ / 2;
      weight.code_book = weight.nested_code = books_.at<float>(0);
      weight.bits = 4, weight.block = kBlock, weight.tiled = true;
      weight.rows = outs_[i], weight.columns = columns_;
      weight.scales_u8 = scales_u8_.at<uint8_t>(set) + block;
      weight.nested_scales = scales_.at<float>(set) + block / kNested;
      terms[i].y = y + row;
      terms[i].y_stride = outs();
      row += outs_[i];
    }
    return terms;
  }

 private:
  const std::vector<int64_t> outs_;
  const int64_t columns_, elements_;
  const int sets_;
  Memory codes_, scales_u8_;
  const Memory scales_, books_;
};

// Adapters of all terms of some weights.
class Adapters {
 public:
  using Terms = std::array<cuda::RowProductTerm, cuda::kMaxRowProductTerms>;

  explicit Adapters(const Weights& weights)
      : weights_(weights),
        each_(kRank * (weights.count() * weights.columns() + weights.outs())),
        values_(2 * kAdapters * each_, 1),
        xa_(2 * kMaxRows * kRank * weights.count(), 1) {}
  double bytes() const { return 2.0 * static_cast<double>(each_); }

  // `count` of them, other ones for each set, for equal parts of the rows; 0: none. The terms'
  // lists stay until the next call.
  void Attach(int64_t rows, int64_t count, int64_t set, Terms& terms) {
    int64_t out = 0;
    for (int i = 0; i < weights_.count(); ++i) {
      std::vector<cuda::RowProductLora>& loras = loras_[i];
      loras.clear();
      for (int64_t n = 0; n < count; ++n) {
        const int64_t begin = n * rows / count;
        const BFloat16* const a = values_.at<BFloat16>(0) + (set * count + n) % kAdapters * each_ +
                                  kRank * (i * weights_.columns() + out);
        loras.push_back({.a = a,
                         .b = a + kRank * weights_.columns(),
                         .xa = xa_.at<BFloat16>(0) + (i * rows + begin) * kRank,
                         .scaling = 2,
                         .rank = kRank,
                         .row_begin = begin,
                         .row_end = (n + 1) * rows / count});
      }
      terms[i].loras = loras.data();
      terms[i].num_loras = count;
      out += weights_.outs_of_terms()[i];
    }
  }

 private:
  const Weights& weights_;
  const int64_t each_;  // elements
  const Memory values_, xa_;
  std::array<std::vector<cuda::RowProductLora>, cuda::kMaxRowProductTerms> loras_;
};

std::string Of(int64_t adapters) { return adapters > 0 ? "_of_" + std::to_string(adapters) : ""; }

void Bench::Products(const std::string& name, const std::vector<int64_t>& outs, int64_t columns) {
  const Weights weights(outs, columns);
  Adapters adapters(weights);
  const Memory x(2 * kMaxRows * columns, 1), y(2 * kMaxRows * weights.outs(), weights.sets());
  const auto measure = [&](int64_t rows, int64_t count) {
    Measure("product_" + name + "_" + std::to_string(rows) + Of(count),
            weights.bytes() + static_cast<double>(count) * adapters.bytes(), weights.sets(),
            [&, rows, count](int s) {
              auto terms = weights.Terms(s, y.at<BFloat16>(s));
              adapters.Attach(rows, count, s, terms);
              return cuda::LaunchRowProduct(x.at<BFloat16>(0), columns, rows, terms.data(),
                                            weights.count(), scratch(), stream());
            });
  };
  for (const int64_t rows : {1, 2, 4, 8, 16, 32, 64}) measure(rows, 0);
  measure(1, 1);
  measure(16, 1);
  for (const int64_t count : {1, 8, 64}) measure(64, count);
}

cudaError_t Bench::LaunchHead(const Memory& weight, int64_t rows, const BFloat16* x, BFloat16* y) {
  cuda::RowProductTerm term;
  term.weight.codes = weight.at<BFloat16>(0);
  term.weight.bits = 16;
  term.weight.rows = kVocab, term.weight.columns = kHidden;
  term.y = y, term.y_stride = kVocab;
  return cuda::LaunchRowProduct(x, kHidden, rows, &term, 1, scratch(), stream());
}

// The dense head.
void Bench::Head() {
  const double bytes = 2.0 * kVocab * kHidden;
  const Memory weight(2 * kVocab * kHidden, 1), x(2 * kMaxRows * kHidden, 1);
  const Memory y(2 * kMaxRows * kVocab, 1);
  for (const int64_t rows : {1, 8, 64}) {
    Measure("product_head_" + std::to_string(rows), bytes, 1,
            [&](int) { return LaunchHead(weight, rows, x.at<BFloat16>(0), y.at<BFloat16>(0)); });
  }
}

void Bench::LorasOf(const std::string& name, const std::vector<int64_t>& outs, int64_t columns,
                    int64_t rows, int64_t adapters) {
  int64_t all = 0;
  for (const int64_t out : outs) all += out;
  const auto terms = static_cast<int64_t>(outs.size());
  const int64_t elements = kRank * (terms * columns + all);
  const double bytes = static_cast<double>(elements * adapters) * sizeof(BFloat16);
  const int sets = Sets(bytes);
  const Memory weights(elements * adapters * sizeof(BFloat16), sets);
  const Memory x(2 * rows * columns, 1), xa(2 * rows * kRank * terms, 1), y(2 * rows * all, 1);
  Measure("lora_" + name + "_" + std::to_string(rows) + "_of_" + std::to_string(adapters), bytes,
          sets, [&](int s) {
            std::vector<cuda::RowLoraSegment> segments;
            int64_t out_begin = 0;
            for (int64_t i = 0; i < terms; ++i) {
              for (int64_t n = 0; n < adapters; ++n) {
                const int64_t row = n * rows / adapters;
                const auto* a =
                    weights.at<BFloat16>(s) + n * elements + kRank * (i * columns + out_begin);
                segments.push_back({.x = x.at<BFloat16>(0) + row * columns,
                                    .a = a,
                                    .b = a + kRank * columns,
                                    .xa = xa.at<BFloat16>(0) + (i * rows + row) * kRank,
                                    .y = y.at<BFloat16>(0) + row * all + out_begin,
                                    .x_stride = columns,
                                    .a_stride = columns,
                                    .b_stride = kRank,
                                    .xa_stride = kRank,
                                    .y_stride = all,
                                    .rows = rows / adapters,
                                    .in = columns,
                                    .out = outs[i],
                                    .rank = kRank,
                                    .scaling = 2});
              }
              out_begin += outs[i];
            }
            return cuda::LaunchRowLora(segments.data(), static_cast<int64_t>(segments.size()),
                                       stream());
          });
}

void Bench::Loras(const std::string& name, const std::vector<int64_t>& outs, int64_t columns) {
  LorasOf(name, outs, columns, 1, 1);
  for (const int64_t adapters : {1, 8, 64}) LorasOf(name, outs, columns, 64, adapters);
}

// One new row a sequence, pages of a layer's cache in random order.
class Context {
 public:
  Context(int64_t rows, int64_t tokens)
      : rows_(rows),
        pages_(tokens / kPageTokens),
        bytes_(4 * rows * tokens * kKv),
        sets_(KernelTimer::Sets(static_cast<double>(bytes_))),
        keys_(bytes_ / 2, sets_),
        values_(bytes_ / 2, sets_),
        o_(2 * rows * kQ, 1),
        qkv_(2 * rows * (kQ + 2 * kKv), 1),
        freq_(2 * kHeadDim, 1),
        table_(4 * rows * pages_, 1),
        lens_(4 * rows, 1),
        bounds_(4 * (rows + 1), 1),
        positions_(4 * rows, 1),
        slots_(8 * rows, 1) {
    std::vector<int32_t> page(rows * pages_), bound(rows + 1);
    std::iota(page.begin(), page.end(), 0);
    std::shuffle(page.begin(), page.end(), std::mt19937(1));
    std::iota(bound.begin(), bound.end(), 0);
    std::vector<int64_t> slot;
    for (int64_t r = 0; r < rows; ++r)
      slot.push_back(page[(r + 1) * pages_ - 1] * kPageTokens + kPageTokens - 1);
    table_.Set(0, page), bounds_.Set(0, bound), slots_.Set(0, slot);
    lens_.Set(0, std::vector<int32_t>(rows, static_cast<int32_t>(tokens)));
    positions_.Set(0, std::vector<int32_t>(rows, static_cast<int32_t>(tokens - 1)));
  }
  double bytes() const { return static_cast<double>(bytes_); }
  int sets() const { return sets_; }
  BFloat16* qkv() const { return qkv_.at<BFloat16>(0); }
  BFloat16* o() const { return o_.at<BFloat16>(0); }

  cuda::PagedAttentionParams Paged(int set, void* workspace, int64_t workspace_bytes) const {
    cuda::PagedAttentionParams p;
    p.q = qkv(), p.o = o();
    p.k_cache = keys_.at<BFloat16>(set), p.v_cache = values_.at<BFloat16>(set);
    p.page_table = table_.at<int32_t>(0), p.context_lens = lens_.at<int32_t>(0);
    p.cu_seqlens = bounds_.at<int32_t>(0);
    p.num_tokens = p.num_sequences = rows_;
    p.num_heads = kQHeads, p.num_kv_heads = kKvHeads, p.head_dim = kHeadDim;
    p.page_tokens = kPageTokens, p.max_pages = p.page_table_stride = pages_;
    p.q_stride = kQ + 2 * kKv, p.o_stride = kQ;
    p.k_page_stride = p.v_page_stride = kPageTokens * kKv;
    p.scale = 0.088f;
    p.workspace = workspace, p.workspace_bytes = workspace_bytes;
    return p;
  }
  cuda::DecodeAttentionParams Decode(int set, const cuda::RowProductScratch& scratch) const {
    cuda::DecodeAttentionParams p;
    p.attention = Paged(set, scratch.partial_sums, scratch.partial_bytes);
    p.k = qkv() + kQ, p.v = qkv() + kQ + kKv, p.k_stride = p.v_stride = kQ + 2 * kKv;
    p.positions = positions_.at<int32_t>(0), p.inv_freq = freq_.at<float>(0);
    p.slots = slots_.at<int64_t>(0);
    p.k_cache = keys_.at<BFloat16>(set), p.v_cache = values_.at<BFloat16>(set);
    p.counters = scratch.counters, p.num_counters = cuda::kRowProductCounters;
    return p;
  }
  cudaError_t LaunchRopeAndWrite(int set, cudaStream_t stream) const {
    cuda::LaunchRope(qkv(), kQ + 2 * kKv, positions_.at<int32_t>(0), freq_.at<float>(0), rows_,
                     kQHeads + kKvHeads, kHeadDim, /*inverse=*/false, stream);
    cuda::KvWriteParams write;
    write.k = qkv() + kQ, write.v = qkv() + kQ + kKv, write.slots = slots_.at<int64_t>(0);
    write.k_cache = keys_.at<BFloat16>(set), write.v_cache = values_.at<BFloat16>(set);
    write.num_tokens = rows_, write.width = kKv, write.k_stride = write.v_stride = kQ + 2 * kKv;
    write.page_tokens = kPageTokens;
    write.k_page_stride = write.v_page_stride = kPageTokens * kKv;
    return cuda::LaunchKvWrite(write, stream);
  }

 private:
  const int64_t rows_, pages_, bytes_;
  const int sets_;
  const Memory keys_, values_, o_, qkv_, freq_;
  Memory table_, lens_, bounds_, positions_, slots_;
};

void Bench::Attention(int64_t rows, int64_t tokens) {
  const Context context(rows, tokens);
  const std::string shape = std::to_string(rows) + "x" + std::to_string(tokens);
  const auto paged = [&](int s) {
    return cuda::LaunchPagedAttention(context.Paged(s, partial_sums_.at<void>(0), kPartialBytes),
                                      stream());
  };
  Measure("attention_" + shape, context.bytes(), context.sets(), paged);
  // With the rotation of q and k and the write to the cache: three kernels and one.
  Measure("rope_write_attention_" + shape, context.bytes(), context.sets(), [&](int s) {
    const cudaError_t error = context.LaunchRopeAndWrite(s, stream());
    return error == cudaSuccess ? paged(s) : error;
  });
  Measure("decode_attention_" + shape, context.bytes(), context.sets(), [&](int s) {
    return cuda::LaunchDecodeAttention(context.Decode(s, scratch()), stream());
  });
}

// Linears that share an input, with adapters.
struct Linears {
  Linears(std::vector<int64_t> outs, int64_t columns)
      : weights(std::move(outs), columns), adapters(weights) {}
  Linears(const Linears&) = delete;
  Linears& operator=(const Linears&) = delete;

  Weights weights;
  Adapters adapters;
};

// The kernels of a layer one after the other, as a decoding step has them: each waits for what the
// one before it writes. `count` adapters for equal parts of the rows.
void Bench::Layer(int64_t rows, int64_t tokens, int64_t count) {
  Linears qkv({kQ, kKv, kKv}, kHidden), o({kHidden}, kQ);
  Linears gate_up({kFfn, kFfn}, kHidden), down({kHidden}, kFfn);
  const Context context(rows, tokens);
  const Memory residual_stream(2 * rows * kHidden, 1), normed_rows(2 * rows * kHidden, 1);
  const Memory act_rows(2 * rows * kFfn, 1), gamma(4 * kHidden, 1);
  auto* const x = residual_stream.at<BFloat16>(0);
  auto* const normed = normed_rows.at<BFloat16>(0);
  auto* const act = act_rows.at<BFloat16>(0);
  const auto product = [&](Linears& linears, const BFloat16* in, int s, BFloat16* y) {
    const Weights& weights = linears.weights;
    auto terms = weights.Terms(s % weights.sets(), y);
    linears.adapters.Attach(rows, count, s, terms);
    if (y == x) terms[0].residual = x, terms[0].residual_stride = kHidden;
    cuda::RowProductSwiGlu swiglu;
    if (y == act) swiglu = {act, kFfn};
    return cuda::LaunchRowProduct(in, weights.columns(), rows, terms.data(), weights.count(),
                                  scratch(), stream(), swiglu);
  };
  const auto normalised = [&](Linears& linears, int s, BFloat16* y) {
    const cudaError_t error =
        cuda::LaunchRmsNorm(x, kHidden, gamma.at<float>(0), normed, kHidden, /*inv_rms=*/nullptr,
                            rows, kHidden, 1e-5f, stream());
    return error == cudaSuccess ? product(linears, normed, s, y) : error;
  };
  const auto layer = [&](int s) {
    cudaError_t error = normalised(qkv, s, context.qkv());
    if (error != cudaSuccess) return error;
    error = cuda::LaunchDecodeAttention(context.Decode(s % context.sets(), scratch()), stream());
    if (error != cudaSuccess) return error;
    error = product(o, context.o(), s, x);
    if (error != cudaSuccess) return error;
    error = normalised(gate_up, s, act);
    return error == cudaSuccess ? product(down, act, s, x) : error;
  };
  double bytes = context.bytes();
  for (const Linears* l : {&qkv, &o, &gate_up, &down})
    bytes += l->weights.bytes() + static_cast<double>(count) * l->adapters.bytes();
  const std::string shape = std::to_string(rows) + "x" + std::to_string(tokens) + Of(count);
  Measure("layer_" + shape, bytes, down.weights.sets(), layer);
  // What a pass ends with: its shared memory and caches are as the layer left them.
  if (count > 0) return;
  const Memory head(2 * kVocab * kHidden, 1), logits(2 * rows * kVocab, 1);
  Measure("layer_head_" + shape, bytes + 2.0 * kVocab * kHidden, down.weights.sets(), [&](int s) {
    const cudaError_t error = layer(s);
    return error == cudaSuccess ? LaunchHead(head, rows, x, logits.at<BFloat16>(0)) : error;
  });
}

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) {
  if (argc > 2) {
    std::fprintf(stderr, "usage: bench_decode_cuda [NAME]\n");
    return 2;
  }
  lorad::bench::Bench(argc > 1 ? argv[1] : "").Run();
  return 0;
}
