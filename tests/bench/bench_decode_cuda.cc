// The CUDA kernels of decoding at the shapes of Llama 3 8B, over graphs of launches that walk
// through buffers larger than the L2 cache: what each takes, and its share of what a copy within
// the device's memory reaches. One line of JSON a kernel.
//   bench_decode_cuda [NAME]      only kernels whose name contains NAME
// `bytes` is what the kernel must read and write once.
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
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
  }

 private:
  void Ceiling();
  void Products(const std::string& name, const std::vector<int64_t>& outs, int64_t columns);
  void Head();
  void Loras(const std::string& name, const std::vector<int64_t>& outs, int64_t columns);
  void LorasOf(const std::string& name, const std::vector<int64_t>& outs, int64_t columns,
               int64_t rows, int64_t adapters);
  void Attention(int64_t rows, int64_t context);
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
void Bench::Products(const std::string& name, const std::vector<int64_t>& outs, int64_t columns) {
  int64_t all = 0;
  for (const int64_t out : outs) all += out;
  const int64_t elements = all * columns, blocks = elements / kBlock;
  const double bytes = static_cast<double>(elements) / 2 + static_cast<double>(blocks) +
                       4.0 * static_cast<double>(blocks) / kNested;
  const int sets = Sets(bytes);
  Memory codes(elements / 2, sets), scales_u8(blocks, sets), books(1024, 1);
  const Memory scales(4 * blocks / kNested, sets), x(2 * kMaxRows * columns, 1);
  const Memory y(2 * kMaxRows * all, sets);
  const std::vector<uint8_t> code = RandomBytes(elements / 2), scale = RandomBytes(blocks);
  for (int s = 0; s < sets; ++s) codes.Set(s, code), scales_u8.Set(s, scale);
  const int64_t adapter = kRank * (static_cast<int64_t>(outs.size()) * columns + all);
  const Memory adapters(2 * kAdapters * adapter, 1);
  const Memory xa(2 * kMaxRows * kRank * static_cast<int64_t>(outs.size()), 1);
  // `count` adapters of rank 16 for equal parts of the rows; 0: none.
  const auto measure = [&](int64_t rows, int64_t count) {
    const std::string of = count > 0 ? "_of_" + std::to_string(count) : "";
    const double total = bytes + 2.0 * static_cast<double>(count * adapter);
    Measure(
        "product_" + name + "_" + std::to_string(rows) + of, total, sets, [&, rows, count](int s) {
          cuda::RowProductTerm terms[cuda::kMaxRowProductTerms];
          std::vector<cuda::RowProductLora> loras[cuda::kMaxRowProductTerms];
          int64_t row = 0;
          for (size_t i = 0; i < outs.size(); ++i) {
            const int64_t block = row * columns / kBlock;
            cuda::PackedWeight& weight = terms[i].weight;
            weight.codes = codes.at<uint8_t>(s) + row * columns / 2;
            weight.code_book = weight.nested_code = books.at<float>(0);
            weight.bits = 4, weight.block = kBlock;
            weight.rows = outs[i], weight.columns = columns;
            weight.scales_u8 = scales_u8.at<uint8_t>(s) + block;
            weight.nested_scales = scales.at<float>(s) + block / kNested;
            weight.tiled = true;
            terms[i].y = y.at<BFloat16>(s) + row;
            terms[i].y_stride = all;
            for (int64_t n = 0; n < count; ++n) {
              const int64_t begin = n * rows / count;
              const BFloat16* a = adapters.at<BFloat16>(0) + (s * count + n) % kAdapters * adapter +
                                  kRank * (static_cast<int64_t>(i) * columns + row);
              loras[i].push_back(
                  {.a = a,
                   .b = a + kRank * columns,
                   .xa = xa.at<BFloat16>(0) + (static_cast<int64_t>(i) * rows + begin) * kRank,
                   .scaling = 2,
                   .rank = kRank,
                   .row_begin = begin,
                   .row_end = (n + 1) * rows / count});
            }
            terms[i].loras = loras[i].data();
            terms[i].num_loras = count;
            row += outs[i];
          }
          return cuda::LaunchRowProduct(x.at<BFloat16>(0), columns, rows, terms,
                                        static_cast<int>(outs.size()), scratch(), stream());
        });
  };
  for (const int64_t rows : {1, 2, 4, 8, 16, 32, 64}) measure(rows, 0);
  measure(1, 1);
  measure(16, 1);
  for (const int64_t count : {1, 8, 64}) measure(64, count);
}

// The dense head.
void Bench::Head() {
  const double bytes = 2.0 * kVocab * kHidden;
  const Memory weight(2 * kVocab * kHidden, 1), x(2 * kMaxRows * kHidden, 1);
  const Memory y(2 * kMaxRows * kVocab, 1);
  for (const int64_t rows : {1, 8, 64}) {
    Measure("product_head_" + std::to_string(rows), bytes, 1, [&](int) {
      cuda::RowProductTerm term;
      term.weight.codes = weight.at<BFloat16>(0);
      term.weight.bits = 16;
      term.weight.rows = kVocab, term.weight.columns = kHidden;
      term.y = y.at<BFloat16>(0), term.y_stride = kVocab;
      return cuda::LaunchRowProduct(x.at<BFloat16>(0), kHidden, rows, &term, 1, scratch(),
                                    stream());
    });
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
void Bench::Attention(int64_t rows, int64_t context) {
  const int64_t pages = context / kPageTokens, width = kKvHeads * kHeadDim;
  const double bytes = 4.0 * static_cast<double>(rows * context * width);
  const int sets = Sets(bytes);
  const Memory keys(2 * rows * context * width, sets), values(2 * rows * context * width, sets);
  const Memory q(2 * rows * kQ, 1), o(2 * rows * kQ, 1);
  Memory table(4 * rows * pages, 1), lens(4 * rows, 1), bounds(4 * (rows + 1), 1);
  std::vector<int32_t> page(rows * pages), len(rows, static_cast<int32_t>(context)), bound;
  for (size_t i = 0; i < page.size(); ++i) page[i] = static_cast<int32_t>(i);
  std::shuffle(page.begin(), page.end(), std::mt19937(1));
  for (int64_t r = 0; r <= rows; ++r) bound.push_back(static_cast<int32_t>(r));
  table.Set(0, page), lens.Set(0, len), bounds.Set(0, bound);
  const Memory k(2 * rows * width, 1), v(2 * rows * width, 1), freq(2 * kHeadDim, 1);
  Memory positions(4 * rows, 1), slots(8 * rows, 1);
  std::vector<int64_t> slot;
  for (int64_t r = 0; r < rows; ++r)
    slot.push_back(page[(r + 1) * pages - 1] * kPageTokens + kPageTokens - 1);
  positions.Set(0, std::vector<int32_t>(rows, static_cast<int32_t>(context - 1)));
  slots.Set(0, slot);
  const auto params = [&](int s) {
    cuda::PagedAttentionParams p;
    p.q = q.at<BFloat16>(0), p.o = o.at<BFloat16>(0);
    p.k_cache = keys.at<BFloat16>(s), p.v_cache = values.at<BFloat16>(s);
    p.page_table = table.at<int32_t>(0), p.context_lens = lens.at<int32_t>(0);
    p.cu_seqlens = bounds.at<int32_t>(0);
    p.num_tokens = p.num_sequences = rows;
    p.num_heads = kQHeads, p.num_kv_heads = kKvHeads, p.head_dim = kHeadDim;
    p.page_tokens = kPageTokens, p.max_pages = p.page_table_stride = pages;
    p.q_stride = p.o_stride = kQ;
    p.k_page_stride = p.v_page_stride = kPageTokens * width;
    p.scale = 0.088f;
    p.workspace = partial_sums_.at<void>(0), p.workspace_bytes = kPartialBytes;
    return p;
  };
  const std::string shape = std::to_string(rows) + "x" + std::to_string(context);
  Measure("attention_" + shape, bytes, sets,
          [&](int s) { return cuda::LaunchPagedAttention(params(s), stream()); });
  // With the rotation of q and k and the write to the cache: three kernels and one.
  Measure("rope_write_attention_" + shape, bytes, sets, [&](int s) {
    const cuda::PagedAttentionParams p = params(s);
    cuda::LaunchRope(q.at<BFloat16>(0), kQ, positions.at<int32_t>(0), freq.at<float>(0), rows,
                     kQHeads, kHeadDim, /*inverse=*/false, stream());
    cuda::KvWriteParams write;
    write.k = k.at<BFloat16>(0), write.v = v.at<BFloat16>(0), write.slots = slots.at<int64_t>(0);
    write.k_cache = keys.at<BFloat16>(s), write.v_cache = values.at<BFloat16>(s);
    write.num_tokens = rows, write.width = write.k_stride = write.v_stride = width;
    write.page_tokens = kPageTokens;
    write.k_page_stride = write.v_page_stride = kPageTokens * width;
    cuda::LaunchKvWrite(write, stream());
    return cuda::LaunchPagedAttention(p, stream());
  });
  Measure("decode_attention_" + shape, bytes, sets, [&](int s) {
    cuda::DecodeAttentionParams p;
    p.attention = params(s);
    p.k = k.at<BFloat16>(0), p.v = v.at<BFloat16>(0), p.k_stride = p.v_stride = width;
    p.positions = positions.at<int32_t>(0), p.inv_freq = freq.at<float>(0);
    p.slots = slots.at<int64_t>(0);
    p.k_cache = keys.at<BFloat16>(s), p.v_cache = values.at<BFloat16>(s);
    p.counters = counters_.at<uint32_t>(0), p.num_counters = cuda::kRowProductCounters;
    return cuda::LaunchDecodeAttention(p, stream());
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
