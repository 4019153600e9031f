// Adapters and the plain definition of a linear layer, for its tests.
#ifndef LORAD_TESTS_UNIT_ENGINE_OPS_LINEAR_FIXTURE_H_
#define LORAD_TESTS_UNIT_ENGINE_OPS_LINEAR_FIXTURE_H_

#include <memory>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "engine/core/philox.h"
#include "tests/unit/engine/ops/op_fixture.h"

namespace lorad {

// Rows [begin, end) go through an adapter of this rank.
struct SegmentSpec {
  int64_t begin, end, rank;
  float scaling;
};

template <typename T>
struct Adapter {
  SegmentSpec spec;
  Tensor<T> a, b, xa, da, db;

  Adapter(const SegmentSpec& s, int64_t in, int64_t out, uint32_t seed)
      : spec(s),
        a(Random<T>({s.rank, in}, seed)),
        b(Random<T>({out, s.rank}, seed + 1)),
        xa({s.end - s.begin, s.rank}),
        da({s.rank, in}),
        db({out, s.rank}) {}
  LoraSegment Segment() {
    return {spec.begin,   spec.end,  a.View(),  b.View(),
            spec.scaling, xa.View(), da.View(), db.View()};
  }
};

// One linear term with all it needs.
template <typename T>
struct Layer {
  std::unique_ptr<TestWeight> weight;
  Tensor<float> bias;
  bool has_bias;
  std::vector<Adapter<T>> adapters;
  std::vector<LoraSegment> segments;
  Tensor<uint64_t> token_keys;
  LoraDropout dropout;
  Tensor<T> y;

  Layer(const QuantSpec& spec, int64_t tokens, int64_t out, int64_t in, bool with_bias,
        const std::vector<SegmentSpec>& specs, float dropout_probability, uint32_t seed)
      : weight(MakeWeight(spec, out, in, seed)),
        bias(Random<float>({out}, seed + 1)),
        has_bias(with_bias),
        token_keys({tokens}),
        y(Random<T>({tokens, out}, seed + 2)) {
    for (const SegmentSpec& s : specs) {
      adapters.emplace_back(s, in, out, seed + 10 * static_cast<uint32_t>(s.begin) + 3);
    }
    for (int64_t t = 0; t < tokens; ++t) {
      token_keys.data[t] = static_cast<uint64_t>(3 + t / 4) << 32 | static_cast<uint64_t>(t % 4);
    }
    dropout = {dropout_probability, 42, 7, seed, token_keys.View()};
  }
  // Valid until the layer moves.
  LinearTerm Term() {
    segments.clear();
    for (Adapter<T>& adapter : adapters) segments.push_back(adapter.Segment());
    return {weight->view, has_bias ? ConstTensorView(bias.View()) : ConstTensorView(),
            absl::MakeSpan(segments), dropout, y.View()};
  }
  LinearBackwardTerm BackwardTerm(const Tensor<T>& dy) {
    const LinearTerm term = Term();
    return {term.weight, term.lora, term.dropout, dy.View()};
  }
};

// The factor of element i of token t's input to A, from the header's formula.
inline double DropFactor(const LoraDropout& d, int64_t t, int64_t i) {
  if (d.probability == 0) return 1;
  const uint64_t key = d.token_keys.as<uint64_t>()[t];
  const uint32_t word =
      Philox4x32(d.seed, d.step, d.module, static_cast<uint32_t>(key),
                 (static_cast<uint32_t>(key >> 32) << 14) ^ static_cast<uint32_t>(i / 4))
          .words[i % 4];
  return UniformFloat(word) >= d.probability ? 1 / (1 - double{d.probability}) : 0;
}

// One element of y and a bound of its rounding error in T.
struct Reference {
  double value, bound;
};

template <typename T>
Reference LinearAt(const Layer<T>& layer, const Tensor<T>& x, int64_t t, int64_t o, double before) {
  const WeightView& w = layer.weight->view;
  const int64_t in = w.in_features;
  double sum = before, absolute = std::abs(before), lora_absolute = 0;
  for (int64_t i = 0; i < in; ++i) {
    const double product = double{x.row(t)[i]} * WeightAt(w, o * in + i);
    sum += product;
    absolute += std::abs(product);
  }
  if (layer.has_bias) sum += layer.bias.data[o], absolute += std::abs(layer.bias.data[o]);
  int64_t rank = 0;
  for (const Adapter<T>& adapter : layer.adapters) {
    if (t < adapter.spec.begin || t >= adapter.spec.end) continue;
    rank = adapter.spec.rank;
    for (int64_t k = 0; k < rank; ++k) {
      const double b = double{adapter.b.row(o)[k]} * adapter.spec.scaling;
      for (int64_t i = 0; i < in; ++i) {
        const double xa = x.row(t)[i] * DropFactor(layer.dropout, t, i) * adapter.a.row(k)[i];
        sum += b * xa;
        lora_absolute += std::abs(b * xa);
      }
    }
  }
  // Sums of n terms in any order err by at most n roundoffs of the absolute sum.
  const double bound = kUnitRoundoff<T> * (static_cast<double>(in + 3) * absolute +
                                           static_cast<double>(in + rank + 6) * lora_absolute);
  return {sum, bound};
}

// All of y = x W^T + bias + lora, plus `before` where that is not null.
template <typename T>
void ExpectLinear(const Layer<T>& layer, const Tensor<T>& x,
                  const std::type_identity_t<Tensor<T>>* before) {
  std::vector<double> expected, bound;
  const int64_t out = layer.weight->view.out_features;
  for (int64_t t = 0; t < x.shape[0]; ++t) {
    for (int64_t o = 0; o < out; ++o) {
      const Reference r =
          LinearAt(layer, x, t, o, before == nullptr ? 0 : before->data[t * out + o]);
      expected.push_back(r.value);
      bound.push_back(r.bound);
    }
  }
  ExpectWithin(layer.y.data, expected, bound);
}

}  // namespace lorad

#endif  // LORAD_TESTS_UNIT_ENGINE_OPS_LINEAR_FIXTURE_H_
