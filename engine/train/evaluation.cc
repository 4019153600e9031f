#include "engine/train/evaluation.h"

#include "engine/core/status_macros.h"
#include "engine/train/step.h"

namespace lorad {
namespace {

PackingOptions InFileOrder(PackingOptions options) {
  options.shuffle = false;
  return options;
}

}  // namespace

Evaluation::Evaluation(const Model& model, Backend& backend, const TrainableAdapter& adapter,
                       const TokenDataset& dataset, const PackingOptions& packing, TensorView loss)
    : backend_(backend),
      dataset_(dataset),
      plan_(dataset, InFileOrder(packing), /*epoch=*/0),
      loss_(loss),
      pass_(model, backend, adapter, PassOptions{}) {}

void Evaluation::Begin(Arena& arena) {
  arena_ = &arena;
  mark_ = arena.Mark();
  micro_batch_ = 0;
  in_pass_ = false;
  read_back_due_ = false;
  sum_ = 0;
}

absl::Status Evaluation::BeginPass(Stream& stream) {
  batch_ = MakeMicroBatch(dataset_, plan_.MicroBatch(micro_batch_));
  arena_->Release(mark_);
  in_pass_ = true;
  PassInput input;
  input.batch = &batch_;
  input.loss = Rows(loss_, 0, batch_.num_tokens());
  return pass_.Begin(input, *arena_, stream);
}

absl::StatusOr<bool> Evaluation::Advance(Stream& stream) {
  if (read_back_due_) return ReadBack(stream);
  if (!in_pass_) RETURN_IF_ERROR(BeginPass(stream));
  ASSIGN_OR_RETURN(in_pass_, pass_.Advance(stream));
  read_back_due_ = !in_pass_;
  return true;
}

absl::StatusOr<bool> Evaluation::ReadBack(Stream& stream) {
  ASSIGN_OR_RETURN(const double sum,
                   SumLosses(Rows(loss_, 0, batch_.num_tokens()), backend_, stream));
  sum_ += sum;
  read_back_due_ = false;
  if (++micro_batch_ < plan_.num_micro_batches()) return true;
  arena_->Release(mark_);
  return false;
}

Slice Evaluation::next_slice() const {
  if (read_back_due_) return {SliceKind::kReadBack};
  if (in_pass_) return pass_.next_slice();
  return {SliceKind::kEmbedding, NumTokens(dataset_, plan_.MicroBatch(micro_batch_))};
}

}  // namespace lorad
