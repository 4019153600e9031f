// Linear layers forward: CUDA against the CPU. Tolerances: linear_bounds.h.
#include "engine/ops/cuda/linear.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "engine/device/cuda/cuda_stream.h"
#include "tests/parity/linear_bounds.h"
#include "tests/parity/linear_problem.h"

namespace lorad {
namespace {

constexpr QuantSpec kNf4 = {QuantFormat::kNf4, 64, true};

class LinearTest : public LinearParityTest {
 protected:
  static std::vector<LinearTerm> Terms(Group& group, bool on_cuda) {
    std::vector<LinearTerm> terms;
    for (size_t i = 0; i < group.terms.size(); ++i) {
      Term& term = group.terms[i];
      const auto [output, slice] = group.Output(i);
      ConstTensorView bias;
      if (term.spec.bias) bias = on_cuda ? term.bias.cuda() : term.bias.cpu();
      terms.push_back({on_cuda ? term.weight.cuda() : term.weight.cpu(), bias,
                       absl::MakeSpan(on_cuda ? term.cuda_segments : term.cpu_segments),
                       Dropout(term, on_cuda ? group.token_keys.cuda() : group.token_keys.cpu()),
                       on_cuda ? output->cuda(slice) : output->cpu(slice)});
    }
    return terms;
  }
  static LinearArgs Args(Group& group, std::vector<LinearTerm>& terms, bool on_cuda) {
    LinearArgs args = {.x = on_cuda ? group.x.cuda(0) : group.x.cpu(0),
                       .terms = absl::MakeSpan(terms),
                       .accumulate = group.spec.accumulate,
                       .row_invariant = group.row_invariant};
    if (group.residual != nullptr)
      args.residual = on_cuda ? group.residual->cuda(0) : group.residual->cpu(0);
    return args;
  }

  // The op's need is that of the same shapes without any memory, as callers ask before there is
  // any.
  void ExpectNeedsNoPlaces(const LinearArgs& args, int64_t bytes) {
    std::vector<LinearTerm> terms(args.terms.begin(), args.terms.end());
    for (LinearTerm& term : terms) term.y = {nullptr, DType::kBF16, term.y.shape};
    LinearArgs bare = args;
    bare.x = {nullptr, DType::kBF16, args.x.shape};
    bare.terms = absl::MakeSpan(terms);
    EXPECT_EQ(cuda().ops().LinearWorkspaceBytes(bare), bytes);
  }

  void RunCuda(Group& group) {
    BindSegments(group);
    std::vector<LinearTerm> terms = Terms(group, true);
    LinearArgs args = Args(group, terms, true);
    const int64_t bytes = cuda().ops().LinearWorkspaceBytes(args);
    ExpectNeedsNoPlaces(args, bytes);
    args.workspace = GuardedWorkspace(bytes);
    ASSERT_OK(cuda().ops().Linear(args, stream()));
    ExpectGuardUntouched();
  }
  // Under limits that cut the group up.
  void RunCuda(Group& group, const cuda::LinearLimits& limits) {
    BindSegments(group);
    std::vector<LinearTerm> terms = Terms(group, true);
    LinearArgs args = Args(group, terms, true);
    args.workspace = GuardedWorkspace(cuda::LinearWorkspaceBytes(args, limits));
    const std::unique_ptr<cuda::Matmul> matmul = *cuda::Matmul::Create();
    const DeviceBuffer lt = Allocate(cuda::kMatmulWorkspaceBytes);
    ASSERT_OK(cuda::Linear(
        *matmul, args, {cuda::Handle(stream()), lt.data(), cuda::kMatmulWorkspaceBytes}, limits));
    ExpectGuardUntouched();  // waits, so the handle may go
  }
  std::vector<std::vector<float>> Fetched(Group& group) {
    std::vector<std::vector<float>> values;
    for (size_t i = 0; i < group.terms.size(); ++i) {
      const auto [output, slice] = group.Output(i);
      values.push_back(FetchSlice(*output, slice));
      for (Pair& pair : group.terms[i].pairs) values.push_back(FetchSlice(pair.xa, 0));
    }
    return values;
  }

  static void ExpectNear(const std::vector<float>& actual, const float* expected,
                         const std::vector<double>& bound) {
    ASSERT_EQ(actual.size(), bound.size());
    ExpectWithin(actual, std::vector<double>(expected, expected + actual.size()), bound);
  }

  // What the device holds after a run against the CPU's op.
  void Check(Group& group) {
    std::vector<LinearTerm> terms = Terms(group, false);
    LinearArgs args = Args(group, terms, false);
    std::vector<ForwardBounds> bounds;
    for (const LinearTerm& term : terms) {
      const float* before = group.spec.accumulate ? term.y.as<float>() : nullptr;
      if (group.residual != nullptr) before = group.residual->host[0].data();
      bounds.push_back(BoundForward(term, group.x.host[0].data(), group.spec.tokens, before));
    }
    args.workspace = CpuWorkspace(cpu().ops().LinearWorkspaceBytes(args));
    ASSERT_OK(cpu().ops().Linear(args, cpu_stream()));
    const std::vector<std::vector<float>> actual = Fetched(group);
    size_t next = 0;
    for (size_t i = 0; i < terms.size(); ++i) {
      SCOPED_TRACE(testing::Message() << "term " << i);
      ExpectNear(actual[next++], terms[i].y.as<float>(), bounds[i].y);
      for (size_t s = 0; s < terms[i].lora.size(); ++s, ++next) {
        SCOPED_TRACE(testing::Message() << "xa of segment " << s);
        if (actual[next].empty()) continue;
        ExpectNear(actual[next], terms[i].lora[s].xa.as<float>(), bounds[i].xa[s]);
      }
    }
    EXPECT_EQ(FetchSlice(group.x, 0, /*spare_is_the_ops=*/true), group.x.host[0]) << "x changed";
  }
};

class LinearCaseTest : public LinearTest, public testing::WithParamInterface<GroupSpec> {};

TEST_P(LinearCaseTest, EqualsTheCpuAndItself) {
  Group group = MakeGroup(GetParam(), /*backward=*/false);
  RunCuda(group);
  Check(group);
  Group again = MakeGroup(GetParam(), /*backward=*/false);
  RunCuda(again);
  const std::vector<std::vector<float>> first = Fetched(group), second = Fetched(again);
  for (size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(SameBits(first[i], second[i])) << i;
}

INSTANTIATE_TEST_SUITE_P(Cases, LinearCaseTest, testing::ValuesIn(LinearCases()),
                         [](const testing::TestParamInfo<GroupSpec>& info) {
                           return std::string(info.param.name);
                         });

// A residual is what y would have held.
class LinearResidualTest : public LinearTest, public testing::WithParamInterface<GroupSpec> {
 protected:
  Slices Residual(const GroupSpec& spec, int64_t spare) {
    return RandomSlices({{spec.tokens, spec.terms[0].out}}, spare, 500);
  }
  Group OneTerm(const GroupSpec& spec, bool row_invariant) {
    Group group = MakeGroup(spec, /*backward=*/false);
    group.row_invariant = row_invariant;
    return group;
  }
  // y holds the residual, and is added to.
  std::vector<std::vector<float>> Accumulated(const GroupSpec& spec, bool row_invariant) {
    Group group = OneTerm(spec, row_invariant);
    group.y[0] = Residual(spec, kSparePastY);
    group.spec.accumulate = true;
    RunCuda(group);
    return Fetched(group);
  }
  static void ExpectSameBits(const std::vector<std::vector<float>>& actual,
                             const std::vector<std::vector<float>>& expected) {
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) EXPECT_TRUE(SameBits(actual[i], expected[i])) << i;
  }
};

// Of another stride than y, so cuBLASLt may choose another kernel than to accumulate: within the
// bounds of accumulating, as the same is rounded.
TEST_P(LinearResidualTest, ApartEqualsTheCpu) {
  Group group = OneTerm(GetParam(), /*row_invariant=*/false);
  Slices residual = Residual(group.spec, 24);
  group.residual = &residual;
  RunCuda(group);
  Check(group);
  EXPECT_EQ(FetchSlice(residual, 0), residual.host[0]) << "the residual changed";
}

// The same product as to accumulate.
TEST_P(LinearResidualTest, InPlaceIsAccumulating) {
  Group group = OneTerm(GetParam(), /*row_invariant=*/false);
  group.y[0] = Residual(group.spec, kSparePastY);
  group.residual = &group.y[0];
  RunCuda(group);
  ExpectSameBits(Fetched(group), Accumulated(group.spec, /*row_invariant=*/false));
  Check(group);
}

// A copy adds no rounding, so the bits are those of accumulating either way.
TEST_P(LinearResidualTest, RowInvariantIsAccumulating) {
  const std::vector<std::vector<float>> expected = Accumulated(GetParam(), /*row_invariant=*/true);
  Group apart = OneTerm(GetParam(), /*row_invariant=*/true);
  Slices residual = Residual(apart.spec, 24);
  apart.residual = &residual;
  RunCuda(apart);
  ExpectSameBits(Fetched(apart), expected);
  EXPECT_EQ(FetchSlice(residual, 0), residual.host[0]) << "the residual changed";
  Group in_place = OneTerm(GetParam(), /*row_invariant=*/true);
  in_place.y[0] = Residual(in_place.spec, kSparePastY);
  in_place.residual = &in_place.y[0];
  RunCuda(in_place);
  ExpectSameBits(Fetched(in_place), expected);
}

INSTANTIATE_TEST_SUITE_P(Cases, LinearResidualTest, testing::ValuesIn(OneTermCases()),
                         [](const testing::TestParamInfo<GroupSpec>& info) {
                           return std::string(info.param.name);
                         });

// Each part of 64 outputs adds its own columns of the residual.
TEST_F(LinearTest, AResidualOfAWeightThatIsDecodedInParts) {
  const GroupSpec spec = {
      .name = "", .tokens = 50, .in = 256, .terms = {{kNf4, 150, {{3, 40, 16, 0.5f}}, true}}};
  Slices residual = RandomSlices({{50, 150}}, 24, 500);
  Group group = MakeGroup(spec, /*backward=*/false);
  group.residual = &residual;
  RunCuda(group, {.weight_bytes = 70 * 256 * 2});
  Check(group);
  EXPECT_EQ(FetchSlice(residual, 0), residual.host[0]) << "the residual changed";
}

// Blocks of both quantisations are 64 * 256 elements, 64 rows of 256: parts of 64, 64 and 22 rows.
TEST_F(LinearTest, WeightsTooLargeForTheScratchAreDecodedInParts) {
  for (const QuantSpec& quant : {kNf4, QuantSpec{QuantFormat::kInt8, 64, false}}) {
    GroupSpec spec = {.name = "", .tokens = 50, .in = 256, .terms = {}};
    for (const int64_t out : {150, 64, 128}) {
      spec.terms.push_back({quant, out, {{0, 50, 16, 0.5f}}, true});
    }
    Group group = MakeGroup(spec, /*backward=*/false);
    RunCuda(group, {.weight_bytes = 70 * 256 * 2});
    Check(group);
  }
}

TEST_F(LinearTest, PartsOfAWeightAreTheWeight) {
  const int64_t out = 150, in = 256;
  for (const QuantSpec& quant :
       {kNf4, QuantSpec{QuantFormat::kNf4, 64, false}, QuantSpec{QuantFormat::kInt8, 64, true}}) {
    Weight weight = MakeParityWeight(quant, out, in, 1);
    // Random blocks all have much the same scale; these do not.
    ConstTensorView& scales =
        quant.double_quant ? weight.device.nested_scales : weight.device.scales;
    std::vector<float> unlike(scales.num_elements());
    for (size_t i = 0; i < unlike.size(); ++i) unlike[i] = 1 + static_cast<float>(i);
    weight.parts.push_back(Upload(unlike.data(), scales.size_bytes()));
    scales.data = weight.parts.back().data();

    const int64_t rows = cuda::ChunkRows(weight.cuda(), {.weight_bytes = 70 * in * 2});
    EXPECT_EQ(rows, 64);
    const auto decode = [&](int64_t step) {
      const DeviceBuffer to = Allocate(out * in * 2);
      for (int64_t begin = 0; begin < out; begin += step) {
        const cuda::PackedWeight part =
            cuda::PackedRows(weight.cuda(), begin, std::min(begin + step, out), begin);
        EXPECT_EQ(cuda::LaunchDequantize(&part, 1, static_cast<BFloat16*>(to.data()), in,
                                         cuda::Handle(stream())),
                  cudaSuccess);
      }
      std::vector<uint16_t> values(out * in);
      Download(values.data(), to.data(), out * in * 2);
      return values;
    };
    EXPECT_EQ(decode(rows), decode(out));
  }
}

TEST_F(LinearTest, TermsTooLargeForOneScratchRunOneByOne) {
  GroupSpec spec = {.name = "", .tokens = 50, .in = 256, .terms = {}};
  for (const int64_t rank : {3, 16, 5}) spec.terms.push_back({kNf4, 96, {{0, 50, rank, 0.5f}}});
  Group group = MakeGroup(spec, /*backward=*/false);
  RunCuda(group, {.weight_bytes = 100 * 256 * 2});
  Check(group);
}

// The one product over a longer contraction, which is why x has room behind its rows.
TEST_F(LinearTest, XaIsLeftBehindX) {
  const GroupSpec spec = {.name = "",
                          .tokens = 50,
                          .in = 128,
                          .terms = {{kNf4, 64, AllRows(50, 3)}, {kNf4, 32, AllRows(50, 16)}}};
  Group group = MakeGroup(spec, /*backward=*/false);
  RunCuda(group);
  std::vector<BFloat16> rows(spec.tokens * group.x.stride);
  Download(rows.data(), group.x.Base(), static_cast<int64_t>(2 * rows.size()));
  for (int64_t t = 0; t < spec.tokens; ++t) {
    const BFloat16* behind = rows.data() + t * group.x.stride + spec.in;
    for (const Term& term : group.terms) {
      const Pair& pair = term.pairs[0];
      const std::vector<float> xa = FetchSlice(pair.xa, 0);
      for (int64_t k = 0; k < pair.spec.rank; ++k)
        ASSERT_EQ(ToFloat(*behind++), xa[t * pair.spec.rank + k]) << "row " << t;
    }
  }
}

// With A the unit matrix xa is drop(x) itself: zero exactly where the CPU's is. x has no zeros.
TEST_F(LinearTest, DropoutKeepsWhatTheCpuKeeps) {
  const int64_t tokens = 65, in = 64;
  const GroupSpec spec = {.name = "",
                          .tokens = tokens,
                          .in = in,
                          .terms = {{kNf4, 16, {{2, tokens, in, 1.0f}}, false, 0.4f}}};
  Group group = MakeGroup(spec, /*backward=*/false);
  std::vector<float> unit(in * in, 0.0f);
  for (int64_t i = 0; i < in; ++i) unit[i * in + i] = 1;
  Pair& pair = group.terms[0].pairs[0];
  pair.a = Same<float>({in, in}, unit);
  RunCuda(group);
  Check(group);
  const std::vector<float> actual = FetchSlice(pair.xa, 0), expected = pair.xa.host[0];
  int64_t kept = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(actual[i] == 0, expected[i] == 0) << "element " << i;
    kept += actual[i] != 0;
  }
  EXPECT_GT(kept, 0);
  EXPECT_LT(kept, static_cast<int64_t>(actual.size()));
}

TEST_F(LinearTest, NoTokensAreNothingToDo) {
  const GroupSpec spec = {.name = "", .tokens = 0, .in = 64, .terms = {{kNf4, 16, {}, true}}};
  Group group = MakeGroup(spec, /*backward=*/false);
  RunCuda(group);
  Fetched(group);  // nothing was written
}

// Workspaces are sized once, for one adapter of the largest rank on all rows; any batch that the
// model then runs fits.
TEST_F(LinearTest, ScratchForTheLargestRankIsEnoughForSmallerOnes) {
  const auto bytes = [&](int64_t tokens, const std::vector<SegmentSpec>& segments) {
    GroupSpec spec = {.name = "", .tokens = tokens, .in = 128, .terms = {}};
    for (const int64_t out : {64, 32}) spec.terms.push_back({kNf4, out, segments});
    Group group = MakeGroup(spec, /*backward=*/false);
    BindSegments(group);
    std::vector<LinearTerm> terms = Terms(group, true);
    return cuda().ops().LinearWorkspaceBytes(Args(group, terms, true));
  };
  const int64_t most = bytes(130, {{0, 130, 40, 1.0f}});
  EXPECT_LE(bytes(130, {{0, 50, 40, 1.0f}, {50, 130, 40, 1.0f}}), most);
  EXPECT_LE(bytes(130, {{0, 50, 3, 1.0f}, {60, 70, 40, 1.0f}, {70, 130, 8, 1.0f}}), most);
  EXPECT_LE(bytes(100, {{0, 100, 16, 1.0f}}), most);
  EXPECT_LE(bytes(1, {{0, 1, 40, 1.0f}}), most);
  EXPECT_LE(bytes(130, {}), most);
}

}  // namespace
}  // namespace lorad
