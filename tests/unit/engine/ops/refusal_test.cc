// What Validate refuses, the same on every backend: each case is a valid call with one thing wrong,
// and the message must name that thing.
#include <string>

#include "tests/unit/engine/ops/op_fixture.h"

namespace lorad {
namespace {

// A view with no memory: Validate reads shapes and types alone.
TensorView V(DType dtype, const Shape& shape) { return {nullptr, dtype, shape}; }
TensorView F32(const Shape& shape) { return V(DType::kF32, shape); }
TensorView I32(const Shape& shape) { return V(DType::kI32, shape); }
// As V, for arguments that may be left out: these are told by a null pointer.
TensorView Given(DType dtype, const Shape& shape) {
  static char memory;
  return {&memory, dtype, shape};
}

void ExpectRefused(const absl::Status& status, const std::string& part) {
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, part));
}

// Applies `change` to a copy of valid arguments.
template <typename Args, typename Change>
void ExpectRefused(Args args, const Change& change, const std::string& part) {
  ASSERT_OK(Validate(args));
  change(args);
  ExpectRefused(Validate(args), part);
}

WeightView DenseWeight(int64_t out, int64_t in) {
  WeightView weight;
  weight.out_features = out;
  weight.in_features = in;
  weight.dense = V(DType::kBF16, {out, in});
  return weight;
}

TEST(RefusalTest, Weight) {
  const auto nf4 = MakeWeight({QuantFormat::kNf4, 64, true}, 3, 64, 1);
  const auto int8 = MakeWeight({QuantFormat::kInt8, 64, false}, 3, 64, 1);
  const DequantizeArgs args = {nf4->view, F32({3, 64})}, single = {int8->view, F32({3, 64})};
  using A = DequantizeArgs;
  ExpectRefused(
      args, [](A& a) { a.weight.out_features = 4; }, "weight codes is [96]");
  ExpectRefused(
      args, [](A& a) { a.weight.spec.block = 0; }, "weight block is 0");
  ExpectRefused(
      args, [](A& a) { a.weight.spec.block = 96; }, "weight block is 96");
  ExpectRefused(
      args, [](A& a) { a.weight.spec.block = 32; }, "weight scales_u8 is [3]");
  ExpectRefused(
      args, [](A& a) { a.weight.codes.dtype = DType::kI8; }, "weight codes is I8");
  ExpectRefused(
      args, [](A& a) { a.weight.nested_code.shape = {16}; }, "nested_code is [16]");
  ExpectRefused(
      args, [](A& a) { a.weight.nested_scales.shape = {2}; }, "nested_scales is [2]");
  ExpectRefused(
      args, [](A& a) { a.weight.code_book.shape = {256}; }, "code book is [256]");
  ExpectRefused(
      single, [](A& a) { a.weight.scales.shape = {2}; }, "weight scales is [2]");
  ExpectRefused(
      single, [](A& a) { a.weight.scales.dtype = DType::kF16; }, "scales is F16");
  ExpectRefused(
      args,
      [](A& a) {
        a.out.shape = {64, 3};
      },
      "out is [64, 3], expected [3, 64]");
  ExpectRefused(
      args, [](A& a) { a.out.dtype = DType::kF16; }, "out is F16");
  const A dense = {DenseWeight(3, 4), F32({3, 4})};
  ExpectRefused(
      dense, [](A& a) { a.weight.dense.dtype = DType::kF32; }, "weight is F32");
  ExpectRefused(
      dense, [](A& a) { a.weight.in_features = 5; }, "weight is [3, 4]");
}

TEST(RefusalTest, EmbeddingRmsNormRopeSwiGlu) {
  using E = EmbeddingArgs;
  const E embedding = {I32({5}), V(DType::kBF16, {7, 3}), F32({5, 3})};
  ExpectRefused(
      embedding, [](E& a) { a.ids.dtype = DType::kI64; }, "embedding: ids is I64");
  ExpectRefused(
      embedding, [](E& a) { a.table.dtype = DType::kF32; }, "table is F32");
  ExpectRefused(
      embedding,
      [](E& a) {
        a.out.shape = {5, 4};
      },
      "out is [5, 4]");
  ExpectRefused(
      embedding, [](E& a) { a.out.dtype = DType::kI32; }, "out is I32");

  using N = RmsNormArgs;
  const N norm = {F32({5, 3}), F32({3}), F32({5, 3}), Given(DType::kF32, {5}), 1e-5f};
  ExpectRefused(
      norm, [](N& a) { a.eps = 0; }, "rms_norm: eps is 0, must be > 0");
  ExpectRefused(
      norm, [](N& a) { a.gamma.shape = {4}; }, "gamma is [4]");
  ExpectRefused(
      norm, [](N& a) { a.y.dtype = DType::kF64; }, "y is F64");
  ExpectRefused(
      norm, [](N& a) { a.inv_rms.shape = {4}; }, "inv_rms is [4]");
  ExpectRefused(
      norm, [](N& a) { a.inv_rms.dtype = DType::kF64; }, "inv_rms is F64");
  using B = RmsNormBackwardArgs;
  const B back = {F32({5, 3}), F32({5, 3}), F32({3}), F32({5}), F32({5, 3}), false};
  ExpectRefused(
      back,
      [](B& a) {
        a.dy.shape = {4, 3};
      },
      "rms_norm_backward: dy is [4, 3]");
  ExpectRefused(
      back, [](B& a) { a.inv_rms.shape = {3}; }, "inv_rms is [3]");

  using R = RopeArgs;
  const R rope = {F32({5, 2, 8}), I32({5}), F32({4}), false};
  ExpectRefused(
      rope,
      [](R& a) {
        a.x.shape = {5, 2, 7};
      },
      "head_dim is 7, must be even");
  ExpectRefused(
      rope, [](R& a) { a.positions.shape = {4}; }, "positions is [4]");
  ExpectRefused(
      rope, [](R& a) { a.inv_freq.shape = {8}; }, "inv_freq is [8]");

  using S = SwiGluArgs;
  const S swiglu = {F32({5, 3}), F32({5, 3}), F32({5, 3})};
  ExpectRefused(
      swiglu,
      [](S& a) {
        a.up.shape = {5, 4};
      },
      "swiglu: up is [5, 4]");
  ExpectRefused(
      swiglu, [](S& a) { a.out.dtype = DType::kBF16; }, "out is BF16");
  float one[15];
  using G = SwiGluBackwardArgs;
  const G grad = {F32({5, 3}), F32({5, 3}), F32({5, 3}), {one, DType::kF32, {5, 3}}, F32({5, 3})};
  ExpectRefused(
      grad, [](G& a) { a.dup = a.dgate; }, "dgate and dup are the same tensor");
}

TEST(RefusalTest, Linear) {
  LoraSegment segments[] = {
      {0, 2, F32({4, 6}), F32({8, 4}), 1, F32({2, 4}), F32({4, 6}), F32({8, 4})},
      {3, 5, F32({2, 6}), F32({8, 2}), 1, F32({2, 2}), F32({2, 6}), F32({8, 2})}};
  const std::vector<LoraSegment> kept(std::begin(segments), std::end(segments));
  LinearTerm term = {
      DenseWeight(8, 6), Given(DType::kF32, {8}), absl::MakeSpan(segments), {}, F32({5, 8})};
  const LinearArgs args = {F32({5, 6}), absl::MakeSpan(&term, 1), false, false, {}};
  LinearBackwardTerm back = {term.weight, term.lora, {}, F32({5, 8})};
  const LinearBackwardArgs back_args = {
      F32({5, 6}), absl::MakeSpan(&back, 1), Given(DType::kF32, {5, 6}), false, {}};
  ASSERT_OK(Validate(args));
  ASSERT_OK(Validate(back_args));
  const auto with = [&](const auto& change, const std::string& part, bool backward = false) {
    const LinearTerm kept_term = term;
    const LinearBackwardTerm kept_back = back;
    change();
    ExpectRefused(backward ? Validate(back_args) : Validate(args), part);
    term = kept_term;
    back = kept_back;
    std::copy(kept.begin(), kept.end(), segments);
  };
  LinearArgs connected = args;
  connected.residual = Given(DType::kF32, {5, 8});
  ASSERT_OK(Validate(connected));
  connected.residual = Given(DType::kF32, {5, 7});
  ExpectRefused(Validate(connected), "linear: residual is [5, 7]");
  connected.residual = Given(DType::kF32, {5, 8});
  connected.accumulate = true;
  ExpectRefused(Validate(connected), "accumulate with a residual");
  LinearTerm two[] = {term, term};
  connected.accumulate = false;
  connected.terms = absl::MakeSpan(two);
  ExpectRefused(Validate(connected), "terms with a residual is 2, must be 1");
  LinearArgs gated = args;
  gated.swiglu = Given(DType::kF32, {5, 8});
  ExpectRefused(Validate(gated), "terms with swiglu is 1, must be 2");
  gated.terms = absl::MakeSpan(two);
  ASSERT_OK(Validate(gated));
  gated.swiglu = Given(DType::kF32, {5, 7});
  ExpectRefused(Validate(gated), "linear: swiglu is [5, 7]");
  gated.swiglu = Given(DType::kF32, {5, 8});
  gated.accumulate = true;
  ExpectRefused(Validate(gated), "accumulate with swiglu");
  with([&] { term.y.shape = {5, 7}; }, "linear: y is [5, 7]");
  with([&] { term.y.dtype = DType::kF64; }, "y is F64");
  with([&] { term.bias.shape = {6}; }, "bias is [6]");
  with([&] { term.weight = DenseWeight(8, 7); }, "x is [5, 6], expected [5, 7]");
  with([&] { segments[1].row_begin = 1; }, "LoRA rows [1, 5) overlap");
  with([&] { segments[1].row_end = 6; }, "LoRA rows [3, 6)");
  with([&] { segments[0].row_begin = -1; }, "LoRA rows [-1, 2)");
  with([&] { segments[0].a.shape = {4, 7}; }, "lora a is [4, 7]");
  with([&] { segments[0].b.shape = {4, 8}; }, "lora b is [4, 8]");
  with([&] { segments[0].xa.shape = {3, 4}; }, "lora xa is [3, 4]");
  with([&] { segments[0].a.dtype = DType::kBF16; }, "lora a is BF16");
  with([&] { term.dropout.probability = 1; }, "dropout probability is 1, must be in [0, 1)");
  with([&] { term.dropout.probability = -0.5f; }, "dropout probability is -0.5");
  with([&] { term.dropout.probability = 0.5f; }, "token_keys");
  with([&] { back.dy.shape = {4, 8}; }, "linear_backward: dy is [4, 8]", true);
  with([&] { segments[1].da.shape = {6, 2}; }, "lora da is [6, 2]", true);
  with([&] { segments[1].db.dtype = DType::kF64; }, "lora db is F64", true);
}

TEST(RefusalTest, Attention) {
  using A = AttentionArgs;
  const A args = {F32({9, 4, 8}),
                  F32({9, 2, 8}),
                  F32({9, 2, 8}),
                  I32({3}),
                  F32({9, 4, 8}),
                  Given(DType::kF32, {9, 4}),
                  0.5f};
  ExpectRefused(
      args,
      [](A& a) {
        a.q.shape = {9, 3, 8};
      },
      "q has 3 heads of 8");
  ExpectRefused(
      args,
      [](A& a) {
        a.k.shape = {9, 2, 7};
      },
      "must divide and the dimensions agree");
  ExpectRefused(
      args,
      [](A& a) {
        a.k.shape = {8, 2, 8};
      },
      "k is [8, 2, 8]");
  ExpectRefused(
      args, [](A& a) { a.v.dtype = DType::kF64; }, "v is F64");
  ExpectRefused(
      args,
      [](A& a) {
        a.lse.shape = {4, 9};
      },
      "lse is [4, 9]");
  ExpectRefused(
      args, [](A& a) { a.cu_seqlens.shape = {0}; }, "entries of cu_seqlens is 0");
  ExpectRefused(
      args, [](A& a) { a.cu_seqlens.dtype = DType::kI64; }, "cu_seqlens is I64");
  ExpectRefused(
      args, [](A& a) { a.scale = 0; }, "scale is 0");
  using B = AttentionBackwardArgs;
  const B back = {F32({9, 4, 8}),
                  F32({9, 4, 8}),
                  F32({9, 2, 8}),
                  F32({9, 2, 8}),
                  F32({9, 4, 8}),
                  F32({9, 4}),
                  I32({3}),
                  F32({9, 4, 8}),
                  F32({9, 2, 8}),
                  F32({9, 2, 8}),
                  0.5f};
  ExpectRefused(
      back,
      [](B& a) {
        a.dk.shape = {9, 4, 8};
      },
      "attention_backward: dk is [9, 4, 8]");
  ExpectRefused(
      back,
      [](B& a) {
        a.dout.shape = {9, 2, 8};
      },
      "dout is [9, 2, 8]");
  ExpectRefused(
      back, [](B& a) { a.lse.dtype = DType::kBF16; }, "lse is BF16");
  using P = PagedAttentionArgs;
  const P paged = {F32({9, 4, 8}), F32({6, 16, 2, 8}), F32({6, 16, 2, 8}), I32({2, 3}),
                   I32({2}),       I32({3}),           F32({9, 4, 8}),     0.5f};
  ExpectRefused(
      paged, [](P& a) { a.context_lens.shape = {3}; }, "context_lens is [3]");
  ExpectRefused(
      paged,
      [](P& a) {
        a.page_table.shape = {3, 3};
      },
      "page_table is [3, 3]");
  ExpectRefused(
      paged,
      [](P& a) {
        a.v_cache.shape = {6, 8, 2, 8};
      },
      "v_cache is [6, 8, 2, 8]");
  ExpectRefused(
      paged, [](P& a) { a.k_cache.dtype = DType::kF64; }, "k_cache is F64");
  using K = KvWriteArgs;
  const K write = {F32({9, 2, 8}), F32({9, 2, 8}), V(DType::kI64, {9}), F32({6, 16, 2, 8}),
                   F32({6, 16, 2, 8})};
  ExpectRefused(
      write, [](K& a) { a.slots.dtype = DType::kI32; }, "kv_write: slots is I32");
  ExpectRefused(
      write,
      [](K& a) {
        a.k_cache.shape = {6, 16, 4, 8};
      },
      "k_cache is [6, 16, 4, 8]");
  using R = RopePagedAttentionArgs;
  const R fused = {F32({9, 4, 8}),
                   F32({9, 2, 8}),
                   F32({9, 2, 8}),
                   I32({9}),
                   F32({4}),
                   V(DType::kI64, {9}),
                   F32({6, 16, 2, 8}),
                   F32({6, 16, 2, 8}),
                   I32({2, 3}),
                   I32({2}),
                   I32({3}),
                   F32({9, 4, 8}),
                   0.5f};
  ExpectRefused(
      fused, [](R& a) { a.positions.shape = {8}; }, "rope: positions is [8]");
  ExpectRefused(
      fused, [](R& a) { a.slots.shape = {8}; }, "kv_write: slots is [8]");
  ExpectRefused(
      fused, [](R& a) { a.scale = 0; }, "paged_attention: scale is 0");
  ExpectRefused(
      fused,
      [](R& a) {
        a.k.dtype = DType::kBF16;
        a.v.dtype = DType::kBF16;
        a.k_cache.dtype = DType::kBF16;
        a.v_cache.dtype = DType::kBF16;
      },
      "rope_paged_attention: k is BF16");
  ExpectRefused(
      fused,
      [](R& a) {
        a.context_lens.shape = {10};
        a.cu_seqlens.shape = {11};
        a.page_table.shape = {10, 3};
      },
      "rope_paged_attention: sequences is 10");
}

TEST(RefusalTest, Sample) {
  using S = SampleArgs;
  const S args = {F32({3, 9}), V(DType::kU8, {3, 48}),      I32({3}),
                  F32({3}),    Given(DType::kI32, {3, 20}), Given(DType::kF32, {3, 20})};
  ExpectRefused(
      args,
      [](S& a) {
        a.logits.shape = {3, 0};
      },
      "sample: vocabulary is 0, must be in [1, 2^24)");
  ExpectRefused(
      args,
      [](S& a) {
        a.logits.shape = {3, 1 << 24};
      },
      "vocabulary is 1.67772e+07");
  ExpectRefused(
      args, [](S& a) { a.logits.dtype = DType::kI32; }, "logits is I32");
  ExpectRefused(
      args,
      [](S& a) {
        a.params.shape = {3, 40};
      },
      "params is [3, 40], expected [3, 48]");
  ExpectRefused(
      args, [](S& a) { a.ids.shape = {4}; }, "ids is [4]");
  ExpectRefused(
      args, [](S& a) { a.ids.dtype = DType::kI64; }, "ids is I64");
  ExpectRefused(
      args, [](S& a) { a.logprobs.dtype = DType::kF64; }, "logprobs is F64");
  ExpectRefused(
      args,
      [](S& a) {
        a.top_ids.shape = a.top_logprobs.shape = {3, 21};
      },
      "columns of top_ids is 21, must be <= 20");
  ExpectRefused(
      args, [](S& a) { a.top_ids.row_stride = 24; }, "top_ids has rows 24 elements apart");
  ExpectRefused(
      args,
      [](S& a) {
        a.top_logprobs.shape = {3, 19};
      },
      "top_logprobs is [3, 19], expected [3, 20]");
  ExpectRefused(
      args, [](S& a) { a.top_ids = {}; }, "top_ids is []");
}

TEST(RefusalTest, LossAndOptimizer) {
  using L = LinearCrossEntropyArgs;
  const L loss = {F32({5, 6}), DenseWeight(9, 6), I32({5}), F32({5}), Given(DType::kF32, {5, 6}), 1,
                  {}};
  ExpectRefused(
      loss, [](L& a) { a.labels.shape = {4}; }, "linear_cross_entropy: labels is [4]");
  ExpectRefused(
      loss, [](L& a) { a.head = DenseWeight(9, 7); }, "hidden is [5, 6]");
  ExpectRefused(
      loss, [](L& a) { a.loss.dtype = DType::kF64; }, "loss is F64");
  ExpectRefused(
      loss,
      [](L& a) {
        a.dhidden.shape = {5, 9};
      },
      "dhidden is [5, 9]");
  AdamWTensor tensor = {F32({3}), F32({3}), F32({3}), F32({3})};
  using W = AdamWArgs;
  W adamw;
  adamw.tensors = absl::MakeConstSpan(&tensor, 1);
  ExpectRefused(
      adamw, [](W& a) { a.learning_rate = -1; }, "learning_rate is -1");
  ExpectRefused(
      adamw, [](W& a) { a.beta1 = 1; }, "beta1 is 1, must be in [0, 1)");
  ExpectRefused(
      adamw, [](W& a) { a.beta2 = -0.1; }, "beta2 is -0.1");
  ExpectRefused(
      adamw, [](W& a) { a.eps = 0; }, "eps is 0");
  ExpectRefused(
      adamw, [](W& a) { a.weight_decay = -1; }, "weight_decay is -1");
  ExpectRefused(
      adamw, [](W& a) { a.step = 0; }, "step is 0");
  ExpectRefused(
      adamw, [&](W&) { tensor.v.shape = {4}; }, "v is [4]");
  const TensorView codes = V(DType::kU8, {300});
  const AdamWTensor eight = {F32({300}), F32({300}), codes, codes, F32({2}), F32({2})};
  adamw.m_code = adamw.v_code = F32({256});
  const auto refused = [&](auto change, const char* part) {
    tensor = eight;
    ExpectRefused(
        adamw, [&](W& a) { change(a, tensor); }, part);
  };
  refused([](W&, AdamWTensor& t) { t.v.dtype = DType::kF32; }, "v is F32");
  refused([](W&, AdamWTensor& t) { t.m.shape = {299}; }, "m is [299]");
  refused([](W&, AdamWTensor& t) { t.m_scales.shape = {1}; }, "m_scales is [1]");
  refused([](W&, AdamWTensor& t) { t.v_scales.dtype = DType::kF64; }, "v_scales is F64");
  refused([](W& a, AdamWTensor&) { a.m_code.shape = {16}; }, "m_code is [16]");
  refused([](W& a, AdamWTensor&) { a.v_code.dtype = DType::kU8; }, "v_code is U8");
  refused([](W&, AdamWTensor& t) { t.param = V(DType::kF64, {300}), t.grad = t.param; },
          "param is F64");
  ExpectRefused(
      SumSquaresArgs{{}, V(DType::kF64, {1})}, [](SumSquaresArgs& a) { a.out.dtype = DType::kF32; },
      "out is F32");
}

// The CPU backend computes in one type and says so.
TEST(RefusalTest, AnotherBackendsActivations) {
  OpRunner<float> run;
  EXPECT_THAT(
      run.ops().SwiGlu({V(DType::kF64, {1, 2}), V(DType::kF64, {1, 2}), V(DType::kF64, {1, 2})},
                       run.stream()),
      StatusIs(absl::StatusCode::kInvalidArgument, "gate is F64, this backend computes in"));
  const AdamWTensor tensor = {V(DType::kF64, {1}), V(DType::kF64, {1}), V(DType::kF64, {1}),
                              V(DType::kF64, {1})};
  EXPECT_THAT(run.ops().AdamW({.tensors = absl::MakeConstSpan(&tensor, 1)}, run.stream()),
              StatusIs(absl::StatusCode::kInvalidArgument, "param is F64"));
}

}  // namespace
}  // namespace lorad
