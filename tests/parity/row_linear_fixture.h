// A layer of independent rows on CUDA and on the CPU, and how far apart the two may be.
//
// Bounds. Both sides multiply the same numbers: x is exact in bf16 and a weight is its bf16 value
// by definition. With u = 2^-8 (kBFloat16Roundoff), S = |y before| + |bias| + sum of |x w| and n
// inputs:
//   base rows      u |y| for the one rounding, and for fp32 sums 2^-22 (n + 16) S: the tensor cores
//                  cut each of 16 products and the sum at 2^-23 of the largest, n / 16 times over,
//                  and the CPU's n additions round at 2^-24.
//   4-bit codes    in blocks of 64 with double quantisation and columns in multiples of 256 are
//                  multiplied as bf16(code) * absmax: that and the definition's bf16(code * absmax)
//                  are each within 2^-9 of code * absmax, so 2^-8 sum of |x w| apart.
//   adapter rows   each xa_k is wrong by e_k = u |xa_k| + 2^-22 n sum of |x a|, which
//                  scaling * |b| carries into y; the r terms of the second sum add
//                  2^-22 r scaling sum of |xa b|. An adapter that is not in the product's own
//                  launch (see IsFused) adds u |y - lora| for the rounding between base and LoRA.
//   dropout        drop(x) is rounded as well: e_k grows by u / (1 - p) sum of |x a|.
// Products of two small numbers are within 1 % of it all.
#ifndef LORAD_TESTS_PARITY_ROW_LINEAR_FIXTURE_H_
#define LORAD_TESTS_PARITY_ROW_LINEAR_FIXTURE_H_

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "engine/ops/linear.h"
#include "tests/parity/parity_fixture.h"

namespace lorad {

inline constexpr double kSumRoundoff = 0x1p-22;
inline constexpr double kCodeError = 0x1p-8;

inline bool IsBlockScaled(const WeightView& weight) {
  return CodeBits(weight.spec.format) == 4 && weight.spec.block == 64 && weight.spec.double_quant &&
         weight.in_features % 256 == 0;
}

class RowLinearTest : public ParityTest {
 protected:
  struct Segment {
    int64_t begin, end, rank;
    float scaling;
    Both<float> a, b;
    DeviceBuffer served_a, served_b;  // of the same values in bf16; empty: the device has fp32 too
    Slices xa;

    TensorView cuda_a() const { return OnDevice(a, served_a); }
    TensorView cuda_b() const { return OnDevice(b, served_b); }
    static TensorView OnDevice(const Both<float>& fp32, const DeviceBuffer& served) {
      return served.data() == nullptr ? fp32.cuda() : served.View(DType::kBF16, fp32.shape);
    }
  };
  struct Term {
    Weight weight;
    Both<float> bias;
    bool has_bias = false;
    std::vector<Segment> segments;
    LoraDropout dropout, cuda_dropout;
  };
  struct Layer {
    int64_t in = 0;
    std::vector<Term> terms;
    std::vector<Shape> OutputShapes(int64_t rows) const {
      std::vector<Shape> shapes;
      for (const Term& term : terms) shapes.push_back({rows, term.weight.cpu().out_features});
      return shapes;
    }
  };
  struct Rank {
    int64_t begin, end, rank;
  };

  // Every other adapter, or all, in bf16, as it is served.
  Term MakeTerm(const QuantSpec& spec, int64_t out, int64_t in, uint32_t seed, bool bias = true,
                const std::vector<Rank>& ranks = {}, bool all_served = false) {
    Term term;
    term.weight = MakeParityWeight(spec, out, in, seed);
    term.has_bias = bias;
    if (bias) term.bias = Same<float>({out}, Random<float>({out}, seed + 1, 2).data);
    for (const Rank& r : ranks) {
      seed += 10;
      const Shape a = {r.rank, in}, b = {out, r.rank};
      Segment segment;
      segment.begin = r.begin, segment.end = r.end, segment.rank = r.rank;
      segment.scaling = 0.25f + 0.5f * static_cast<float>(seed % 7);
      std::vector<float> a_values = Random<float>(a, seed, 0.3).data;
      std::vector<float> b_values = Random<float>(b, seed + 1, 0.3).data;
      if (all_served || seed % 20 < 10) {
        segment.served_a = RoundAndUpload(a_values);
        segment.served_b = RoundAndUpload(b_values);
      }
      segment.a = Same<float>(a, std::move(a_values));
      segment.b = Same<float>(b, std::move(b_values));
      segment.xa = UnwrittenSlices({{r.end - r.begin, r.rank}}, 0);
      term.segments.push_back(std::move(segment));
    }
    return term;
  }
  // The values become what bf16 can hold.
  DeviceBuffer RoundAndUpload(std::vector<float>& values) {
    std::vector<BFloat16> rounded;
    for (float& value : values) {
      rounded.push_back(ToBFloat16(value));
      value = ToFloat(rounded.back());
    }
    return Upload(rounded.data(), static_cast<int64_t>(rounded.size() * sizeof(BFloat16)));
  }
  Layer OneTerm(const QuantSpec& spec, int64_t out, int64_t in, uint32_t seed) {
    Layer layer;
    layer.in = in;
    layer.terms.push_back(MakeTerm(spec, out, in, seed));
    return layer;
  }

  // Rows [begin, end) of the batch as a batch of their own.
  void RunCuda(Layer& layer, const Slices& x, const Slices& y, int64_t begin, int64_t end,
               bool accumulate = false, bool lora = true, const TensorView& swiglu = {}) {
    std::vector<std::vector<LoraSegment>> segments(layer.terms.size());
    std::vector<LinearTerm> terms(layer.terms.size());
    for (size_t i = 0; i < terms.size(); ++i) {
      Term& term = layer.terms[i];
      for (Segment& s : term.segments) {
        const int64_t first = std::max(begin, s.begin), last = std::min(end, s.end);
        if (!lora || first > last) continue;
        segments[i].push_back({first - begin,
                               last - begin,
                               s.cuda_a(),
                               s.cuda_b(),
                               s.scaling,
                               Rows(s.xa.cuda(0), first - s.begin, last - s.begin),
                               {},
                               {}});
      }
      terms[i].weight = term.weight.cuda();
      if (term.has_bias) terms[i].bias = term.bias.cuda();
      terms[i].lora = absl::MakeSpan(segments[i]);
      terms[i].dropout = term.cuda_dropout;
      terms[i].y = Rows(y.cuda(i), begin, end);
    }
    LinearArgs args;
    args.x = Rows(x.cuda(0), begin, end);
    args.terms = absl::MakeSpan(terms);
    args.accumulate = accumulate;
    args.row_invariant = true;
    args.swiglu = swiglu;
    const int64_t bytes = cuda().ops().LinearWorkspaceBytes(args);
    if (bytes > 0) args.workspace = Workspace(bytes);
    ASSERT_OK(cuda().ops().Linear(args, stream()));
  }

  // Runs the CPU's op into x.host and y.host. xa[i][s] are the low-rank activations.
  void RunCpu(Layer& layer, Slices& x, Slices& y, bool accumulate,
              std::vector<std::vector<std::vector<float>>>& xa) {
    std::vector<std::vector<LoraSegment>> segments(layer.terms.size());
    std::vector<LinearTerm> terms(layer.terms.size());
    xa.assign(terms.size(), {});
    for (size_t i = 0; i < terms.size(); ++i) {
      Term& term = layer.terms[i];
      for (const Segment& s : term.segments) xa[i].emplace_back((s.end - s.begin) * s.rank);
      for (size_t j = 0; j < term.segments.size(); ++j) {
        Segment& s = term.segments[j];
        const TensorView view = {xa[i][j].data(), DType::kF32, {s.end - s.begin, s.rank}};
        segments[i].push_back({s.begin, s.end, s.a.cpu(), s.b.cpu(), s.scaling, view, {}, {}});
      }
      terms[i].weight = term.weight.cpu();
      if (term.has_bias) terms[i].bias = term.bias.cpu();
      terms[i].lora = absl::MakeSpan(segments[i]);
      terms[i].dropout = term.dropout;
      terms[i].y = y.cpu(i);
    }
    LinearArgs args;
    args.x = x.cpu(0);
    args.terms = absl::MakeSpan(terms);
    args.accumulate = accumulate;
    args.row_invariant = true;
    args.workspace = CpuWorkspace(cpu().ops().LinearWorkspaceBytes(args));
    ASSERT_OK(cpu().ops().Linear(args, cpu_stream()));
  }

  static bool IsFused(const Term& term, const Segment& s, int64_t x_stride) {
    return term.weight.cuda().tiled && s.served_a.data() != nullptr && s.rank % 4 == 0 &&
           term.dropout.probability == 0 && x_stride % 8 == 0;
  }

  // Adds to `bound` what the segment's rows need; checks xa.
  void CheckSegment(const Term& term, const Segment& s, const std::vector<float>& x, int64_t in,
                    int64_t x_stride, const std::vector<float>& xa,
                    const std::vector<double>& expected, std::vector<double>& bound) {
    const int64_t out = term.weight.cpu().out_features;
    const double keep = 1 / (1 - double{term.dropout.probability});
    const double between = IsFused(term, s, x_stride) ? 0 : kBFloat16Roundoff;
    std::vector<double> xa_bound(xa.size());
    for (int64_t r = 0; r < s.end - s.begin; ++r) {
      for (int64_t k = 0; k < s.rank; ++k) {
        double magnitude = 0;
        for (int64_t c = 0; c < in; ++c)
          magnitude += std::abs(double{x[(s.begin + r) * in + c]} * s.a.host[k * in + c]) * keep;
        const double e = kBFloat16Roundoff * std::abs(xa[r * s.rank + k]) +
                         kSumRoundoff * static_cast<double>(in) * magnitude;
        const double drop = term.dropout.probability > 0 ? kBFloat16Roundoff * magnitude : 0;
        xa_bound[r * s.rank + k] = 1.01 * (e + drop);
      }
      for (int64_t o = 0; o < out; ++o) {
        double lora = 0, carried = 0, magnitude = 0;
        for (int64_t k = 0; k < s.rank; ++k) {
          const double b = s.scaling * s.b.host[o * s.rank + k];
          lora += b * xa[r * s.rank + k];
          magnitude += std::abs(b * xa[r * s.rank + k]);
          carried += std::abs(b) * xa_bound[r * s.rank + k];
        }
        const int64_t i = (s.begin + r) * out + o;
        bound[i] += carried + kSumRoundoff * static_cast<double>(s.rank) * magnitude +
                    between * std::abs(expected[i] - lora);
      }
    }
    if (xa.empty()) return;
    ExpectWithin(FetchSlice(s.xa, 0), std::vector<double>(xa.begin(), xa.end()), xa_bound);
  }

  void ExpectAgreement(Layer& layer, int64_t rows, bool accumulate, int64_t spare, uint32_t seed) {
    Slices x = RandomSlices({{rows, layer.in}}, spare, seed);
    Slices y = accumulate ? RandomSlices(layer.OutputShapes(rows), spare, seed + 1, 4)
                          : UnwrittenSlices(layer.OutputShapes(rows), spare);
    const std::vector<std::vector<float>> before = y.host;
    RunCuda(layer, x, y, 0, rows, accumulate);
    std::vector<std::vector<std::vector<float>>> xa;
    RunCpu(layer, x, y, accumulate, xa);
    for (size_t i = 0; i < layer.terms.size(); ++i) {
      const Term& term = layer.terms[i];
      const WeightView& weight = term.weight.cpu();
      const int64_t out = weight.out_features, in = layer.in;
      std::vector<double> magnitudes(out * in);
      for (int64_t w = 0; w < out * in; ++w) magnitudes[w] = std::abs(WeightAt(weight, w));
      const std::vector<double> expected(y.host[i].begin(), y.host[i].end());
      std::vector<double> bound(expected.size());
      const double code_error = IsBlockScaled(weight) ? kCodeError : 0;
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t o = 0; o < out; ++o) {
          double products = 0;
          for (int64_t c = 0; c < in; ++c)
            products += std::abs(x.host[0][r * in + c]) * magnitudes[o * in + c];
          double sum = products + (accumulate ? std::abs(before[i][r * out + o]) : 0);
          if (term.has_bias) sum += std::abs(term.bias.host[o]);
          bound[r * out + o] = kBFloat16Roundoff * std::abs(expected[r * out + o]) +
                               kSumRoundoff * static_cast<double>(in + 16) * sum +
                               code_error * products;
        }
      }
      for (size_t s = 0; s < term.segments.size(); ++s)
        CheckSegment(term, term.segments[s], x.host[0], in, in + spare, xa[i][s], expected, bound);
      for (double& b : bound) b *= 1.01;
      ExpectWithin(FetchSlice(y, i), expected, bound);
      if (HasFatalFailure()) return;
    }
  }

  // Rows [begin, end) of a fetched slice.
  static std::vector<float> Part(const std::vector<float>& values, int64_t begin, int64_t end,
                                 int64_t width) {
    return {values.begin() + begin * width, values.begin() + end * width};
  }
};

}  // namespace lorad

#endif  // LORAD_TESTS_PARITY_ROW_LINEAR_FIXTURE_H_
