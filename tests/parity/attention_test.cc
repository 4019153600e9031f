// lorad's own attention kernels (engine/ops/cuda/attention*.cu) against the CPU's.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "tests/parity/parity_fixture.h"

namespace lorad {
namespace {

struct Problem {
  std::vector<int32_t> lengths;
  int64_t heads = 1, kv_heads = 1, head_dim = 64;
  int64_t spare = 0;   // columns behind the slices of a row
  double q_scale = 1;  // largest |q|; k, v and dout stay below 1

  int64_t tokens() const { return std::accumulate(lengths.begin(), lengths.end(), int64_t{0}); }
  int64_t group() const { return heads / kv_heads; }
  int64_t longest() const { return *std::max_element(lengths.begin(), lengths.end()); }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }
  double largest_score() const { return head_dim * q_scale * scale(); }
  Shape q_shape() const { return {tokens(), heads, head_dim}; }
  Shape kv_shape() const { return {tokens(), kv_heads, head_dim}; }
};

// Lengths below, at and above the kernels' tiles of 16 to 128 rows, one of them none.
const std::vector<int32_t> kAllLengths = {1, 63, 64, 0, 65, 127, 129, 300};

class AttentionTest : public ParityTest {
 protected:
  void SetUp() override {
    setenv("LORAD_ATTENTION", "own", 1);  // before the first test creates the backend
    ParityTest::SetUp();
  }

  // Tensors of one pass; q, k, v lie in one buffer, and so do dq, dk, dv.
  struct Pass {
    Problem problem;
    Slices qkv, dout, o, gradients;
    Both<float> lse;
    Both<int32_t> cu_seqlens;
  };
  Pass MakePass(const Problem& p, Slices qkv, Slices dout) {
    std::vector<int32_t> starts(p.lengths.size() + 1);
    std::partial_sum(p.lengths.begin(), p.lengths.end(), starts.begin() + 1);
    return {
        p,
        std::move(qkv),
        std::move(dout),
        UnwrittenSlices({p.q_shape()}, p.spare),
        UnwrittenSlices({p.q_shape(), p.kv_shape(), p.kv_shape()}, p.spare),
        Same<float>({p.tokens(), p.heads}, std::vector<float>(p.tokens() * p.heads, std::nanf(""))),
        Same<int32_t>({static_cast<int64_t>(starts.size())}, starts)};
  }
  Pass MakePass(const Problem& p, uint32_t seed = 1) {
    std::vector<std::vector<float>> values = {Random<float>(p.q_shape(), seed, p.q_scale).data,
                                              Random<float>(p.kv_shape(), seed + 1).data,
                                              Random<float>(p.kv_shape(), seed + 2).data};
    for (std::vector<float>& tensor : values) RoundToBFloat16(tensor);
    return MakePass(p, MakeSlices({p.q_shape(), p.kv_shape(), p.kv_shape()}, values, p.spare),
                    RandomSlices({p.q_shape()}, p.spare, seed + 3));
  }
  static void RoundToBFloat16(std::vector<float>& values) {
    for (float& value : values) value = ToFloat(ToBFloat16(value));
  }

  TensorView Scratch(int64_t bytes) { return bytes == 0 ? TensorView{} : Workspace(bytes); }

  void Forward(Pass& pass) {
    AttentionArgs args = {pass.qkv.cuda(0),       pass.qkv.cuda(1),      pass.qkv.cuda(2),
                          pass.cu_seqlens.cuda(), pass.o.cuda(0),        pass.lse.cuda(),
                          pass.problem.scale(),   pass.problem.longest()};
    args.workspace = Scratch(cuda().ops().AttentionWorkspaceBytes(args));
    ASSERT_OK(cuda().ops().Attention(args, stream()));
  }
  void Backward(Pass& pass) {
    AttentionBackwardArgs args = {
        pass.dout.cuda(0),      pass.qkv.cuda(0),       pass.qkv.cuda(1),
        pass.qkv.cuda(2),       pass.o.cuda(0),         pass.lse.cuda(),
        pass.cu_seqlens.cuda(), pass.gradients.cuda(0), pass.gradients.cuda(1),
        pass.gradients.cuda(2), pass.problem.scale(),   pass.problem.longest()};
    args.workspace = Scratch(cuda().ops().AttentionBackwardWorkspaceBytes(args));
    ASSERT_OK(cuda().ops().AttentionBackward(args, stream()));
  }
  // On the CPU, with `v` in place of the pass's values.
  void CpuForward(Pass& pass, std::vector<float>& v, std::vector<float>& o,
                  std::vector<float>& lse) {
    const Problem& p = pass.problem;
    o.resize(p.q_shape().num_elements());
    lse.resize(p.tokens() * p.heads);
    AttentionArgs args = {pass.qkv.cpu(0),
                          pass.qkv.cpu(1),
                          TensorView{v.data(), DType::kF32, p.kv_shape()},
                          pass.cu_seqlens.cpu(),
                          TensorView{o.data(), DType::kF32, p.q_shape()},
                          TensorView{lse.data(), DType::kF32, {p.tokens(), p.heads}},
                          p.scale(),
                          p.longest()};
    args.workspace = CpuWorkspace(cpu().ops().AttentionWorkspaceBytes(args));
    ASSERT_OK(cpu().ops().Attention(args, cpu_stream()));
  }
  // On the CPU, from the GPU's o and lse: the backward pass answers for its own errors alone.
  void CpuBackward(Pass& pass) {
    pass.o.host[0] = FetchSlice(pass.o, 0);
    pass.lse.host = Fetch(pass.lse);
    AttentionBackwardArgs args = {
        pass.dout.cpu(0),      pass.qkv.cpu(0),       pass.qkv.cpu(1),
        pass.qkv.cpu(2),       pass.o.cpu(0),         pass.lse.cpu(),
        pass.cu_seqlens.cpu(), pass.gradients.cpu(0), pass.gradients.cpu(1),
        pass.gradients.cpu(2), pass.problem.scale(),  pass.problem.longest()};
    args.workspace = CpuWorkspace(cpu().ops().AttentionBackwardWorkspaceBytes(args));
    ASSERT_OK(cpu().ops().AttentionBackward(args, cpu_stream()));
  }

  // Errors, with u = kFloatRoundoff and r = kBFloat16Roundoff. Products of bf16 are exact in fp32.
  // A sum of n terms errs by n u of the terms' magnitudes; tensor cores cut off where others round,
  // but once in 16 terms. A score is a sum of head_dim products, |q k| <= q_scale, and is scaled
  // and shifted: (head_dim + 6) u of the largest possible score, on either side. Exponentials add 8
  // u.
  static double ExponentError(const Problem& p) {
    const double d = static_cast<double>(p.head_dim);
    return kFloatRoundoff * (2 * (d + 6) * p.largest_score() + 8);
  }
  // lse: the same, a sum of n weights (n u), the logarithm and a change of base (4 u of lse).
  // o: weights err, relatively, as much as numerator and denominator, and are rounded to bf16 (r)
  // before they meet v: that relative error of sum w |v|. o is rounded in the end (r). Products of
  // two errors: 1 %.
  void ExpectForward(Pass& pass) {
    const Problem& p = pass.problem;
    std::vector<float> o, lse, spread, unused, magnitudes = pass.qkv.host[2];
    for (float& value : magnitudes) value = std::abs(value);
    CpuForward(pass, pass.qkv.host[2], o, lse);
    CpuForward(pass, magnitudes, spread, unused);
    const double exponent = ExponentError(p);
    const double sum = kFloatRoundoff * static_cast<double>(p.longest());
    std::vector<double> bound;
    for (float value : lse) {
      bound.push_back(exponent + 2 * sum + 8 * kFloatRoundoff * (1 + std::abs(value)));
    }
    ExpectWithin(Fetch(pass.lse), std::vector<double>(lse.begin(), lse.end()), bound);
    bound.clear();
    for (size_t i = 0; i < o.size(); ++i) {
      bound.push_back(1.01 * ((kBFloat16Roundoff + 2 * (exponent + 2 * sum)) * spread[i] +
                              kBFloat16Roundoff * std::abs(o[i])));
    }
    ExpectWithin(FetchSlice(pass.o, 0), std::vector<double>(o.begin(), o.end()), bound);
  }

  // Sums of p and of |ds| over the keys that a query sees, [tokens, heads], and over the queries
  // of all the heads that see a key, [tokens, kv_heads].
  struct Sums {
    std::vector<double> query_p, query_ds, key_p, key_ds;
  };
  static Sums MagnitudesOf(Pass& pass) {
    const Problem& p = pass.problem;
    const int64_t d = p.head_dim;
    Sums sums;
    sums.query_p.assign(p.tokens() * p.heads, 0), sums.query_ds = sums.query_p;
    sums.key_p.assign(p.tokens() * p.kv_heads, 0), sums.key_ds = sums.key_p;
    const auto dot = [d](const std::vector<float>& a, int64_t i, const std::vector<float>& b,
                         int64_t j) {
      return std::inner_product(&a[i * d], &a[i * d] + d, &b[j * d], 0.0);
    };
    for (size_t s = 0; s < p.lengths.size(); ++s) {
      const int64_t first = pass.cu_seqlens.host[s];
      for (int64_t t = first; t < first + p.lengths[s]; ++t) {
        for (int64_t h = 0; h < p.heads; ++h) {
          const int64_t query = t * p.heads + h;
          const double delta = dot(pass.dout.host[0], query, pass.o.host[0], query);
          for (int64_t j = first; j <= t; ++j) {
            const int64_t key = j * p.kv_heads + h / p.group();
            const double weight =
                std::exp(dot(pass.qkv.host[0], query, pass.qkv.host[1], key) * p.scale() -
                         pass.lse.host[query]);
            const double ds =
                weight * std::abs(dot(pass.dout.host[0], query, pass.qkv.host[2], key) - delta);
            sums.query_p[query] += weight, sums.query_ds[query] += ds;
            sums.key_p[key] += weight, sums.key_ds[key] += ds;
          }
        }
      }
    }
    return sums;
  }
  // The gradient is a sum of `terms` products of a bf16 number below `factor` with p or ds rounded
  // to bf16: r + 2 terms u of the sum of magnitudes, and as much more as p errs. ds errs further by
  // p times the error of dout v^T and delta, each a sum of head_dim products below 1. The result is
  // rounded (r).
  void ExpectGradient(Pass& pass, size_t index, double factor, int64_t terms,
                      const std::vector<double>& sum, const std::vector<double>& p_sum) {
    const Problem& p = pass.problem;
    const double d = static_cast<double>(p.head_dim);
    const double lse = p.largest_score() + std::log(static_cast<double>(p.longest()));
    const double relative = kBFloat16Roundoff + ExponentError(p) +
                            kFloatRoundoff * (4 * lse + 2 * static_cast<double>(terms));
    const double absolute = kFloatRoundoff * 4 * (d + 2) * d;
    const std::vector<float>& expected = pass.gradients.host[index];
    std::vector<double> bound;
    for (size_t i = 0; i < expected.size(); ++i) {
      const size_t row = i / p.head_dim;
      bound.push_back(1.01 * (factor * (relative * sum[row] + absolute * p_sum[row]) +
                              kBFloat16Roundoff * std::abs(expected[i])));
    }
    SCOPED_TRACE(std::string("gradient ") + "qkv"[index]);
    ExpectWithin(FetchSlice(pass.gradients, index),
                 std::vector<double>(expected.begin(), expected.end()), bound);
  }
  void ExpectBackward(Pass& pass) {
    const Problem& p = pass.problem;
    CpuBackward(pass);
    const Sums sums = MagnitudesOf(pass);
    const int64_t queries = p.longest() * p.group();
    ExpectGradient(pass, 0, p.scale(), p.longest(), sums.query_ds, sums.query_p);
    ExpectGradient(pass, 1, p.scale() * p.q_scale, queries, sums.key_ds, sums.key_p);
    ExpectGradient(pass, 2, 1, queries, sums.key_p, std::vector<double>(sums.key_p.size(), 0));
  }

  void ExpectParity(const Problem& p) {
    SCOPED_TRACE(testing::Message()
                 << p.heads << " heads on " << p.kv_heads << " of " << p.head_dim << ", spare "
                 << p.spare << ", " << p.lengths.size() << " sequences");
    Pass pass = MakePass(p);
    Forward(pass);
    ExpectForward(pass);
    Backward(pass);
    ExpectBackward(pass);
  }
};

// Each width of the kernels' templates, full and with columns of zeros behind head_dim.
TEST_F(AttentionTest, HeadDimensions) {
  for (int64_t head_dim : {64, 96, 128, 192, 256}) ExpectParity({kAllLengths, 2, 1, head_dim});
  for (int64_t head_dim : {8, 40, 136}) ExpectParity({{65, 130}, 2, 2, head_dim});
}

TEST_F(AttentionTest, GroupsOfQueryHeads) {
  ExpectParity({kAllLengths, 3, 3, 64});
  ExpectParity({kAllLengths, 4, 2, 128});
  ExpectParity({kAllLengths, 8, 2, 128});
  ExpectParity({kAllLengths, 7, 1, 64});
  ExpectParity({{130, 70}, 14, 2, 256});
}

// Spare columns in multiples of 8 keep 16-byte accesses; any other number, and head dimensions that
// are not multiples of 8, take the element-wise path.
TEST_F(AttentionTest, StridesAndUnalignedRows) {
  ExpectParity({{129, 1, 70}, 2, 1, 128, 64});
  ExpectParity({{129, 1, 70}, 2, 1, 64, 3});
  ExpectParity({{129, 1, 70}, 2, 1, 128, 1});
  ExpectParity({{129, 1, 70}, 2, 1, 256, 4});
  ExpectParity({{129, 1, 70}, 4, 2, 34});
  ExpectParity({{129, 1, 70}, 4, 2, 2});
  ExpectParity({{129, 1, 70}, 2, 1, 130, 5});
  ExpectParity({{129, 1, 70}, 2, 1, 254});
}

// Scores to +-226: softmax is close to the maximum, which changes from tile to tile.
TEST_F(AttentionTest, LargeScores) {
  ExpectParity({{300, 129}, 2, 1, 64, 0, 20});
  ExpectParity({{300, 129}, 4, 2, 128, 0, 20});
  ExpectParity({{150}, 2, 1, 256, 0, 20});
}

// Scores that grow with the key's position, in a tile of 64 keys by 1.4 to 92 binary orders: never,
// now and then and always beyond the 8 within which the forward pass does not rescale; and scores
// that fall. q is 8 in its first column and zero elsewhere: scores are the keys' first columns.
TEST_F(AttentionTest, MaximumThatGrowsFromTileToTile) {
  for (const float growth :
       {1.0f / 64, 1.0f / 16, 0.25f, 1.0f, -0.25f}) {  // per key, natural logarithm
    SCOPED_TRACE(growth);
    Problem p = {{300, 65}, 2, 1, 64};
    p.q_scale = 37.5;  // makes largest_score() 300
    Pass random = MakePass(p);
    std::vector<std::vector<float>> values = random.qkv.host;
    std::fill(values[0].begin(), values[0].end(), 0.0f);
    for (int64_t i = 0; i < p.tokens() * p.heads; ++i)
      values[0][i * p.head_dim] = 8;  // 8 scale = 1
    for (int64_t t = 0; t < p.tokens(); ++t) {
      values[1][t * p.head_dim] = growth * static_cast<float>(t < 300 ? t : t - 300);
    }
    RoundToBFloat16(values[1]);
    Pass pass =
        MakePass(p, MakeSlices(random.qkv.shapes, values, 0), RandomSlices({p.q_shape()}, 0, 9));
    Forward(pass);
    ExpectForward(pass);
  }
}

// A token alone attends to itself with weight 1: o is v, to the bit. More sequences than a warp
// looks at in one, two and three steps, with longer ones between and empty ones at both ends.
TEST_F(AttentionTest, ManySequencesOfOneToken) {
  for (int count : {31, 32, 33, 500, 1100}) {
    Problem p = {std::vector<int32_t>(count, 1), 2, 1, 64};
    p.lengths.front() = p.lengths.back() = 0;
    p.lengths[count / 2] = 140;
    ExpectParity(p);
    Pass pass = MakePass(p);
    Forward(pass);
    const std::vector<float> o = FetchSlice(pass.o, 0);
    for (int64_t t = 0; t < count / 2 - 1; ++t) {
      for (int64_t i = 0; i < p.heads * p.head_dim; ++i) {
        ASSERT_EQ(o[t * p.heads * p.head_dim + i],
                  pass.qkv.host[2][t * p.head_dim + i % p.head_dim])
            << "token " << t << " of " << count;
      }
    }
  }
}

TEST_F(AttentionTest, EqualInputsGiveEqualBits) {
  for (int64_t head_dim : {64, 128, 256}) {
    Pass first = MakePass({{300, 7, 129}, 4, 2, head_dim});
    Pass second = MakePass(first.problem);
    for (Pass* pass : {&first, &second}) Forward(*pass), Backward(*pass);
    EXPECT_EQ(FetchSlice(first.o, 0), FetchSlice(second.o, 0));
    EXPECT_EQ(Fetch(first.lse), Fetch(second.lse));
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(FetchSlice(first.gradients, i), FetchSlice(second.gradients, i)) << "qkv"[i];
    }
  }
}

// Neither what stands before a sequence nor what stands behind it changes a bit of its results.
TEST_F(AttentionTest, PackedSequencesAreAloneBitForBit) {
  for (int64_t head_dim : {64, 128, 256}) {
    Pass packed = MakePass({{70, 5, 190, 33}, 4, 2, head_dim});
    constexpr int64_t kBegin = 75, kEnd = 265;
    const auto rows = [&](const std::vector<float>& values) {
      const int64_t row = static_cast<int64_t>(values.size()) / packed.problem.tokens();
      return std::vector<float>(values.begin() + kBegin * row, values.begin() + kEnd * row);
    };
    Problem p = packed.problem;
    p.lengths = {190};
    Pass alone = MakePass(
        p,
        MakeSlices({p.q_shape(), p.kv_shape(), p.kv_shape()},
                   {rows(packed.qkv.host[0]), rows(packed.qkv.host[1]), rows(packed.qkv.host[2])},
                   0),
        MakeSlices({p.q_shape()}, {rows(packed.dout.host[0])}, 0));
    for (Pass* pass : {&packed, &alone}) Forward(*pass), Backward(*pass);
    EXPECT_EQ(rows(FetchSlice(packed.o, 0)), FetchSlice(alone.o, 0));
    EXPECT_EQ(rows(Fetch(packed.lse)), Fetch(alone.lse));
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(rows(FetchSlice(packed.gradients, i)), FetchSlice(alone.gradients, i)) << "qkv"[i];
    }
  }
}

TEST_F(AttentionTest, WithoutLse) {
  Pass with = MakePass({{130, 3}, 2, 1, 128}), without = MakePass(with.problem);
  Forward(with);
  AttentionArgs args = {without.qkv.cuda(0),     without.qkv.cuda(1),
                        without.qkv.cuda(2),     without.cu_seqlens.cuda(),
                        without.o.cuda(0),       {},
                        without.problem.scale(), 0};
  args.workspace = Scratch(cuda().ops().AttentionWorkspaceBytes(args));
  ASSERT_OK(cuda().ops().Attention(args, stream()));
  EXPECT_EQ(FetchSlice(with.o, 0), FetchSlice(without.o, 0));
}

// A sequence of many tiles, against sums in closed form. q = 0 makes all scores 0, the forward
// pass's weights 1 and p = 1 / (t + 1):
//   lse[t] = log(t + 1), o[t] = mean of v[0..t], dv[s] = sum over h and t >= s of dout[t] / (t +
//   1),
// and dk = 0. Weights of 1 are exact in bf16, so that o errs by the rounding of sums (2 n u) and
// its own (r), while p, in dv, is rounded.
TEST_F(AttentionTest, UniformWeightsOverManyTiles) {
  for (int64_t head_dim : {64, 128, 256}) {
    const Problem p = {{5000}, 2, 1, head_dim};
    Pass pass = MakePass(p);
    std::vector<std::vector<float>> values = pass.qkv.host;
    std::fill(values[0].begin(), values[0].end(), 0.0f);
    pass.qkv = MakeSlices(pass.qkv.shapes, values, 0);
    Forward(pass);
    Backward(pass);
    const double sums = 2 * kFloatRoundoff * 5000;
    std::vector<double> lse, o, o_bound, dv(p.tokens() * head_dim), dv_bound(dv.size());
    std::vector<double> total(head_dim), size(head_dim), suffix(head_dim), suffix_size(head_dim);
    for (int64_t t = 0; t < p.tokens(); ++t) {
      const double keys = static_cast<double>(t + 1);
      for (int64_t i = 0; i < head_dim; ++i) {
        total[i] += values[2][t * head_dim + i], size[i] += std::abs(values[2][t * head_dim + i]);
      }
      for (int64_t i = 0; i < p.heads * head_dim; ++i) {
        o.push_back(total[i % head_dim] / keys);
        o_bound.push_back(
            1.01 * (kBFloat16Roundoff * std::abs(o.back()) + sums * size[i % head_dim] / keys));
      }
      lse.insert(lse.end(), p.heads, std::log(keys));
    }
    for (int64_t t = p.tokens() - 1; t >= 0; --t) {
      for (int64_t i = 0; i < head_dim; ++i) {
        for (int64_t h = 0; h < p.heads; ++h) {
          const double term = pass.dout.host[0][(t * p.heads + h) * head_dim + i] / (t + 1.0);
          suffix[i] += term, suffix_size[i] += std::abs(term);
        }
        dv[t * head_dim + i] = suffix[i];
        dv_bound[t * head_dim + i] =
            1.01 * ((kBFloat16Roundoff + 2 * sums + ExponentError(p)) * suffix_size[i] +
                    kBFloat16Roundoff * std::abs(suffix[i]));
      }
    }
    ExpectWithin(Fetch(pass.lse), lse, 16 * kFloatRoundoff * (1 + std::log(5000.0)));
    ExpectWithin(FetchSlice(pass.o, 0), o, o_bound);
    ExpectWithin(FetchSlice(pass.gradients, 2), dv, dv_bound);
    for (float value : FetchSlice(pass.gradients, 0)) ASSERT_TRUE(std::isfinite(value));
    for (float value : FetchSlice(pass.gradients, 1)) ASSERT_EQ(value, 0);
  }
}

}  // namespace
}  // namespace lorad
