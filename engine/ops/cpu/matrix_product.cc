// A tile of the weight is decoded into a buffer of the thread that stays in its L2 cache, and
// multiplied by OpenBLAS with up to kRowTile rows. Decoding a tile again for the next rows costs
// about a twentieth of the product. Bound by FMA.
#include "engine/ops/cpu/matrix_product.h"

#include <algorithm>
#include <vector>

#include "engine/core/checked_math.h"
#include "engine/ops/cpu/gemm.h"
#include "engine/ops/cpu/kernels.h"

namespace lorad::cpu {
namespace {

constexpr int64_t kRowTile = 256;
constexpr int64_t kOutTile = 128;  // weight rows of a tile
constexpr int64_t kInTile = 2048;  // columns of a tile, forward: the tile takes 1 MiB
constexpr int64_t kInTileBackward = 128;
constexpr int64_t kOutTileBackward = 256;
constexpr int64_t kTileElements = kOutTile * kInTile;
static_assert(kInTileBackward * kOutTileBackward <= kTileElements);

// What a product is counted as.
struct Count {
  FlopOp op;
  FlopPass pass;
  FlopMeter flops;

  void Product(int64_t rows, int64_t out, int64_t in) const {
    flops.Add(op, pass, 2 * rows * out * in);
  }
  // Decoding for the rows from `begin` on: once is needed, the rest is the tiles' doing.
  void Decoding(const WeightView& weight, int64_t elements, int64_t begin) const {
    if (weight.spec.format == QuantFormat::kNone) return;
    flops.Add(begin == 0 ? FlopOp::kDequantize : FlopOp::kTiling, pass, elements);
  }
};

// Rows [begin, end) of the batch against weight rows [out_begin, out_end).
template <typename T>
void ForwardTile(const MatrixTerm<T>& term, const T* x, int64_t begin, int64_t end,
                 int64_t out_begin, int64_t out_end, bool accumulate, T* tile, const Count& count) {
  const int64_t in = term.weight->in_features, out = term.weight->out_features;
  for (int64_t i = 0; i < in; i += kInTile) {
    const int64_t width = std::min(kInTile, in - i);
    DequantizeTile(*term.weight, {out_begin, out_end, i, i + width}, tile);
    Gemm(Op::kNone, Op::kTranspose, end - begin, out_end - out_begin, width, T{1},
         x + begin * in + i, in, tile, width, accumulate || i > 0 ? T{1} : T{0},
         term.rows + begin * out + out_begin, out);
    count.Decoding(*term.weight, (out_end - out_begin) * width, begin);
    count.Product(end - begin, out_end - out_begin, width);
  }
}

// Columns [in_begin, in_end) of dx, rows [begin, end).
template <typename T>
void BackwardTile(absl::Span<const MatrixTerm<const T>> terms, T* dx, int64_t begin, int64_t end,
                  int64_t in_begin, int64_t in_end, bool accumulate, T* tile, const Count& count) {
  for (const MatrixTerm<const T>& term : terms) {
    const int64_t in = term.weight->in_features, out = term.weight->out_features;
    for (int64_t o = 0; o < out; o += kOutTileBackward) {
      const int64_t height = std::min(kOutTileBackward, out - o);
      DequantizeTile(*term.weight, {o, o + height, in_begin, in_end}, tile);
      Gemm(Op::kNone, Op::kNone, end - begin, in_end - in_begin, height, T{1},
           term.rows + begin * out + o, out, tile, in_end - in_begin, accumulate ? T{1} : T{0},
           dx + begin * in + in_begin, in);
      count.Decoding(*term.weight, height * (in_end - in_begin), begin);
      count.Product(end - begin, height, in_end - in_begin);
      accumulate = true;
    }
  }
}

}  // namespace

int64_t MatrixScratch(const ThreadPool& pool) { return kTileElements * pool.num_threads(); }

template <typename T>
void MultiplyForward(absl::Span<const MatrixTerm<T>> terms, const T* x, int64_t num_rows,
                     bool accumulate, T* scratch, ThreadPool& pool, FlopOp op, FlopMeter flops) {
  const Count count = {op, FlopPass::kForward, flops};
  struct Tile {
    const MatrixTerm<T>* term;
    int64_t begin, out_begin;
  };
  std::vector<Tile> tiles;
  for (const MatrixTerm<T>& term : terms) {
    for (int64_t o = 0; o < term.weight->out_features; o += kOutTile) {
      for (int64_t r = 0; r < num_rows; r += kRowTile) tiles.push_back({&term, r, o});
    }
  }
  pool.ForEach(static_cast<int64_t>(tiles.size()), [&](int64_t i, int thread) {
    const Tile& tile = tiles[i];
    const int64_t end = std::min(tile.begin + kRowTile, num_rows);
    const int64_t out_end = std::min(tile.out_begin + kOutTile, tile.term->weight->out_features);
    ForwardTile(*tile.term, x, tile.begin, end, tile.out_begin, out_end, accumulate,
                scratch + thread * kTileElements, count);
  });
}

template <typename T>
void MultiplyBackward(absl::Span<const MatrixTerm<const T>> terms, T* dx, int64_t num_rows,
                      bool accumulate, T* scratch, ThreadPool& pool, FlopOp op, FlopMeter flops) {
  const Count count = {op, FlopPass::kBackward, flops};
  const int64_t in = terms[0].weight->in_features;
  const int64_t row_tiles = CeilDiv(num_rows, kRowTile), in_tiles = CeilDiv(in, kInTileBackward);
  pool.ForEach(row_tiles * in_tiles, [&](int64_t i, int thread) {
    const int64_t begin = i / in_tiles * kRowTile, end = std::min(begin + kRowTile, num_rows);
    const int64_t in_begin = i % in_tiles * kInTileBackward;
    const int64_t in_end = std::min(in_begin + kInTileBackward, in);
    BackwardTile(terms, dx, begin, end, in_begin, in_end, accumulate,
                 scratch + thread * kTileElements, count);
  });
}

template void MultiplyForward(absl::Span<const MatrixTerm<float>>, const float*, int64_t, bool,
                              float*, ThreadPool&, FlopOp, FlopMeter);
template void MultiplyForward(absl::Span<const MatrixTerm<double>>, const double*, int64_t, bool,
                              double*, ThreadPool&, FlopOp, FlopMeter);
template void MultiplyBackward(absl::Span<const MatrixTerm<const float>>, float*, int64_t, bool,
                               float*, ThreadPool&, FlopOp, FlopMeter);
template void MultiplyBackward(absl::Span<const MatrixTerm<const double>>, double*, int64_t, bool,
                               double*, ThreadPool&, FlopOp, FlopMeter);

}  // namespace lorad::cpu
