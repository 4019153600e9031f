// How far CUDA may be from the CPU in linear layers.
//
// x, dy and xa in the backward pass are the same numbers on both sides, and so are the weights.
// CUDA rounds, to bf16 (u = kBFloat16Roundoff relatively, at most): A, scaling * B, x A^T, dy B,
// drop(x), and y and dx each time a product is added to them. Sums are fp32.
//
// Errors of the roundings of many operands are independent and of both signs, so their sum stays
// within kSpread times the root of the sum of squares of their bounds: by Hoeffding's inequality up
// to a chance of 2 exp(-kSpread^2 / 2) = 3e-8 for each element, and in truth far less, as a
// rounding's error is spread evenly below its bound (Higham and Mary, "A new approach to
// probabilistic rounding error analysis", 2019). A sum of n terms in fp32 errs by n roundoffs of
// the absolute sum; tensor cores cut what they align, which at most quadruples that.
#ifndef LORAD_TESTS_PARITY_LINEAR_BOUNDS_H_
#define LORAD_TESTS_PARITY_LINEAR_BOUNDS_H_

#include <cmath>
#include <vector>

#include "tests/parity/parity_fixture.h"
#include "tests/unit/engine/ops/linear_fixture.h"

namespace lorad {

inline constexpr double kSpread = 6;
inline double SumRoundoff(int64_t n) { return 4 * kFloatRoundoff * static_cast<double>(n); }

inline std::vector<double> DenseValues(const WeightView& weight) {
  std::vector<double> values(weight.num_elements());
  for (size_t i = 0; i < values.size(); ++i) values[i] = WeightAt(weight, static_cast<int64_t>(i));
  return values;
}

struct ForwardBounds {
  std::vector<double> y;                // [tokens, out]
  std::vector<std::vector<double>> xa;  // of each segment
};

// `term` is the CPU's; `before` is y before, or null.
inline ForwardBounds BoundForward(const LinearTerm& term, const float* x, int64_t tokens,
                                  const float* before) {
  constexpr double u = kBFloat16Roundoff;
  const int64_t in = term.weight.in_features, out = term.weight.out_features;
  const std::vector<double> w = DenseValues(term.weight);
  const double rounded = term.dropout.probability > 0 ? 2 : 1;  // A, and drop(x)
  ForwardBounds bounds;
  bounds.y.resize(tokens * out);
  for (const LoraSegment& segment : term.lora) bounds.xa.emplace_back(segment.xa.num_elements());
  for (int64_t t = 0; t < tokens; ++t, x += in) {
    // Of each rank: the value, the absolute sum, and the square of the spread before it is rounded.
    std::vector<double> xa, xa_absolute, xa_square;
    const LoraSegment* segment = nullptr;
    for (size_t s = 0; s < term.lora.size(); ++s) {
      if (t < term.lora[s].row_begin || t >= term.lora[s].row_end) continue;
      segment = &term.lora[s];
      const int64_t rank = segment->a.shape[0];
      for (int64_t k = 0; k < rank; ++k) {
        double sum = 0, absolute = 0, square = 0;
        for (int64_t i = 0; i < in; ++i) {
          const double a = segment->a.as<float>()[k * in + i];
          const double product = x[i] * DropFactor(term.dropout, t, i) * a;
          sum += product, absolute += std::abs(product), square += product * product;
        }
        square *= u * u * rounded;
        bounds.xa[s][(t - segment->row_begin) * rank + k] =
            1.02 * (kSpread * std::sqrt(square) + u * std::abs(sum) + SumRoundoff(in) * absolute);
        xa.push_back(sum), xa_absolute.push_back(absolute), xa_square.push_back(square);
      }
    }
    for (int64_t o = 0; o < out; ++o) {
      const double start = before == nullptr ? 0 : before[t * out + o];
      double base = start, absolute = std::abs(base);
      for (int64_t i = 0; i < in; ++i)
        base += x[i] * w[o * in + i], absolute += std::abs(x[i] * w[o * in + i]);
      double lora = 0, square = 0;
      for (size_t k = 0; k < xa.size(); ++k) {
        const double b = segment->scaling * double{segment->b.as<float>()[o * xa.size() + k]};
        lora += b * xa[k], absolute += std::abs(b) * xa_absolute[k];
        square += b * b * (xa_square[k] + 2 * u * u * xa[k] * xa[k]);  // B and xa rounded too
      }
      const double bias = term.bias.empty() ? 0 : term.bias.as<float>()[o];
      // y is rounded after the base, after LoRA and after the bias; fewer times on some paths. Some
      // of cuBLASLt's kernels round a product, too, before they add it to y (seen on an H100).
      const double roundings = std::abs(base - start) + std::abs(base) + std::abs(base + lora) +
                               std::abs(base + lora + bias);
      bounds.y[t * out + o] =
          1.02 * (kSpread * std::sqrt(square) + u * roundings + SumRoundoff(in + 64) * absolute);
    }
  }
  return bounds;
}

struct BackwardBounds {
  std::vector<double> dx;                                // [tokens, in]
  std::vector<std::vector<std::vector<double>>> da, db;  // of each term and segment, for one call
};

// Adds the errors of one segment's share. dx_square: squares of spreads; dx_size: magnitudes of
// what is rounded; dx_absolute: absolute sums.
struct DxErrors {
  std::vector<double> square, size, absolute;
};
inline void BoundSegment(const LinearBackwardTerm& term, const LoraSegment& segment, const float* x,
                         DxErrors& dx, std::vector<double>& da, std::vector<double>& db) {
  constexpr double u = kBFloat16Roundoff;
  const int64_t in = term.weight.in_features, out = term.weight.out_features;
  const int64_t rank = segment.a.shape[0], rows = segment.row_end - segment.row_begin;
  const double drop = term.dropout.probability > 0 ? 1 : 0;
  const float *a = segment.a.as<float>(), *b = segment.b.as<float>(), *xa = segment.xa.as<float>();
  da.assign(rank * in, 0), db.assign(out * rank, 0);
  std::vector<double> da_square(rank * in), outer(out * in);  // outer: dy^T drop(x)
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t t = segment.row_begin + r;
    const float* dy = term.dy.as<float>() + t * out;
    std::vector<double> s(rank), s_absolute(rank), s_square(rank), factor(in);
    for (int64_t i = 0; i < in; ++i) factor[i] = DropFactor(term.dropout, t, i);
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t k = 0; k < rank; ++k) {
        const double product = double{segment.scaling} * b[o * rank + k] * dy[o];
        s[k] += product, s_absolute[k] += std::abs(product), s_square[k] += product * product;
        db[o * rank + k] += std::abs(double{segment.scaling} * dy[o] * xa[r * rank + k]);
      }
      for (int64_t i = 0; i < in; ++i) outer[o * in + i] += dy[o] * x[t * in + i] * factor[i];
    }
    for (int64_t i = 0; i < in; ++i) {
      const double input = x[t * in + i] * factor[i];
      double sum = 0, square = 0, absolute = 0;
      for (int64_t k = 0; k < rank; ++k) {
        const double share = s[k] * a[k * in + i];
        sum += share, absolute += s_absolute[k] * std::abs(a[k * in + i]);
        // A, s and B rounded.
        square += 2 * share * share + s_square[k] * double{a[k * in + i]} * a[k * in + i];
        // s and drop(x) rounded; below, B, which all rows share.
        da_square[k * in + i] += (1 + drop) * s[k] * input * s[k] * input;
        da[k * in + i] += SumRoundoff(rows + out) * std::abs(input) * s_absolute[k];
      }
      square += drop * sum * sum;  // s A rounded before the mask
      dx.square[t * in + i] += square * u * u * factor[i] * factor[i];
      dx.size[t * in + i] += std::abs(sum) * factor[i];
      dx.absolute[t * in + i] += absolute * factor[i];
    }
  }
  for (int64_t k = 0; k < rank; ++k) {
    for (int64_t i = 0; i < in; ++i) {
      double square = da_square[k * in + i];
      for (int64_t o = 0; o < out; ++o) {
        const double share = double{segment.scaling} * b[o * rank + k] * outer[o * in + i];
        square += share * share;
      }
      // 4 roundoffs for adding to what was there, of the size of 1 and of the sum.
      da[k * in + i] =
          1.02 * (kSpread * u * std::sqrt(square) + da[k * in + i]) + 4 * kFloatRoundoff;
    }
  }
  for (double& bound : db) bound = 1.02 * SumRoundoff(rows + 2) * bound + 4 * kFloatRoundoff;
}

// `args` are the CPU's; `before` is dx before, or null.
inline BackwardBounds BoundBackward(const LinearBackwardArgs& args, const float* before) {
  const int64_t tokens = args.x.shape[0], in = args.x.shape[1];
  const float* x = args.x.as<float>();
  DxErrors dx;
  for (auto* values : {&dx.square, &dx.size, &dx.absolute}) values->assign(tokens * in, 0);
  BackwardBounds bounds;
  int64_t longest = 0;
  for (const LinearBackwardTerm& term : args.terms) {
    const int64_t out = term.weight.out_features;
    longest += out + 64;
    const std::vector<double> w = DenseValues(term.weight);
    for (int64_t t = 0; t < tokens; ++t) {
      const float* dy = term.dy.as<float>() + t * out;
      for (int64_t i = 0; i < in; ++i) {
        double sum = 0, absolute = 0;
        for (int64_t o = 0; o < out; ++o)
          sum += dy[o] * w[o * in + i], absolute += std::abs(dy[o] * w[o * in + i]);
        dx.size[t * in + i] += std::abs(sum);
        dx.absolute[t * in + i] += absolute;
      }
    }
    auto &da = bounds.da.emplace_back(), &db = bounds.db.emplace_back();
    for (const LoraSegment& segment : term.lora)
      BoundSegment(term, segment, x, dx, da.emplace_back(), db.emplace_back());
  }
  // Each term's base and LoRA may be added, and dx rounded, on their own.
  const double roundings = 2 * static_cast<double>(args.terms.size());
  for (int64_t i = 0; i < tokens * in; ++i) {
    const double size = dx.size[i] + (before == nullptr ? 0 : std::abs(before[i]));
    bounds.dx.push_back(1.02 *
                        (kSpread * std::sqrt(dx.square[i]) + roundings * kBFloat16Roundoff * size +
                         SumRoundoff(longest) * dx.absolute[i]));
  }
  return bounds;
}

}  // namespace lorad

#endif  // LORAD_TESTS_PARITY_LINEAR_BOUNDS_H_
