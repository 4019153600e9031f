#include "engine/train/step.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "engine/core/check.h"
#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"
#include "engine/ops/ops.h"

namespace lorad {
namespace {

template <typename T>
absl::StatusOr<double> SumAs(TensorView loss, Backend& backend, Stream& stream) {
  std::vector<T> values(loss.num_elements());
  RETURN_IF_ERROR(backend.Copy(values.data(), loss.data, loss.size_bytes(), stream));
  RETURN_IF_ERROR(stream.Synchronize());
  return std::accumulate(values.begin(), values.end(), 0.0);
}

// Elements [begin, end) of a flat tensor; `begin` is at a block of moments.
AdamWTensor Elements(const AdamWTensor& tensor, int64_t begin, int64_t end) {
  AdamWTensor part{.param = Rows(tensor.param, begin, end),
                   .grad = Rows(tensor.grad, begin, end),
                   .m = Rows(tensor.m, begin, end),
                   .v = Rows(tensor.v, begin, end)};
  if (!tensor.m_scales.empty()) {
    const int64_t first = begin / kMomentBlock, last = CeilDiv(end, kMomentBlock);
    part.m_scales = Rows(tensor.m_scales, first, last);
    part.v_scales = Rows(tensor.v_scales, first, last);
  }
  return part;
}

}  // namespace

absl::StatusOr<double> SumLosses(TensorView loss, Backend& backend, Stream& stream) {
  return loss.dtype == DType::kF64 ? SumAs<double>(loss, backend, stream)
                                   : SumAs<float>(loss, backend, stream);
}

TrainStep::TrainStep(const Model& model, Backend& backend, TrainableAdapter& adapter,
                     const PassOptions& pass, const OptimizerOptions& optimizer, TensorView loss,
                     TensorView norm)
    : backend_(backend),
      adapter_(adapter),
      options_(optimizer),
      loss_(loss),
      norm_(norm),
      pass_(model, backend, adapter, pass) {
  LORAD_CHECK(pass.backward);
  LORAD_CHECK(optimizer.slice_elements > 0 && optimizer.slice_elements % kMomentBlock == 0);
}

absl::Status TrainStep::Begin(StepInput input, Arena& arena, Stream& stream) {
  input_ = std::move(input);
  outcome_ = {};
  for (const MicroBatch& batch : input_.micro_batches) {
    outcome_.tokens += batch.num_tokens();
    outcome_.target_tokens += batch.target_tokens;
  }
  LORAD_CHECK(outcome_.target_tokens > 0 && outcome_.tokens <= loss_.num_elements());
  arena_ = &arena;
  mark_ = arena.Mark();
  micro_batch_ = 0;
  in_pass_ = false;
  read_back_ = false;
  updated_ = 0;
  loss_rows_ = 0;
  const TensorView grads = adapter_.grads();
  return backend_.Zero(grads.data, grads.size_bytes(), stream);
}

absl::Status TrainStep::BeginPass(Stream& stream) {
  const MicroBatch& batch = input_.micro_batches[micro_batch_];
  const int64_t end = loss_rows_ + batch.num_tokens();
  const PassInput pass{.batch = &batch,
                       .loss = Rows(loss_, loss_rows_, end),
                       .grad_scale = 1.0f / static_cast<float>(outcome_.target_tokens),
                       .dropout = input_.dropout};
  loss_rows_ = end;
  arena_->Release(mark_);
  in_pass_ = true;
  return pass_.Begin(pass, *arena_, stream);
}

absl::StatusOr<bool> TrainStep::Advance(Stream& stream) {
  if (read_back_) return Update(stream);
  if (PassesDone()) {
    RETURN_IF_ERROR(ReadBack(stream));
    return outcome_.updated;
  }
  if (!in_pass_) RETURN_IF_ERROR(BeginPass(stream));
  ASSIGN_OR_RETURN(in_pass_, pass_.Advance(stream));
  if (!in_pass_) ++micro_batch_;
  return true;
}

Slice TrainStep::next_slice() const {
  if (read_back_)
    return {SliceKind::kUpdate,
            std::min(options_.slice_elements, adapter_.params().num_elements() - updated_)};
  if (PassesDone()) return {SliceKind::kReadBack};
  if (in_pass_) return pass_.next_slice();
  return {SliceKind::kEmbedding, input_.micro_batches[micro_batch_].num_tokens()};
}

absl::Status TrainStep::ReadBack(Stream& stream) {
  arena_->Release(mark_);
  const ConstTensorView grads[] = {adapter_.grads()};
  RETURN_IF_ERROR(backend_.ops().SumSquares({.tensors = grads, .out = norm_}, stream));
  double sum_squares = 0;
  RETURN_IF_ERROR(backend_.Copy(&sum_squares, norm_.data, sizeof sum_squares, stream));
  ASSIGN_OR_RETURN(const double loss, SumLosses(Rows(loss_, 0, outcome_.tokens), backend_, stream));
  outcome_.loss = loss / static_cast<double>(outcome_.target_tokens);
  outcome_.grad_norm = std::sqrt(sum_squares);
  outcome_.updated = std::isfinite(outcome_.loss) && std::isfinite(outcome_.grad_norm);
  read_back_ = true;
  return absl::OkStatus();
}

absl::StatusOr<bool> TrainStep::Update(Stream& stream) {
  const int64_t all = adapter_.params().num_elements();
  const int64_t begin = updated_;
  updated_ = std::min(all, begin + options_.slice_elements);
  const AdamWTensor part = Elements(adapter_.tensor(), begin, updated_);
  // Source: torch.nn.utils.clip_grad_norm_.
  const double clip = options_.max_grad_norm / (outcome_.grad_norm + 1e-6);
  RETURN_IF_ERROR(
      backend_.ops().AdamW({.tensors = absl::MakeConstSpan(&part, 1),
                            .learning_rate = input_.learning_rate,
                            .beta1 = options_.beta1,
                            .beta2 = options_.beta2,
                            .eps = options_.epsilon,
                            .weight_decay = options_.weight_decay,
                            .grad_scale = options_.max_grad_norm > 0 ? std::min(1.0, clip) : 1.0,
                            .step = input_.update,
                            .m_code = adapter_.m_code(),
                            .v_code = adapter_.v_code()},
                           stream));
  return updated_ < all;
}

}  // namespace lorad
