// Attention through cuDNN against the CPU op. Where cuDNN is absent the tests skip and say why;
// LORAD_REQUIRE_CUDNN=1 makes them fail.
#include "engine/ops/cuda/cudnn_attention.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "engine/device/cuda/cuda_stream.h"
#include "engine/ops/cuda/cudnn_attention_layout.h"
#include "tests/parity/parity_fixture.h"

namespace lorad::cuda {
namespace {

bool CudnnRequired() {
  const char* value = std::getenv("LORAD_REQUIRE_CUDNN");
  return value != nullptr && std::strcmp(value, "1") == 0;
}

struct Case {
  std::string name;
  std::vector<int64_t> lengths;
  int64_t heads, kv_heads, head_dim;
  bool deterministic = true;
  int64_t slices = 1;           // parts that the workspace forces a backward pass into
  bool may_be_refused = false;  // not every version of cuDNN has it

  int64_t tokens() const {
    int64_t sum = 0;
    for (int64_t length : lengths) sum += length;
    return sum;
  }
  int64_t longest() const { return *std::max_element(lengths.begin(), lengths.end()); }
  std::vector<int32_t> cu_seqlens() const {
    std::vector<int32_t> starts = {0};
    for (int64_t length : lengths) starts.push_back(starts.back() + static_cast<int32_t>(length));
    return starts;
  }
  Shape q_shape() const { return {tokens(), heads, head_dim}; }
  Shape k_shape() const { return {tokens(), kv_heads, head_dim}; }
  float scale() const { return 1 / std::sqrt(static_cast<float>(head_dim)); }
};
std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

// How far the device's results may be from the CPU op's.
//
// u = 2^-8 bounds one rounding to bf16, relatively: 7 bits behind the point. Sums of n products in
// fp32, which tensor cores may truncate, err by at most n * w times the sum of magnitudes, w =
// 2^-23. Of each:
//   score s        (d + 8) w S on either side, S = scale * sum |q k|; e = twice the largest of a
//                  row, both sides together
//   weight p       relatively r = 4 e (score and largest one, above and below the fraction)
//                  + 2 (n + 16) w (sum of n; exp and its argument: 16) + 4 |lse| w
//   lse            2 e + (n + 16) w + |lse| w
//   o              p is rounded to bf16 before it meets v: (u + r) sum p |v|, and o itself: u |o|
//   ds             dp = dout v^T and delta each (d + 8) w of their magnitudes on either side; both
//                  ds and what it is made of may be kept in bf16:
//                  p scale ((2 u + r) (|dp| + |delta|) + sums)
//   dq             sum |k| err(ds) + u |dq|
//   dk, dv         sum |q| err(ds) and sum |dout| (u + r) p; of each head of a group u |part|; and
//                  u |dk|, u |dv|
// A twentieth is added for products of errors.
struct Bounds {
  std::vector<double> o, lse, dq, dk, dv;
};

// Bounds of all tokens of one sequence and head of q, added to what is there.
class BoundsOfHead {
 public:
  struct Inputs {
    const std::vector<float>&q, &k, &v;
    // Of a backward pass; o of the forward pass.
    const std::vector<float>*dout = nullptr, *o = nullptr;
  };
  BoundsOfHead(const Case& c, const Inputs& in, int64_t first, int64_t length, int64_t head)
      : c_(c), in_(in), first_(first), length_(length), head_(head) {
    part_dk_.assign(length * c.head_dim, 0);
    part_dv_.assign(length * c.head_dim, 0);
  }

  void Add(Bounds& bounds) {
    for (int64_t t = 0; t < length_; ++t) Row(t, bounds);
    if (in_.dout == nullptr) return;
    const int64_t d = c_.head_dim, kv = head_ / (c_.heads / c_.kv_heads);
    for (int64_t s = 0; s < length_; ++s) {
      for (int64_t x = 0; x < d; ++x) {
        const int64_t to = ((first_ + s) * c_.kv_heads + kv) * d + x;
        // Once for the head's part, once as its share of the rounded sum.
        bounds.dk[to] += 2 * kSlack * kRounding * std::abs(part_dk_[s * d + x]);
        bounds.dv[to] += 2 * kSlack * kRounding * std::abs(part_dv_[s * d + x]);
      }
    }
  }

 private:
  static constexpr double kSlack = 1.05, kRounding = 0x1p-8, kSum = 0x1p-23;

  struct Product {
    double value = 0, magnitude = 0;
  };
  Product Dot(const float* a, const float* b) const {
    Product product;
    for (int64_t x = 0; x < c_.head_dim; ++x) {
      product.value += static_cast<double>(a[x]) * b[x];
      product.magnitude += std::abs(static_cast<double>(a[x]) * b[x]);
    }
    return product;
  }
  const float* QRow(const std::vector<float>& of, int64_t t) const {
    return of.data() + ((first_ + t) * c_.heads + head_) * c_.head_dim;
  }
  const float* KRow(const std::vector<float>& of, int64_t s) const {
    const int64_t kv = head_ / (c_.heads / c_.kv_heads);
    return of.data() + ((first_ + s) * c_.kv_heads + kv) * c_.head_dim;
  }

  void Row(int64_t t, Bounds& bounds) {
    const int64_t d = c_.head_dim, n = length_;
    std::vector<double> p(t + 1);
    double largest = -1e300, magnitude = 0, sum = 0;
    for (int64_t s = 0; s <= t; ++s) {
      const Product score = Dot(QRow(in_.q, t), KRow(in_.k, s));
      p[s] = score.value * c_.scale();
      largest = std::max(largest, p[s]);
      magnitude = std::max(magnitude, score.magnitude * c_.scale());
    }
    for (double& weight : p) sum += weight = std::exp(weight - largest);
    for (double& weight : p) weight /= sum;
    const double lse = largest + std::log(sum);
    const double e = 2 * static_cast<double>(d + 8) * kSum * magnitude;
    relative_ = 4 * e + 2 * static_cast<double>(n + 16) * kSum + 4 * std::abs(lse) * kSum;
    const int64_t row = (first_ + t) * c_.heads + head_;
    if (in_.dout != nullptr) return BackwardRow(t, p, bounds);
    bounds.lse[row] = 2 * e + static_cast<double>(n + 16) * kSum + std::abs(lse) * kSum;
    for (int64_t x = 0; x < d; ++x) {
      double o = 0, weighted = 0;
      for (int64_t s = 0; s <= t; ++s) {
        o += p[s] * KRow(in_.v, s)[x];
        weighted += p[s] * std::abs(KRow(in_.v, s)[x]);
      }
      bounds.o[row * d + x] =
          kSlack * ((kRounding + relative_) * weighted + kRounding * std::abs(o));
    }
  }

  void BackwardRow(int64_t t, const std::vector<double>& p, Bounds& bounds) {
    const int64_t d = c_.head_dim, row = (first_ + t) * c_.heads + head_;
    const int64_t kv = head_ / (c_.heads / c_.kv_heads);
    const float *dout = QRow(*in_.dout, t), *q = QRow(in_.q, t);
    const Product delta = Dot(dout, QRow(*in_.o, t));
    std::vector<double> dq(d), dq_error(d);
    for (int64_t s = 0; s <= t; ++s) {
      const Product dp = Dot(dout, KRow(in_.v, s));
      const double ds = p[s] * c_.scale() * (dp.value - delta.value);
      const double ds_error =
          p[s] * c_.scale() *
          ((2 * kRounding + relative_) * (std::abs(dp.value) + std::abs(delta.value)) +
           2 * static_cast<double>(d + 8) * kSum * (dp.magnitude + delta.magnitude));
      const double p_error = p[s] * (kRounding + relative_);
      for (int64_t x = 0; x < d; ++x) {
        const int64_t to = ((first_ + s) * c_.kv_heads + kv) * d + x;
        dq[x] += ds * KRow(in_.k, s)[x];
        dq_error[x] += ds_error * std::abs(KRow(in_.k, s)[x]);
        part_dk_[s * d + x] += ds * q[x];
        part_dv_[s * d + x] += p[s] * dout[x];
        bounds.dk[to] += kSlack * ds_error * std::abs(q[x]);
        bounds.dv[to] += kSlack * p_error * std::abs(dout[x]);
      }
    }
    for (int64_t x = 0; x < d; ++x)
      bounds.dq[row * d + x] = kSlack * (dq_error[x] + kRounding * std::abs(dq[x]));
  }

  const Case& c_;
  const Inputs in_;
  const int64_t first_, length_, head_;
  double relative_ = 0;
  std::vector<double> part_dk_, part_dv_;
};

Bounds BoundsOf(const Case& c, const BoundsOfHead::Inputs& in) {
  Bounds bounds;
  bounds.o.assign(c.q_shape().num_elements(), 0);
  bounds.dq = bounds.o;
  bounds.lse.assign(c.tokens() * c.heads, 0);
  bounds.dk.assign(c.k_shape().num_elements(), 0);
  bounds.dv = bounds.dk;
  const std::vector<int32_t> starts = c.cu_seqlens();
  for (size_t i = 0; i < c.lengths.size(); ++i)
    for (int64_t head = 0; head < c.heads; ++head)
      BoundsOfHead(c, in, starts[i], c.lengths[i], head).Add(bounds);
  return bounds;
}

class CudnnAttentionTest : public ParityTest {
 protected:
  void SetUp() override {
    ParityTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    Open({});
  }
  void Open(const CudnnAttentionOptions& options) {
    auto attention = CudnnAttention::Create(0, options);
    absl::Status status = attention.status();
    if (status.ok() && handle_ == nullptr) {
      auto handle = CudnnHandle::Create(0, Handle(stream()));
      status = handle.status();
      if (status.ok()) handle_ = *std::move(handle);
    }
    if (!status.ok()) {
      if (CudnnRequired()) FAIL() << status;
      GTEST_SKIP() << status;
    }
    attention_ = *std::move(attention);
  }
  void TearDown() override {
    ParityTest::TearDown();  // nothing may use the handle any more
    handle_ = nullptr;
  }

  // Tensors of so many tokens, and behind them rows that are NaN: kernels work in tiles, and what
  // lies beyond the last token may neither be written nor matter.
  static Shape Tailed(const Shape& shape) { return {shape[0] + kTail, shape[1], shape[2]}; }
  Slices Inputs(const std::vector<Shape>& shapes, int64_t spare, uint32_t seed, double scale = 1) {
    std::vector<Shape> tailed;
    std::vector<std::vector<float>> values;
    for (const Shape& shape : shapes) {
      tailed.push_back(Tailed(shape));
      values.push_back(Random<float>(shape, seed++, scale).data);
      for (float& value : values.back()) value = ToFloat(ToBFloat16(value));
      values.back().resize(tailed.back().num_elements(), NAN);
    }
    return MakeSlices(tailed, std::move(values), spare);
  }
  Slices Outputs(const std::vector<Shape>& shapes, int64_t spare) {
    std::vector<Shape> tailed;
    for (const Shape& shape : shapes) tailed.push_back(Tailed(shape));
    return UnwrittenSlices(tailed, spare);
  }
  static TensorView Tokens(const TensorView& view) { return Rows(view, 0, view.shape[0] - kTail); }
  std::vector<float> FetchTokens(const Slices& slices, size_t index) {
    std::vector<float> values = FetchSlice(slices, index);
    const int64_t tokens = Tokens(slices.cuda(index)).num_elements();
    for (size_t i = tokens; i < values.size(); ++i) {
      if (!std::isnan(values[i])) {
        ADD_FAILURE() << "written beyond the last token";
        break;
      }
    }
    values.resize(tokens);
    return values;
  }
  static std::vector<double> HostTokens(Slices& slices, size_t index) {
    const TensorView view = Tokens(slices.cpu(index));
    return {view.as<float>(), view.as<float>() + view.num_elements()};
  }

  // A workspace of exactly `bytes`, with NaN in it and guards behind it.
  CudnnWorkspace GuardedWorkspace(int64_t bytes) {
    workspace_bytes_ = bytes;
    workspace_ =
        Upload(std::vector<uint8_t>(bytes + kGuardBytes, 0xff).data(), bytes + kGuardBytes);
    return {workspace_.data(), bytes};
  }
  void ExpectGuardsIntact() {
    std::vector<uint8_t> guards(kGuardBytes);
    Download(guards.data(), static_cast<uint8_t*>(workspace_.data()) + workspace_bytes_,
             kGuardBytes);
    EXPECT_EQ(guards, std::vector<uint8_t>(kGuardBytes, 0xff)) << "written beyond the workspace";
  }

  static AttentionForwardParams ForwardParams(const Case& c, const Slices& qkv, const Slices& o,
                                              const Both<float>& lse, const Both<int32_t>& starts) {
    AttentionForwardParams p{};
    p.q = qkv.cuda(0).as<BFloat16>();
    p.k = qkv.cuda(1).as<BFloat16>();
    p.v = qkv.cuda(2).as<BFloat16>();
    p.o = o.cuda(0).as<BFloat16>();
    p.lse = lse.cuda().as<float>();
    p.cu_seqlens = starts.cuda().as<int32_t>();
    p.num_tokens = c.tokens();
    p.num_sequences = static_cast<int64_t>(c.lengths.size());
    p.num_heads = c.heads;
    p.num_kv_heads = c.kv_heads;
    p.head_dim = c.head_dim;
    p.q_stride = p.k_stride = p.v_stride = qkv.stride;
    p.o_stride = o.stride;
    p.scale = c.scale();
    return p;
  }
  static AttentionBackwardParams BackwardParams(const AttentionForwardParams& f, const Slices& dout,
                                                const Slices& gradients) {
    AttentionBackwardParams p{};
    p.dout = dout.cuda(0).as<BFloat16>();
    p.q = f.q;
    p.k = f.k;
    p.v = f.v;
    p.o = f.o;
    p.lse = f.lse;
    p.dq = gradients.cuda(0).as<BFloat16>();
    p.dk = gradients.cuda(1).as<BFloat16>();
    p.dv = gradients.cuda(2).as<BFloat16>();
    p.cu_seqlens = f.cu_seqlens;
    p.num_tokens = f.num_tokens;
    p.num_sequences = f.num_sequences;
    p.num_heads = f.num_heads;
    p.num_kv_heads = f.num_kv_heads;
    p.head_dim = f.head_dim;
    p.q_stride = f.q_stride;
    p.k_stride = f.k_stride;
    p.v_stride = f.v_stride;
    p.o_stride = f.o_stride;
    p.dout_stride = dout.stride;
    p.dq_stride = p.dk_stride = p.dv_stride = gradients.stride;
    p.scale = f.scale;
    return p;
  }

  static constexpr int64_t kTail = 128;
  static constexpr int64_t kGuardBytes = 4096;
  std::unique_ptr<CudnnAttention> attention_;
  std::unique_ptr<CudnnHandle> handle_;
  DeviceBuffer workspace_;
  int64_t workspace_bytes_ = 0;
};

class CudnnAttentionCaseTest : public CudnnAttentionTest, public testing::WithParamInterface<Case> {
 protected:
  // Inputs in the rows of one buffer, outputs in those of others, all with spare columns.
  void SetUp() override {
    CudnnAttentionTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    const Case& c = GetParam();
    qkv_ = Inputs({c.q_shape(), c.k_shape(), c.k_shape()}, 8, 11, 1.5);
    starts_ = Same<int32_t>({static_cast<int64_t>(c.lengths.size()) + 1}, c.cu_seqlens());
    lse_ = Same<float>({c.tokens(), c.heads}, std::vector<float>(c.tokens() * c.heads, NAN));
    o_ = Outputs({c.q_shape()}, 16);
    AttentionArgs args;
    args.q = Tokens(qkv_.cpu(0));
    args.k = Tokens(qkv_.cpu(1));
    args.v = Tokens(qkv_.cpu(2));
    args.cu_seqlens = starts_.cpu();
    args.o = Tokens(o_.cpu(0));
    args.lse = lse_.cpu();
    args.scale = c.scale();
    ASSERT_OK(cpu().ops().Attention(args, cpu_stream()));
  }

  Slices qkv_, o_;
  Both<int32_t> starts_;
  Both<float> lse_;
};

class CudnnAttentionForwardTest : public CudnnAttentionCaseTest {};

TEST_P(CudnnAttentionForwardTest, EqualsTheCpuOp) {
  const Case& c = GetParam();
  const AttentionForwardParams params = ForwardParams(c, qkv_, o_, lse_, starts_);
  ASSERT_OK(attention_->Supports(params));
  const CudnnWorkspace workspace = GuardedWorkspace(attention_->WorkspaceBytes(params));
  const absl::Status status = attention_->Forward(params, c.longest(), workspace, *handle_);
  if (c.may_be_refused && absl::IsUnimplemented(status)) {
    RecordProperty("refused", status.ToString());
    EXPECT_TRUE(std::isnan(FetchSlice(o_, 0)[0])) << "refused and written";
    return;
  }
  ASSERT_OK(status);
  const Bounds bounds = BoundsOf(c, {qkv_.host[0], qkv_.host[1], qkv_.host[2]});
  ExpectWithin(FetchTokens(o_, 0), HostTokens(o_, 0), bounds.o);
  ExpectWithin(Fetch(lse_), std::vector<double>(lse_.host.begin(), lse_.host.end()), bounds.lse);
  ExpectGuardsIntact();

  // Where nobody wants lse; the same bits.
  const Slices other = Outputs({c.q_shape()}, 16);
  AttentionForwardParams without = params;
  without.lse = nullptr;
  without.o = other.cuda(0).as<BFloat16>();
  ASSERT_OK(attention_->Forward(without, c.longest(), workspace, *handle_));
  EXPECT_EQ(FetchTokens(other, 0), FetchTokens(o_, 0));
}

class CudnnAttentionBackwardTest : public CudnnAttentionCaseTest {};

TEST_P(CudnnAttentionBackwardTest, EqualsTheCpuOp) {
  const Case& c = GetParam();
  if (!c.deterministic) {
    ASSERT_NO_FATAL_FAILURE(Open({.deterministic = false}));
  }
  // Both sides begin with the CPU op's o, rounded, and its lse.
  for (float& value : o_.host[0]) value = ToFloat(ToBFloat16(value));
  Slices o = MakeSlices({Tailed(c.q_shape())}, {o_.host[0]}, 16);
  const Both<float> lse = Same<float>({c.tokens(), c.heads}, lse_.host);
  Slices dout = Inputs({c.q_shape()}, 0, 17);
  Slices gradients = Outputs({c.q_shape(), c.k_shape(), c.k_shape()}, 8);
  const AttentionBackwardParams params =
      BackwardParams(ForwardParams(c, qkv_, o, lse, starts_), dout, gradients);
  ASSERT_OK(attention_->Supports(params));
  int64_t bytes = attention_->WorkspaceBytes(params, c.longest());
  if (c.slices > 1) {
    // Fewer slices hold at least twice the scores of each: one byte is missing for that.
    const CudnnAttentionProblem slice = BackwardProblem(params, true, c.slices);
    const CudnnAttentionLayout layout(slice, c.tokens(), c.slices);
    bytes = layout.plan + 2 * ScoreBytes(slice) - 1;
  }
  const CudnnWorkspace workspace = GuardedWorkspace(bytes);
  const absl::Status status = attention_->Backward(params, c.longest(), workspace, *handle_);
  if (c.may_be_refused && absl::IsUnimplemented(status)) {
    RecordProperty("refused", status.ToString());
    EXPECT_TRUE(std::isnan(FetchSlice(gradients, 0)[0])) << "refused and written";
    return;
  }
  ASSERT_OK(status);

  AttentionBackwardArgs args;
  args.dout = Tokens(dout.cpu(0));
  args.q = Tokens(qkv_.cpu(0));
  args.k = Tokens(qkv_.cpu(1));
  args.v = Tokens(qkv_.cpu(2));
  args.o = Tokens(o.cpu(0));
  args.lse = lse_.cpu();
  args.cu_seqlens = starts_.cpu();
  args.dq = Tokens(gradients.cpu(0));
  args.dk = Tokens(gradients.cpu(1));
  args.dv = Tokens(gradients.cpu(2));
  args.scale = c.scale();
  ASSERT_OK(cpu().ops().AttentionBackward(args, cpu_stream()));
  const Bounds bounds =
      BoundsOf(c, {qkv_.host[0], qkv_.host[1], qkv_.host[2], &dout.host[0], &o.host[0]});
  ExpectWithin(FetchTokens(gradients, 0), HostTokens(gradients, 0), bounds.dq);
  ExpectWithin(FetchTokens(gradients, 1), HostTokens(gradients, 1), bounds.dk);
  ExpectWithin(FetchTokens(gradients, 2), HostTokens(gradients, 2), bounds.dv);
  ExpectGuardsIntact();
}

std::string NameOf(const testing::TestParamInfo<Case>& info) { return info.param.name; }

const Case kDenseCases[] = {
    {"Grouped", {256, 256}, 8, 2, 128},
    {"OneSequence", {384}, 8, 2, 64},
    {"Plain", {128, 128, 128}, 4, 4, 128},
    // Not to be cut in parts: the workspace has to be enough for the whole backward pass.
    {"OneKeyHead", {1024}, 2, 1, 64},
    // More scores than gradients of heads, so that these fit beside a half of those.
    {"InSlices", {512, 512}, 8, 4, 64, true, 4},
    {"InNoFixedOrder", {256, 256}, 8, 2, 128, false},
    {"Wide", {256, 256}, 4, 2, 256, true, 1, true},
};
INSTANTIATE_TEST_SUITE_P(Dense, CudnnAttentionForwardTest, testing::ValuesIn(kDenseCases), NameOf);
INSTANTIATE_TEST_SUITE_P(Dense, CudnnAttentionBackwardTest, testing::ValuesIn(kDenseCases), NameOf);

const Case kRaggedCases[] = {
    // Equal lengths that no dense graph takes.
    {"EqualLengthsNotOfTiles", {200, 200}, 4, 2, 128},
    // Five sequences in a bucket of eight, one of them a single token.
    {"Grouped", {130, 64, 1, 200, 77}, 8, 2, 128},
    {"Narrow", {130, 64, 1, 200}, 8, 2, 64},
    {"Plain", {33, 257, 5}, 4, 4, 128},
    {"SixHeads", {130, 300, 17}, 6, 6, 64},
    {"FewTokens", {1, 2, 1}, 8, 2, 128},
    {"Wide", {130, 64, 200}, 4, 2, 256, true, 1, true},
};
INSTANTIATE_TEST_SUITE_P(Ragged, CudnnAttentionForwardTest, testing::ValuesIn(kRaggedCases),
                         NameOf);

// Enough blocks at once that sums in the order of arrival would differ: up to sixteen blocks of
// keys add to a dq.
TEST_F(CudnnAttentionTest, DeterministicBackwardRepeatsItsBits) {
  for (const Case& c : {Case{"heads", {1024, 1024, 1024, 1024}, 8, 2, 128},
                        Case{"plain", {2048, 2048}, 4, 4, 64}}) {
    const Slices qkv = RandomSlices({c.q_shape(), c.k_shape(), c.k_shape()}, 8, 3, 1.5);
    const Slices dout = RandomSlices({c.q_shape()}, 0, 5);
    const Slices o = UnwrittenSlices({c.q_shape()}, 0);
    const Slices gradients = UnwrittenSlices({c.q_shape(), c.k_shape(), c.k_shape()}, 8);
    const Both<int32_t> starts =
        Same<int32_t>({static_cast<int64_t>(c.lengths.size()) + 1}, c.cu_seqlens());
    const Both<float> lse =
        Same<float>({c.tokens(), c.heads}, std::vector<float>(c.tokens() * c.heads));
    const AttentionForwardParams forward = ForwardParams(c, qkv, o, lse, starts);
    const AttentionBackwardParams params = BackwardParams(forward, dout, gradients);
    const CudnnWorkspace workspace = GuardedWorkspace(std::max(
        attention_->WorkspaceBytes(forward), attention_->WorkspaceBytes(params, c.longest())));
    ASSERT_OK(attention_->Forward(forward, c.longest(), workspace, *handle_));
    std::vector<BFloat16> first(gradients.rows * gradients.stride), next(first.size());
    const auto bytes = static_cast<int64_t>(2 * first.size());
    for (int run = 0; run < 8; ++run) {
      ASSERT_OK(attention_->Backward(params, c.longest(), workspace, *handle_));
      std::vector<BFloat16>& to = run == 0 ? first : next;
      Download(to.data(), gradients.Base(), bytes);
      ASSERT_FALSE(std::isnan(ToFloat(to[0]))) << c;
      if (run > 0) {
        ASSERT_EQ(std::memcmp(first.data(), next.data(), bytes), 0) << c << ", run " << run;
      }
    }
  }
}

TEST_F(CudnnAttentionTest, RefusesWhatItCannotRunAndQueuesNothing) {
  const Case c{"", {130, 70}, 4, 2, 64};
  const Slices qkv = RandomSlices({c.q_shape(), c.k_shape(), c.k_shape()}, 8, 3);
  const Slices o = UnwrittenSlices({c.q_shape()}, 0);
  const Both<int32_t> starts = Same<int32_t>({3}, c.cu_seqlens());
  const Both<float> lse = Same<float>({200, 4}, std::vector<float>(800));
  const AttentionForwardParams params = ForwardParams(c, qkv, o, lse, starts);
  ASSERT_OK(attention_->Supports(params));

  AttentionForwardParams narrow = params;
  narrow.head_dim = 72;
  EXPECT_THAT(attention_->Supports(narrow),
              StatusIs(absl::StatusCode::kUnimplemented, "head_dim is 72"));
  AttentionForwardParams shifted = params;
  shifted.k += 1;
  EXPECT_THAT(attention_->Supports(shifted), StatusIs(absl::StatusCode::kUnimplemented, "of k "));
  AttentionForwardParams odd = params;
  odd.v_stride += 1;
  EXPECT_THAT(attention_->Supports(odd), StatusIs(absl::StatusCode::kUnimplemented, "of v "));
  AttentionForwardParams huge = params;
  huge.num_tokens = int64_t{1} << 31;
  EXPECT_THAT(attention_->Supports(huge), StatusIs(absl::StatusCode::kUnimplemented, "spans"));
  EXPECT_THAT(attention_->Forward(params, c.longest(), {}, *handle_),
              StatusIs(absl::StatusCode::kUnimplemented, "too small"));
  EXPECT_TRUE(std::isnan(FetchSlice(o, 0)[0]));
}

// Lengths that differ, that are no multiples of 128, and that are not known to be equal.
TEST_F(CudnnAttentionTest, RefusesBackwardOfAllButDenseSequencesAndWritesNothing) {
  for (const bool deterministic : {true, false}) {
    ASSERT_NO_FATAL_FAILURE(Open({.deterministic = deterministic}));
    for (const auto& [c, max_seqlen] : {std::pair{Case{"", {130, 70}, 4, 2, 64}, 130},
                                        {Case{"", {256, 128}, 4, 4, 128}, 256},
                                        {Case{"", {200, 200}, 4, 2, 128}, 200},
                                        {Case{"", {200}, 4, 2, 128}, 0},
                                        {Case{"", {256, 256}, 8, 2, 128}, 384},
                                        {Case{"", {256, 256}, 8, 2, 128}, 0}}) {
      const Slices qkv = RandomSlices({c.q_shape(), c.k_shape(), c.k_shape()}, 8, 3);
      const Slices o_and_dout = RandomSlices({c.q_shape(), c.q_shape()}, 0, 5);
      const Slices gradients = UnwrittenSlices({c.q_shape(), c.k_shape(), c.k_shape()}, 8);
      const Both<int32_t> starts =
          Same<int32_t>({static_cast<int64_t>(c.lengths.size()) + 1}, c.cu_seqlens());
      const Both<float> lse =
          Same<float>({c.tokens(), c.heads}, std::vector<float>(c.tokens() * c.heads));
      const AttentionBackwardParams params =
          BackwardParams(ForwardParams(c, qkv, o_and_dout, lse, starts), o_and_dout, gradients);
      ASSERT_OK(attention_->Supports(params));
      const CudnnWorkspace workspace = GuardedWorkspace(attention_->WorkspaceBytes(params, 0));
      EXPECT_THAT(attention_->Backward(params, max_seqlen, workspace, *handle_),
                  StatusIs(absl::StatusCode::kUnimplemented, "of one length"));
      std::vector<BFloat16> now(gradients.before.size());
      Download(now.data(), gradients.device.data(), static_cast<int64_t>(2 * now.size()));
      EXPECT_EQ(std::memcmp(now.data(), gradients.before.data(), 2 * now.size()), 0);
      std::vector<uint8_t> scratch(workspace.bytes);
      Download(scratch.data(), workspace.data, workspace.bytes);
      EXPECT_EQ(std::count(scratch.begin(), scratch.end(), 0xff), workspace.bytes);
    }
  }
}

}  // namespace
}  // namespace lorad::cuda
