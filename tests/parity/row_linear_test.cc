// Linear layers with independent rows on CUDA against the CPU, and their promise, bit for bit: a
// row's result is the row's own, whatever shares the batch. Bounds: row_linear_fixture.h.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "engine/ops/linear.h"
#include "tests/parity/row_linear_fixture.h"

namespace lorad {
namespace {

const std::vector<QuantSpec>& Formats() {
  static const std::vector<QuantSpec>* const formats =
      new std::vector<QuantSpec>{{QuantFormat::kNone, 64, false}, {QuantFormat::kNf4, 64, true},
                                 {QuantFormat::kNf4, 32, false},  {QuantFormat::kFp4, 128, true},
                                 {QuantFormat::kInt4, 64, false}, {QuantFormat::kInt8, 64, true},
                                 {QuantFormat::kInt8, 32, false}, {QuantFormat::kNf4, 4096, true}};
  return *formats;
}

// A width of groups that are not whole, and one of whole ones.
std::vector<std::pair<QuantSpec, int64_t>> FormatsAndWidths() {
  std::vector<std::pair<QuantSpec, int64_t>> all;
  for (const QuantSpec& spec : Formats()) {
    for (const int64_t in : {1184, 2304}) all.emplace_back(spec, in);
  }
  return all;
}

// Whole fragments, a last step that is not whole, more steps than warps, outputs that do not fill a
// tile, and columns of which no code is aligned.
TEST_F(RowLinearTest, EveryFormatAgrees) {
  const int64_t shapes[][2] = {{48, 1184}, {37, 333}, {5, 32}, {19, 2208}, {33, 130}, {21, 2304}};
  uint32_t seed = 1;
  for (const QuantSpec& spec : Formats()) {
    for (const auto& [out, in] : shapes) {
      SCOPED_TRACE(testing::Message() << static_cast<int>(spec.format) << " block " << spec.block
                                      << ", " << out << " x " << in);
      Layer layer = OneTerm(spec, out, in, seed += 100);
      ExpectAgreement(layer, 3, /*accumulate=*/in % 3 == 0, 0, seed + 50);
      ExpectAgreement(layer, 11, /*accumulate=*/in % 3 != 0, 8, seed + 60);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(RowLinearTest, EveryNumberOfRowsAgrees) {
  Layer layer = OneTerm({QuantFormat::kNf4, 64, true}, 35, 288, 1);
  for (int64_t rows = 1; rows <= 17; ++rows) {
    ExpectAgreement(layer, rows, rows % 2 == 0, 0, static_cast<uint32_t>(100 * rows));
  }
  for (int64_t rows : {31, 33, 64, 65, 70, 150}) {
    ExpectAgreement(layer, rows, false, 0, static_cast<uint32_t>(100 * rows));
  }
  Layer dense = OneTerm({QuantFormat::kNone, 64, false}, 20, 160, 2);
  ExpectAgreement(dense, 70, true, 3, 7);
}

// Whole blocks: a sum without columns, one with two groups, tiles of 256 outputs that are not full,
// that are shared, and more of them than can be.
TEST_F(RowLinearTest, WholeBlocksAgree) {
  uint32_t seed = 1;
  for (const auto& [out, in] : {std::pair{35, 768}, {300, 2304}, {520, 512}}) {
    SCOPED_TRACE(testing::Message() << out << " x " << in);
    Layer layer = OneTerm({QuantFormat::kNf4, 64, true}, out, in, seed += 100);
    for (int64_t rows : {1, 9, 16, 17, 33, 64, 70})
      ExpectAgreement(layer, rows, rows % 2 == 0, 0, seed + static_cast<uint32_t>(rows));
    if (HasFatalFailure()) return;
  }
  Layer many = OneTerm({QuantFormat::kNf4, 64, true}, 40000, 256, seed + 100);
  ExpectAgreement(many, 20, false, 0, seed + 200);
}

// A row alone, in a part of the batch, in another place of a fragment, and behind rows of NaN.
TEST_F(RowLinearTest, RowsAreIndependent) {
  constexpr int64_t kRows = 70, kOut = 35;
  uint32_t seed = 1;
  for (const auto& [spec, in] : FormatsAndWidths()) {
    SCOPED_TRACE(testing::Message() << static_cast<int>(spec.format) << ", " << in << " columns");
    Layer layer = OneTerm(spec, kOut, in, seed += 100);
    Slices x = RandomSlices({{kRows, in}}, 0, seed + 5);
    const Slices whole = UnwrittenSlices({{kRows, kOut}}, 0);
    RunCuda(layer, x, whole, 0, kRows);
    const std::vector<float> expected = FetchSlice(whole, 0);
    const int64_t parts[][2] = {{0, 1},  {1, 2},  {7, 8},   {69, 70}, {3, 11},
                                {3, 12}, {5, 30}, {20, 60}, {6, 70}};
    for (const auto& [begin, end] : parts) {
      const Slices part = UnwrittenSlices({{kRows, kOut}}, 0);
      RunCuda(layer, x, part, begin, end);
      EXPECT_EQ(Part(FetchSlice(part, 0), begin, end, kOut), Part(expected, begin, end, kOut))
          << "rows " << begin << " to " << end;
    }
    std::fill_n(x.host[0].begin(), 6 * in, std::nanf(""));
    const Slices spoilt = MakeSlices({{kRows, in}}, x.host, 0);
    const Slices behind = UnwrittenSlices({{kRows, kOut}}, 0);
    RunCuda(layer, spoilt, behind, 0, kRows);
    EXPECT_EQ(Part(FetchSlice(behind, 0), 6, kRows, kOut), Part(expected, 6, kRows, kOut));
  }
}

// The order in which a loaded model's codes lie does not show, nor which kernel took how many rows.
TEST_F(RowLinearTest, TilesDoNotShow) {
  const QuantSpec nf4 = {QuantFormat::kNf4, 64, true};
  for (const int64_t in : {256, 1536, 2304, 4096}) {
    Layer tiled, rows;
    tiled.in = rows.in = in;
    uint32_t seed = 1;
    for (const int64_t out : {512, 16, 336}) {
      tiled.terms.push_back(MakeTerm(nf4, out, in, seed += 10));
      rows.terms.push_back(MakeTerm(nf4, out, in, seed));
      rows.terms.back().weight = MakeParityWeight(nf4, out, in, seed, /*arranged=*/false);
      tiled.terms.back().weight = MakeParityWeight(nf4, out, in, seed);
      ASSERT_TRUE(tiled.terms.back().weight.cuda().tiled);
    }
    for (const int64_t count : {1, 2, 8, 9, 16, 17, 32, 33, 64, 100, 200}) {
      SCOPED_TRACE(testing::Message() << in << " columns, " << count << " rows");
      const Slices x = RandomSlices({{count, in}}, 0, seed + 5);
      const Slices y = UnwrittenSlices(tiled.OutputShapes(count), 0);
      const Slices expected = UnwrittenSlices(tiled.OutputShapes(count), 0);
      RunCuda(tiled, x, y, 0, count);
      RunCuda(rows, x, expected, 0, count);
      for (size_t i = 0; i < tiled.terms.size(); ++i)
        ASSERT_EQ(FetchSlice(y, i), FetchSlice(expected, i)) << "term " << i;
    }
  }
}

// Products that end in SwiGLU give the bits of two ops, with adapters and without, in few rows and
// in more than one kernel takes, into a tensor of its own and into gate's. Of the first shape's
// pairs of strips, in few rows, two blocks have one each; of the second those beyond a round.
TEST_F(RowLinearTest, SwiGluEndsTheProducts) {
  const QuantSpec nf4 = {QuantFormat::kNf4, 64, true};
  // None; one that is fused in the first term and not in the second; many that are fused.
  const std::vector<std::vector<Rank>> kinds = {
      {}, {{0, 1, 8}}, {{0, 1, 8}, {2, 9, 16}, {9, 10, 36}, {12, 60, 16}}};
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{336, 2304}, {5024, 512}}) {
    for (size_t kind = 0; kind < kinds.size(); ++kind) {
      Layer layer;
      layer.in = in;
      for (uint32_t seed : {10, 20})
        layer.terms.push_back(MakeTerm(nf4, out, in, seed, true, kinds[kind], kind == 2));
      for (const int64_t rows : {1, 8, 9, 16, 17, 64, 100}) {
        SCOPED_TRACE(testing::Message()
                     << out << " x " << in << ", " << rows << " rows, adapters " << kind);
        const Slices x = RandomSlices({{rows, in}}, 0, static_cast<uint32_t>(rows));
        const Slices apart = UnwrittenSlices(layer.OutputShapes(rows), 0);
        const Slices together = UnwrittenSlices(layer.OutputShapes(rows), 0);
        const Slices expected = UnwrittenSlices({{rows, out}}, 0);
        const Slices y = UnwrittenSlices({{rows, out}}, 0);
        RunCuda(layer, x, apart, 0, rows);
        ASSERT_OK(cuda().ops().SwiGlu({apart.cuda(0), apart.cuda(1), expected.cuda(0)}, stream()));
        RunCuda(layer, x, together, 0, rows, false, true, y.cuda(0));
        EXPECT_EQ(FetchSlice(y, 0), FetchSlice(expected, 0));
        RunCuda(layer, x, together, 0, rows, false, true, together.cuda(0));
        EXPECT_EQ(FetchSlice(together, 0), FetchSlice(expected, 0));
      }
    }
  }
}

// Neither the alignment of x nor that of the codes shows: the slow kernel sums as the fast one.
TEST_F(RowLinearTest, AlignmentDoesNotShow) {
  constexpr int64_t kRows = 19, kOut = 35;
  uint32_t seed = 1;
  for (const auto& [spec, in] : FormatsAndWidths()) {
    SCOPED_TRACE(testing::Message() << static_cast<int>(spec.format) << ", " << in << " columns");
    Layer layer = OneTerm(spec, kOut, in, seed += 100);
    const Slices x = RandomSlices({{kRows, in}}, 0, seed + 5);
    const Slices odd = MakeSlices({{kRows, in}}, x.host, 1);
    const Slices fast = UnwrittenSlices({{kRows, kOut}}, 0);
    RunCuda(layer, x, fast, 0, kRows);
    const std::vector<float> expected = FetchSlice(fast, 0);
    const Slices slow = UnwrittenSlices({{kRows, kOut}}, 1);
    RunCuda(layer, odd, slow, 0, kRows);
    EXPECT_EQ(FetchSlice(slow, 0), expected);

    ConstTensorView& codes = spec.format == QuantFormat::kNone ? layer.terms[0].weight.device.dense
                                                               : layer.terms[0].weight.device.codes;
    DeviceBuffer moved = Allocate(codes.size_bytes() + 2);
    char* to = static_cast<char*>(moved.data()) + 2;
    ASSERT_OK(cuda().Copy(to, codes.data, codes.size_bytes(), stream()));
    codes.data = to;
    const Slices shifted = UnwrittenSlices({{kRows, kOut}}, 0);
    RunCuda(layer, x, shifted, 0, kRows);
    EXPECT_EQ(FetchSlice(shifted, 0), expected);
  }
}

// Terms that share x, side by side: four of one format in one launch, then one of each other width.
TEST_F(RowLinearTest, TermsShareAnInput) {
  for (int64_t in : {320, 75}) {
    Layer layer;
    layer.in = in;
    const QuantSpec nf4 = {QuantFormat::kNf4, 64, true}, fp4 = {QuantFormat::kFp4, 32, false};
    layer.terms.push_back(MakeTerm(nf4, 48, in, 1, true, {{0, 4, 8}, {6, 9, 16}}));
    layer.terms.push_back(MakeTerm(nf4, 13, in, 2, false, {{0, 4, 4}}));
    layer.terms.push_back(MakeTerm(fp4, 24, in, 3, false));
    layer.terms.push_back(MakeTerm(nf4, 40, in, 4, true, {{6, 9, 3}}));
    layer.terms.push_back(MakeTerm({QuantFormat::kInt8, 64, true}, 40, in, 5, true, {{6, 9, 3}}));
    layer.terms.push_back(MakeTerm({QuantFormat::kNone, 64, false}, 8, in, 6));
    ExpectAgreement(layer, 12, false, 16, 30);
    ExpectAgreement(layer, 12, true, 16, 40);
    // Alone, each gives the same bits.
    const Slices x = RandomSlices({{12, in}}, 0, 9);
    const Slices together = UnwrittenSlices(layer.OutputShapes(12), 0);
    RunCuda(layer, x, together, 0, 12);
    for (size_t i = 0; i < layer.terms.size(); ++i) {
      Layer one;
      one.in = in;
      one.terms.push_back(std::move(layer.terms[i]));
      const Slices alone = UnwrittenSlices(one.OutputShapes(12), 0);
      RunCuda(one, x, alone, 0, 12);
      EXPECT_EQ(FetchSlice(alone, 0), FetchSlice(together, i)) << "term " << i;
    }
  }
}

// Ranks of all sizes, aligned or not, longer than shared memory's part; empty segments; base rows
// before, between and behind.
TEST_F(RowLinearTest, AdaptersOfDifferentRanks) {
  const std::vector<Rank> ranks = {{1, 2, 1},   {2, 2, 8},    {2, 11, 16},   {14, 31, 20},
                                   {31, 33, 7}, {40, 41, 64}, {41, 60, 100}, {62, 69, 134}};
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{150, 1184}, {37, 333}}) {
    Layer layer;
    layer.in = in;
    layer.terms.push_back(MakeTerm({QuantFormat::kNf4, 64, true}, out, in, 1, true, ranks));
    ExpectAgreement(layer, 70, false, 0, 50);
    ExpectAgreement(layer, 70, true, 5, 60);
  }
}

TEST_F(RowLinearTest, MoreAdaptersThanALaunchTakes) {
  std::vector<Rank> ranks;
  for (int64_t i = 0; i < 61; ++i) ranks.push_back({i, i + 1, 1 + i % 9});
  Layer layer;
  layer.in = 96;
  layer.terms.push_back(MakeTerm({QuantFormat::kNf4, 64, true}, 33, 96, 1, false, ranks));
  ExpectAgreement(layer, 64, false, 0, 50);
}

// Over tiled weights, where the launch of the product takes those adapters that are served and
// whose rank is a multiple of 4: in all kernels, several batches of 64 rows, the last tile of
// outputs not whole, sums of xa without columns.
TEST_F(RowLinearTest, AdaptersOverTiledWeights) {
  const std::vector<Rank> ranks = {{1, 2, 1},    {2, 2, 8},    {2, 11, 16},   {14, 31, 20},
                                   {31, 33, 4},  {40, 41, 64}, {41, 60, 100}, {60, 90, 16},
                                   {90, 91, 17}, {91, 99, 48}};
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{16, 256}, {304, 2304}, {48, 4864}}) {
    SCOPED_TRACE(testing::Message() << out << " x " << in);
    for (const bool all_served : {false, true}) {
      Layer layer;
      layer.in = in;
      const QuantSpec nf4 = {QuantFormat::kNf4, 64, true};
      layer.terms.push_back(MakeTerm(nf4, out, in, 1, true, ranks, all_served));
      layer.terms.push_back(MakeTerm(nf4, 2 * out, in, 2, false));
      ASSERT_TRUE(layer.terms[0].weight.cuda().tiled);
      ExpectAgreement(layer, 99, false, 0, 50);
      ExpectAgreement(layer, 99, true, 5, 60);
    }
    for (const int64_t rows : {1, 8, 9, 16, 17, 32, 64}) {
      Layer layer;
      layer.in = in;
      layer.terms.push_back(
          MakeTerm({QuantFormat::kNf4, 64, true}, out, in, 1, true, {{0, rows, 16}}, true));
      ExpectAgreement(layer, rows, rows % 2 == 0, 0, static_cast<uint32_t>(50 + rows));
    }
  }
}

// Each row its own adapter, of all sizes, in three terms of which not all have it: a row has the
// bits that it has alone and in any part of the batch, whatever numbers are in other rows and
// adapters.
TEST_F(RowLinearTest, EveryRowItsAdapter) {
  constexpr int64_t kRows = 64, kIn = 1536, kNan = 5;
  const int64_t sizes[] = {16, 8, 64, 1, 16, 17, 4, 100};
  Layer layer;
  layer.in = kIn;
  for (int64_t i = 0; i < 3; ++i) {
    std::vector<Rank> ranks;
    for (int64_t r = 0; r < kRows; ++r)
      if (r % 7 != i) ranks.push_back({r, r + 1, sizes[r % 8]});
    layer.terms.push_back(MakeTerm({QuantFormat::kNf4, 64, true}, 320 - 16 * i, kIn,
                                   static_cast<uint32_t>(1 + i), true, ranks, true));
  }
  Slices x = RandomSlices({{kRows, kIn}}, 0, 5);
  const auto run = [&](int64_t begin, int64_t end) {
    const Slices y = UnwrittenSlices(layer.OutputShapes(kRows), 0);
    RunCuda(layer, x, y, begin, end);
    std::vector<std::vector<float>> values;
    for (size_t i = 0; i < layer.terms.size(); ++i) values.push_back(FetchSlice(y, i));
    return values;
  };
  const std::vector<std::vector<float>> expected = run(0, kRows);
  const auto expect_rows = [&](const std::vector<std::vector<float>>& values, int64_t begin,
                               int64_t end) {
    for (size_t i = 0; i < values.size(); ++i) {
      const int64_t out = layer.terms[i].weight.cpu().out_features;
      EXPECT_EQ(Part(values[i], begin, end, out), Part(expected[i], begin, end, out))
          << "term " << i << ", rows " << begin << " to " << end;
    }
  };
  for (int64_t r = 0; r < kRows; ++r) expect_rows(run(r, r + 1), r, r + 1);
  const int64_t parts[][2] = {{0, 8}, {3, 12}, {3, 19}, {20, 40}, {5, 64}};
  for (const auto& [begin, end] : parts) expect_rows(run(begin, end), begin, end);

  for (Term& term : layer.terms) {
    Segment& s = term.segments[kNan];
    std::vector<float> a(s.a.host.size(), std::nanf("")), b(s.b.host.size(), std::nanf(""));
    s.served_a = RoundAndUpload(a), s.served_b = RoundAndUpload(b);
  }
  const std::vector<std::vector<float>> beside = run(0, kRows);
  for (size_t i = 0; i < layer.terms.size(); ++i) {
    const int64_t out = layer.terms[i].weight.cpu().out_features;
    const int64_t row = layer.terms[i].segments[kNan].begin;
    EXPECT_TRUE(std::isnan(beside[i][row * out]));
    EXPECT_EQ(Part(beside[i], 0, row, out), Part(expected[i], 0, row, out));
    EXPECT_EQ(Part(beside[i], row + 1, kRows, out), Part(expected[i], row + 1, kRows, out));
  }
  std::fill_n(x.host[0].begin(), 10 * kIn, std::nanf(""));
  x = MakeSlices({{kRows, kIn}}, x.host, 0);
  expect_rows(run(0, kRows), 10, kRows);
}

// More outputs than the blocks of the narrow kernel keep to add adapters to.
TEST_F(RowLinearTest, AdaptersOfManyOutputs) {
  constexpr int64_t kOut = 80000, kIn = 256, kRows = 20;
  Layer layer;
  layer.in = kIn;
  layer.terms.push_back(
      MakeTerm({QuantFormat::kNf4, 64, true}, kOut, kIn, 1, false, {{0, 2, 16}, {2, 9, 32}}, true));
  const Slices x = RandomSlices({{kRows, kIn}}, 0, 5);
  const Slices wide = UnwrittenSlices({{kRows, kOut}}, 0);
  RunCuda(layer, x, wide, 0, kRows);
  const Slices narrow = UnwrittenSlices({{kRows, kOut}}, 0);
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 3}, {3, 15}, {15, 20}})
    RunCuda(layer, x, narrow, begin, end);
  EXPECT_EQ(FetchSlice(narrow, 0), FetchSlice(wide, 0));
}

// With and without adapters around them base rows have the same bits; adapter rows have those that
// they have alone, at any place in a tile of rows.
TEST_F(RowLinearTest, AdaptersDoNotShowInOtherRows) {
  constexpr int64_t kRows = 40;
  // The second: no aligned loads. The third: in the product's launch.
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{150, 672}, {150, 671}, {304, 768}}) {
    Layer layer;
    layer.in = in;
    layer.terms.push_back(MakeTerm({QuantFormat::kNf4, 64, true}, out, in, 1, true,
                                   {{3, 14, 16}, {14, 15, 8}, {20, 37, 70}}, out == 304));
    const Slices x = RandomSlices({{kRows, in}}, 0, 5);
    const Slices mixed = UnwrittenSlices({{kRows, out}}, 0);
    RunCuda(layer, x, mixed, 0, kRows);
    const std::vector<float> expected = FetchSlice(mixed, 0);
    const Slices plain = UnwrittenSlices({{kRows, out}}, 0);
    RunCuda(layer, x, plain, 0, kRows, /*accumulate=*/false, /*lora=*/false);
    const std::vector<float> base = FetchSlice(plain, 0);
    for (int64_t r = 0; r < kRows; ++r) {
      const bool adapted = (r >= 3 && r < 15) || (r >= 20 && r < 37);
      EXPECT_EQ(Part(base, r, r + 1, out) == Part(expected, r, r + 1, out), !adapted) << r;
      const Slices alone = UnwrittenSlices({{kRows, out}}, 0);
      RunCuda(layer, x, alone, r, r + 1);
      EXPECT_EQ(Part(FetchSlice(alone, 0), r, r + 1, out), Part(expected, r, r + 1, out)) << r;
    }
  }
}

TEST_F(RowLinearTest, DropoutFallsOnTheInputOfAAlone) {
  constexpr int64_t kRows = 9, kIn = 96;
  std::vector<uint64_t> keys(kRows);
  for (int64_t t = 0; t < kRows; ++t) keys[t] = (uint64_t{5} << 32) + 7 * t;
  Both<uint64_t> token_keys = Same<uint64_t>({kRows}, keys);
  Layer layer;
  layer.in = kIn;
  for (uint32_t i = 0; i < 3; ++i) {
    Term term = MakeTerm({QuantFormat::kNf4, 64, true}, 40, kIn, 1 + i, true, {{1, 7, 16}});
    if (i != 1) term.dropout = {0.25f * static_cast<float>(1 + i), 11, 3, i, token_keys.cpu()};
    term.cuda_dropout = term.dropout;
    term.cuda_dropout.token_keys = token_keys.cuda();
    layer.terms.push_back(std::move(term));
  }
  ExpectAgreement(layer, kRows, false, 0, 50);
}

// Elements beyond 2^31: the last rows of a matrix whose other codes all mean zero.
TEST_F(RowLinearTest, LargeMatrices) {
  constexpr int64_t kIn = 32768, kZeroRows = 65536, kOut = 16, kBlock = 4096;
  Layer layer = OneTerm({QuantFormat::kNf4, kBlock, false}, kOut, kIn, 1);
  WeightView small = layer.terms[0].weight.device;
  std::vector<float> book(16);
  for (int i = 0; i < 16; ++i) book[i] = static_cast<float>(i) / 16;
  const Both<float> code_book = Same<float>({16}, book);
  small.code_book = code_book.cuda();
  WeightView large = small;
  large.out_features = kZeroRows + kOut;
  const int64_t zero_codes = kZeroRows * kIn / 2, zero_blocks = kZeroRows * kIn / kBlock;
  const DeviceBuffer codes = Allocate(zero_codes + kOut * kIn / 2);
  const DeviceBuffer scales = Allocate(4 * (zero_blocks + kOut * kIn / kBlock));
  ASSERT_OK(cuda().Zero(codes.data(), zero_codes, stream()));
  ASSERT_OK(cuda().Zero(scales.data(), 4 * zero_blocks, stream()));
  ASSERT_OK(cuda().Copy(static_cast<char*>(codes.data()) + zero_codes, small.codes.data,
                        kOut * kIn / 2, stream()));
  ASSERT_OK(cuda().Copy(static_cast<char*>(scales.data()) + 4 * zero_blocks, small.scales.data,
                        4 * (kOut * kIn / kBlock), stream()));
  large.codes = codes.View(DType::kU8, {large.num_elements() / 2});
  large.scales = scales.View(DType::kF32, {large.num_blocks()});
  layer.terms[0].has_bias = false;
  const Slices x = RandomSlices({{2, kIn}}, 0, 5);
  const Slices y = UnwrittenSlices({{2, kOut}}, 0);
  layer.terms[0].weight.device = small;
  RunCuda(layer, x, y, 0, 2);
  const std::vector<float> expected = FetchSlice(y, 0);
  EXPECT_NE(expected[0], 0);
  const Slices all = UnwrittenSlices({{2, large.out_features}}, 0);
  layer.terms[0].weight.device = large;
  RunCuda(layer, x, all, 0, 2);
  const std::vector<float> values = FetchSlice(all, 0);
  for (int64_t r = 0; r < 2; ++r) {
    const auto row = values.begin() + r * large.out_features;
    EXPECT_EQ(std::count(row, row + kZeroRows, 0.0f), kZeroRows);
    EXPECT_EQ(std::vector<float>(row + kZeroRows, row + large.out_features),
              Part(expected, r, r + 1, kOut));
  }
}

// As wide as a vocabulary: thousands of blocks, the last not whole.
TEST_F(RowLinearTest, VocabularyHead) {
  Layer layer;
  layer.in = 64;
  layer.terms.push_back(MakeTerm({QuantFormat::kNone, 64, false}, 128259, 64, 1, false));
  ExpectAgreement(layer, 5, false, 0, 50);
}

TEST_F(RowLinearTest, NoRows) {
  Layer layer = OneTerm({QuantFormat::kNf4, 64, true}, 16, 64, 1);
  const Slices x = RandomSlices({{1, 64}}, 0, 5), y = UnwrittenSlices({{1, 16}}, 0);
  RunCuda(layer, x, y, 0, 0);
  EXPECT_TRUE(std::isnan(FetchSlice(y, 0)[0]));
}

}  // namespace
}  // namespace lorad
