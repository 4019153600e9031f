// Linear layers backward: CUDA against the CPU. Tolerances: linear_bounds.h.
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "engine/device/cuda/cuda_stream.h"
#include "engine/ops/cuda/linear.h"
#include "engine/ops/cuda/lora_operands.h"
#include "tests/parity/linear_bounds.h"
#include "tests/parity/linear_problem.h"

namespace lorad {
namespace {

constexpr QuantSpec kNf4 = {QuantFormat::kNf4, 64, true};

class LinearBackwardTest : public LinearParityTest {
 protected:
  static constexpr int64_t kSparePastDx = 8;  // nobody's

  static std::vector<LinearBackwardTerm> Terms(Group& group, bool on_cuda) {
    std::vector<LinearBackwardTerm> terms;
    for (size_t i = 0; i < group.terms.size(); ++i) {
      Term& term = group.terms[i];
      const auto [dy, slice] = group.Output(i);
      terms.push_back({on_cuda ? term.weight.cuda() : term.weight.cpu(),
                       absl::MakeSpan(on_cuda ? term.cuda_segments : term.cpu_segments),
                       Dropout(term, on_cuda ? group.token_keys.cuda() : group.token_keys.cpu()),
                       on_cuda ? dy->cuda(slice) : dy->cpu(slice)});
    }
    return terms;
  }
  Slices MakeDx(const GroupSpec& spec) {
    const std::vector<Shape> shapes = {{spec.tokens, spec.in}};
    return spec.accumulate ? RandomSlices(shapes, kSparePastDx, 77)
                           : UnwrittenSlices(shapes, kSparePastDx);
  }
  static LinearBackwardArgs Args(Group& group, std::vector<LinearBackwardTerm>& terms,
                                 const TensorView& dx, bool on_cuda) {
    return {.x = on_cuda ? group.x.cuda(0) : group.x.cpu(0),
            .terms = absl::MakeSpan(terms),
            .dx = dx,
            .accumulate = group.spec.accumulate,
            .workspace = {}};
  }

  // The op's need is that of the same shapes without any memory.
  void ExpectNeedsNoPlaces(const LinearBackwardArgs& args, int64_t bytes) {
    std::vector<LinearBackwardTerm> terms(args.terms.begin(), args.terms.end());
    for (LinearBackwardTerm& term : terms) term.dy = {nullptr, DType::kBF16, term.dy.shape};
    LinearBackwardArgs bare = args;
    bare.x = {nullptr, DType::kBF16, args.x.shape};
    bare.dx = {nullptr, DType::kBF16, args.x.shape};
    bare.terms = absl::MakeSpan(terms);
    EXPECT_EQ(cuda().ops().LinearBackwardWorkspaceBytes(bare), bytes);
  }

  // `dx` may be empty: not wanted.
  void RunCuda(Group& group, const TensorView& dx) {
    BindSegments(group);
    std::vector<LinearBackwardTerm> terms = Terms(group, true);
    LinearBackwardArgs args = Args(group, terms, dx, true);
    const int64_t bytes = cuda().ops().LinearBackwardWorkspaceBytes(args);
    ExpectNeedsNoPlaces(args, bytes);
    args.workspace = GuardedWorkspace(bytes);
    ASSERT_OK(cuda().ops().LinearBackward(args, stream()));
    ExpectGuardUntouched();
  }
  void RunCuda(Group& group, const TensorView& dx, const cuda::LinearLimits& limits) {
    BindSegments(group);
    std::vector<LinearBackwardTerm> terms = Terms(group, true);
    LinearBackwardArgs args = Args(group, terms, dx, true);
    args.workspace = GuardedWorkspace(cuda::LinearBackwardWorkspaceBytes(args, limits));
    const std::unique_ptr<cuda::Matmul> matmul = *cuda::Matmul::Create();
    const DeviceBuffer lt = Allocate(cuda::kMatmulWorkspaceBytes);
    ASSERT_OK(cuda::LinearBackward(
        *matmul, args, {cuda::Handle(stream()), lt.data(), cuda::kMatmulWorkspaceBytes}, limits));
    ExpectGuardUntouched();  // waits, so the handle may go
  }
  std::vector<float> FetchGradients(const Group& group) {
    std::vector<float> values(group.gradients.size());
    Download(values.data(), group.cuda_gradients.data(),
             static_cast<int64_t>(values.size() * sizeof(float)));
    return values;
  }
  void RunCpu(Group& group, const TensorView& dx) {
    std::vector<LinearBackwardTerm> terms = Terms(group, false);
    LinearBackwardArgs args = Args(group, terms, dx, false);
    args.workspace = CpuWorkspace(cpu().ops().LinearBackwardWorkspaceBytes(args));
    ASSERT_OK(cpu().ops().LinearBackward(args, cpu_stream()));
  }
  BackwardBounds Bounds(Group& group, Slices& dx) {
    std::vector<LinearBackwardTerm> terms = Terms(group, false);
    return BoundBackward(Args(group, terms, dx.cpu(0), false),
                         group.spec.accumulate ? dx.host[0].data() : nullptr);
  }

  static void ExpectNear(const std::vector<float>& actual, const std::vector<float>& expected,
                         std::vector<double> bound, double calls = 1) {
    for (double& b : bound) b *= calls;
    ExpectWithin(actual, std::vector<double>(expected.begin(), expected.end()), bound);
  }

  // After `calls` calls on both sides: each gradient, and nothing around them.
  void ExpectGradients(Group& group, const BackwardBounds& bounds, double calls) {
    const std::vector<float> all = FetchGradients(group);
    std::vector<bool> is_gradient(all.size());
    for (size_t i = 0; i < group.terms.size(); ++i) {
      for (size_t s = 0; s < group.terms[i].pairs.size(); ++s) {
        SCOPED_TRACE(testing::Message() << "term " << i << ", segment " << s);
        const Pair& pair = group.terms[i].pairs[s];
        const auto check = [&](int64_t offset, const std::vector<float>& expected,
                               const std::vector<double>& bound) {
          const auto begin = all.begin() + offset;
          std::fill_n(is_gradient.begin() + offset, expected.size(), true);
          ExpectNear({begin, begin + static_cast<int64_t>(expected.size())}, expected, bound,
                     calls);
        };
        check(pair.da_offset, pair.da, bounds.da[i][s]);
        check(pair.db_offset, pair.db, bounds.db[i][s]);
      }
    }
    for (size_t i = 0; i < all.size(); ++i) {
      if (is_gradient[i]) continue;
      ASSERT_EQ(all[i], kCanary) << "float " << i << " lies between gradients";
    }
  }
  // The forward pass over the group's terms, with at least `bytes` of scratch, which it returns.
  // Leaves xa.
  TensorView RunForward(Group& group, int64_t bytes) {
    std::vector<Shape> shapes;
    for (const Term& term : group.terms) shapes.push_back({group.spec.tokens, term.spec.out});
    const Slices y = UnwrittenSlices(shapes, 0);
    std::vector<LinearTerm> terms;
    for (size_t i = 0; i < group.terms.size(); ++i) {
      Term& term = group.terms[i];
      terms.push_back({term.weight.cuda(),
                       {},
                       absl::MakeSpan(term.cuda_segments),
                       Dropout(term, group.token_keys.cuda()),
                       y.cuda(i)});
    }
    LinearArgs args = {.x = group.x.cuda(0), .terms = absl::MakeSpan(terms)};
    args.workspace = GuardedWorkspace(std::max(bytes, cuda().ops().LinearWorkspaceBytes(args)));
    EXPECT_OK(cuda().ops().Linear(args, stream()));
    ExpectGuardUntouched();  // waits, so y may go
    return args.workspace;
  }

  // The scratch of a backward pass after a forward pass.
  enum class Scratch {
    kOwn,        // NaN
    kForwards,   // as the forward pass left it, and the op is told so
    kPretended,  // NaN, and the op is told that it is the forward pass's
  };
  struct Gradients {
    std::vector<float> dx, adapters;
  };
  static bool SameGradients(const Gradients& a, const Gradients& b) {
    return SameBits(a.dx, b.dx) && SameBits(a.adapters, b.adapters);
  }
  Gradients ForwardAndBackward(const GroupSpec& spec, Scratch scratch, bool spare_behind_x = true) {
    Group group = MakeGroup(spec, /*backward=*/true);
    if (!spare_behind_x) group.x = RandomSlices(group.x.shapes, 0, 1);
    BindSegments(group);
    Slices dx = MakeDx(spec);
    std::vector<LinearBackwardTerm> terms = Terms(group, true);
    LinearBackwardArgs args = Args(group, terms, dx.cuda(0), true);
    const int64_t bytes = cuda().ops().LinearBackwardWorkspaceBytes(args);
    args.workspace = RunForward(group, bytes);
    if (scratch != Scratch::kForwards) args.workspace = GuardedWorkspace(bytes);
    args.workspace_is_forwards = scratch != Scratch::kOwn;
    EXPECT_OK(cuda().ops().LinearBackward(args, stream()));
    ExpectGuardUntouched();
    ExpectInputsUntouched(group);
    return {FetchSlice(dx, 0), FetchGradients(group)};
  }

  // dy and x as before.
  void ExpectInputsUntouched(Group& group) {
    EXPECT_EQ(FetchSlice(group.x, 0, /*spare_is_the_ops=*/true), group.x.host[0]);
    for (size_t i = 0; i < group.terms.size(); ++i) {
      const auto [dy, slice] = group.Output(i);
      EXPECT_EQ(FetchSlice(*dy, slice, /*spare_is_the_ops=*/true), dy->host[slice]) << "dy " << i;
    }
  }
};

class LinearBackwardCaseTest : public LinearBackwardTest,
                               public testing::WithParamInterface<GroupSpec> {};

// A call with dx and one without: gradients of adapters add up.
TEST_P(LinearBackwardCaseTest, EqualsTheCpuAndItself) {
  Group group = MakeGroup(GetParam(), /*backward=*/true);
  Slices dx = MakeDx(group.spec);
  RunCuda(group, dx.cuda(0));
  const BackwardBounds bounds = Bounds(group, dx);
  RunCpu(group, dx.cpu(0));
  const std::vector<float> actual = FetchSlice(dx, 0);
  ExpectNear(actual, dx.host[0], bounds.dx);
  ExpectGradients(group, bounds, 1);
  const std::vector<float> gradients = FetchGradients(group);
  RunCuda(group, {});
  RunCpu(group, {});
  ExpectGradients(group, bounds, 2);
  ExpectInputsUntouched(group);

  Group again = MakeGroup(GetParam(), /*backward=*/true);
  Slices dx_again = MakeDx(again.spec);
  RunCuda(again, dx_again.cuda(0));
  EXPECT_TRUE(SameBits(FetchSlice(dx_again, 0), actual));
  EXPECT_TRUE(SameBits(FetchGradients(again), gradients));
}

// Whether both passes run such a group as one product with LoRA inside, over operands that the
// second one can take from the first.
bool RunsAsOneProduct(const GroupSpec& spec) {
  if (!spec.spare || (!spec.side_by_side && spec.terms.size() > 1)) return false;
  if (spec.terms.size() > static_cast<size_t>(cuda::kMaxLoraTerms)) return false;
  bool any_lora = false;
  for (const TermSpec& term : spec.terms) {
    if (term.quant.format == QuantFormat::kNone) return false;
    if (term.segments.empty()) continue;
    const SegmentSpec& first = term.segments[0];
    const bool all_rows = first.begin == 0 && first.end == spec.tokens;
    if (term.segments.size() > 1 || !all_rows || term.dropout > 0) return false;
    any_lora = true;
  }
  return any_lora;
}

// What the forward pass decoded is what the backward pass would decode, bit for bit. That it is
// used, where it can be, shows when it is not there: NaN in its place reaches dx, and elsewhere
// nothing.
TEST_P(LinearBackwardCaseTest, TakesWhatTheForwardPassDecoded) {
  const Gradients own = ForwardAndBackward(GetParam(), Scratch::kOwn);
  for (const float value : own.dx) ASSERT_TRUE(std::isfinite(value));
  EXPECT_TRUE(SameGradients(ForwardAndBackward(GetParam(), Scratch::kForwards), own));
  const Gradients pretended = ForwardAndBackward(GetParam(), Scratch::kPretended);
  EXPECT_EQ(SameGradients(pretended, own), !RunsAsOneProduct(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Cases, LinearBackwardCaseTest, testing::ValuesIn(LinearCases()),
                         [](const testing::TestParamInfo<GroupSpec>& info) {
                           return std::string(info.param.name);
                         });

// Without columns behind x the forward pass leaves its operands in another layout, which the
// backward pass, with columns behind dy, must not take for its own.
TEST_F(LinearBackwardTest, DecodesAgainAfterAForwardPassWithoutSpareColumns) {
  const GroupSpec spec = {.name = "",
                          .tokens = 50,
                          .in = 128,
                          .terms = {{kNf4, 64, AllRows(50, 3)}, {kNf4, 32, AllRows(50, 16)}}};
  ASSERT_TRUE(RunsAsOneProduct(spec));
  const auto run = [&](Scratch scratch) {
    return ForwardAndBackward(spec, scratch, /*spare_behind_x=*/false);
  };
  const Gradients own = run(Scratch::kOwn);
  EXPECT_TRUE(SameGradients(run(Scratch::kForwards), own));
  EXPECT_TRUE(SameGradients(run(Scratch::kPretended), own));
}

// One product for da of several terms.
TEST_F(LinearBackwardTest, GradientsOneAfterAnotherInMemory) {
  GroupSpec spec = {.name = "", .tokens = 90, .in = 128, .terms = {}};
  for (const int64_t rank : {3, 16, 5}) spec.terms.push_back({kNf4, 64, {{0, 90, rank, 0.5f}}});
  Group group = MakeGroup(spec, /*backward=*/true, /*gap=*/0);
  Slices dx = MakeDx(spec);
  RunCuda(group, dx.cuda(0));
  const BackwardBounds bounds = Bounds(group, dx);
  RunCpu(group, dx.cpu(0));
  ExpectGradients(group, bounds, 1);
  ExpectNear(FetchSlice(dx, 0), dx.host[0], bounds.dx);
}

// The one product over a longer contraction, which is why dy has room behind its rows: scaling * dy
// B of all terms is there, and zeros up to the multiple.
TEST_F(LinearBackwardTest, DyBIsLeftBehindDy) {
  const GroupSpec spec = {.name = "",
                          .tokens = 50,
                          .in = 128,
                          .terms = {{kNf4, 64, AllRows(50, 3)}, {kNf4, 32, AllRows(50, 16)}}};
  Group group = MakeGroup(spec, /*backward=*/true);
  Slices dx = MakeDx(spec);
  RunCuda(group, dx.cuda(0));
  const Slices& dy = group.y[0];
  std::vector<BFloat16> rows(spec.tokens * dy.stride);
  Download(rows.data(), dy.Base(), static_cast<int64_t>(2 * rows.size()));
  for (int64_t t = 0; t < spec.tokens; ++t) {
    const BFloat16* behind = rows.data() + t * dy.stride + dy.width;
    for (int64_t column = 0; column < dy.stride - dy.width; ++column)
      ASSERT_EQ(ToFloat(behind[column]) == 0, column >= 3 + 16) << t << ", " << column;
  }
}

// Parts of 64, 64 and 22 rows, of 64, and of 64 and 64: dx is rounded at most six times, as bounded
// for three terms.
TEST_F(LinearBackwardTest, WeightsTooLargeForTheScratchAreDecodedInParts) {
  GroupSpec spec = {.name = "", .tokens = 50, .in = 256, .terms = {}};
  for (const int64_t out : {150, 64}) spec.terms.push_back({kNf4, out, {{0, 50, 16, 0.5f}}});
  spec.terms.push_back({kNf4, 128, {}});
  Group group = MakeGroup(spec, /*backward=*/true);
  Slices dx = MakeDx(spec);
  RunCuda(group, dx.cuda(0), {.weight_bytes = 70 * 256 * 2});
  const BackwardBounds bounds = Bounds(group, dx);
  RunCpu(group, dx.cpu(0));
  // A seventh and an eighth rounding, of the parts of the first and the last weight.
  ExpectNear(FetchSlice(dx, 0), dx.host[0], bounds.dx, /*calls=*/8.0 / 6);
  ExpectGradients(group, bounds, 1);
}

// The last runs with LoRA inside; behind the others' dy lies another's.
TEST_F(LinearBackwardTest, TermsTooLargeForOneScratchRunOneByOne) {
  GroupSpec spec = {.name = "", .tokens = 50, .in = 256, .terms = {}};
  for (const int64_t rank : {3, 16, 5}) spec.terms.push_back({kNf4, 96, {{0, 50, rank, 0.5f}}});
  Group group = MakeGroup(spec, /*backward=*/true);
  Slices dx = MakeDx(spec);
  RunCuda(group, dx.cuda(0), {.weight_bytes = 100 * 256 * 2});
  const BackwardBounds bounds = Bounds(group, dx);
  RunCpu(group, dx.cpu(0));
  ExpectNear(FetchSlice(dx, 0), dx.host[0], bounds.dx);
  ExpectGradients(group, bounds, 1);
  ExpectInputsUntouched(group);
}

// The mask of the backward pass is the forward's: with A and B unit matrices and scaling 1, what
// LoRA adds to dx is dy itself where x was kept, and nothing elsewhere.
TEST_F(LinearBackwardTest, DropoutMasksDxAsTheCpuDoes) {
  const int64_t tokens = 65, n = 64;
  const GroupSpec spec = {.name = "",
                          .tokens = tokens,
                          .in = n,
                          .terms = {{kNf4, n, {{2, tokens, n, 1.0f}}, false, 0.4f}}};
  Group group = MakeGroup(spec, /*backward=*/true);
  Pair& pair = group.terms[0].pairs[0];
  std::vector<float> unit(n * n, 0.0f);
  for (int64_t i = 0; i < n; ++i) unit[i * n + i] = 1;
  pair.a = Same<float>({n, n}, unit);
  pair.b = Same<float>({n, n}, unit);
  Slices dx = MakeDx(spec);
  RunCuda(group, dx.cuda(0));
  const BackwardBounds bounds = Bounds(group, dx);
  RunCpu(group, dx.cpu(0));
  ExpectNear(FetchSlice(dx, 0), dx.host[0], bounds.dx);
  ExpectGradients(group, bounds, 1);
}

}  // namespace
}  // namespace lorad
