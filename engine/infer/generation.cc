#include "engine/infer/generation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"

namespace lorad {
namespace {

// Tokens of the prompt that the decoder is given first: what a token spells can depend on the ones
// before it (SentencePiece drops the first word's space; a character may span several tokens), but
// not on more than a character's bytes.
constexpr int64_t kDecoderContext = 8;

GenerateRequest WithoutPrompt(GenerateRequest request) {
  request.prompt = {};
  return request;
}

// What is in force: what the context has left bounds what was asked for.
int64_t MaxTokens(const GenerateRequest& request, const GenerationLimits& limits) {
  const int64_t room = limits.context_tokens - static_cast<int64_t>(request.prompt.size());
  return request.max_tokens == 0 ? room : std::min<int64_t>(request.max_tokens, room);
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Constraint>> CompileConstraint(
    const ConstraintSpec& spec, const GenerationLimits& limits) {
  if (limits.constraints != nullptr) return limits.constraints->Compile(spec);
  return ConstraintCompiler(nullptr, limits.vocab).Compile(spec);  // refuses all but none
}

Generation::Generation(GenerateRequest request, const GenerationLimits& limits,
                       std::shared_ptr<const Constraint> constraint)
    : request_(WithoutPrompt(request)),
      limits_(limits),
      prompt_tokens_(static_cast<int64_t>(request.prompt.size())),
      max_tokens_(MaxTokens(request, limits)),
      tokens_(std::move(request.prompt)),
      sampler_(request_.sampling, tokens_, limits.vocab),
      stop_strings_(request_.stop_strings),
      constraint_(std::move(constraint)) {
  if (constrained()) place_ = constraint_->Start();
  if (limits.tokenizer == nullptr) return;
  // A constraint counts every byte of the answer, so none may be taken for a text's start.
  decoder_.emplace(limits.tokenizer, DecodeOptions{.continues_text = constrained()});
  for (int64_t i = std::max<int64_t>(0, prompt_tokens_ - kDecoderContext); i < prompt_tokens_; ++i)
    decoder_->Push(tokens_[i]);
}

bool Generation::EndsAnswer(int32_t id) const {
  const auto contains = [id](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), id) != ids.end();
  };
  return (!request_.ignore_eos && contains(limits_.eos_ids)) || contains(request_.stop_ids);
}

std::string Generation::TextOf(int32_t id) {
  return decoder_.has_value() ? stop_strings_.Push(decoder_->Push(id)) : "";
}

// What the constraint allows, and what ends an answer where it may end.
absl::Status Generation::FindAllowed() {
  allowed_ = *constraint_->Allowed(place_);
  for (const std::vector<int32_t>* ids : {&limits_.eos_ids, &request_.stop_ids}) {
    for (const int32_t id : *ids) {
      if (id < 0 || id >= limits_.vocab) continue;  // a configuration may name ids without logits
      allowed_.Remove(id);
      if (place_.complete && EndsAnswer(id)) allowed_.Add(id);
    }
  }
  if (!allowed_.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "after ", generated_tokens(), " tokens no token of the model's vocabulary goes on as the ",
      "constraint demands; allow characters that the tokenizer has tokens for"));
}

absl::Status Generation::FollowConstraint(int32_t id) {
  if (constraint_->Advance(id, &place_)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "after ", generated_tokens(), " tokens the constraint can be meant in more than ", kMaxStacks,
      " ways; make its alternatives begin differently"));
}

DrawRequest Generation::NextDraw() const {
  DrawRequest request;
  request.logits = constrained() || sampler_.needs_logits();
  if (request.logits) return request;
  request.params = sampler_.ParamsOf(generated_tokens());
  request.params.top = request_.logprobs;
  return request;
}

absl::StatusOr<GenerateDelta> Generation::Advance(absl::Span<const float> logits) {
  if (constrained()) RETURN_IF_ERROR(FindAllowed());
  TokenLogprob drawn;
  ASSIGN_OR_RETURN(drawn.id,
                   sampler_.Draw(logits, generated_tokens(), constrained() ? &allowed_ : nullptr));
  if (request_.logprobs >= 0) drawn = sampler_.LogprobOf(logits, drawn.id, request_.logprobs);
  return Accept(std::move(drawn));
}

absl::StatusOr<GenerateDelta> Generation::Advance(TokenLogprob drawn) {
  if (drawn.id < 0) return LogitsAreNotNumbers(generated_tokens());
  return Accept(std::move(drawn));
}

absl::StatusOr<GenerateDelta> Generation::Accept(TokenLogprob drawn) {
  const int32_t id = drawn.id;
  GenerateDelta delta;
  delta.ids.push_back(id);
  if (request_.logprobs >= 0) delta.logprobs.push_back(std::move(drawn));
  tokens_.push_back(id);
  sampler_.Accept(id);

  if (EndsAnswer(id)) {
    finish_reason_ = FinishReason::kStop;
  } else {
    if (constrained()) RETURN_IF_ERROR(FollowConstraint(id));
    delta.text = TextOf(id);
    if (stop_strings_.found() || (constrained() && place_.ends()))
      finish_reason_ = FinishReason::kStop;
    else if (generated_tokens() >= max_tokens_)
      finish_reason_ = FinishReason::kLength;
  }
  if (finish_reason_.has_value() && decoder_.has_value()) {
    // The bytes that never became a character may still complete a stop string, or hold none.
    delta.text += stop_strings_.Push(decoder_->Finish());
    delta.text += stop_strings_.Finish();
    if (stop_strings_.found()) finish_reason_ = FinishReason::kStop;
  }
  return delta;
}

}  // namespace lorad
