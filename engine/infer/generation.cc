#include "engine/infer/generation.h"

#include <algorithm>
#include <utility>

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

Generation::Generation(GenerateRequest request, const GenerationLimits& limits)
    : request_(WithoutPrompt(request)),
      limits_(limits),
      prompt_tokens_(static_cast<int64_t>(request.prompt.size())),
      max_tokens_(MaxTokens(request, limits)),
      tokens_(std::move(request.prompt)),
      sampler_(request_.sampling, tokens_, limits.vocab),
      stop_strings_(request_.stop_strings) {
  if (limits.tokenizer == nullptr) return;
  decoder_.emplace(limits.tokenizer);
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

DrawRequest Generation::NextDraw() const {
  DrawRequest request;
  request.logits = sampler_.needs_logits();
  if (request.logits) return request;
  request.params = sampler_.ParamsOf(generated_tokens());
  request.params.top = request_.logprobs;
  return request;
}

absl::StatusOr<GenerateDelta> Generation::Advance(absl::Span<const float> logits) {
  TokenLogprob drawn;
  ASSIGN_OR_RETURN(drawn.id, sampler_.Draw(logits, generated_tokens()));
  if (request_.logprobs >= 0) drawn = LogprobOf(logits, drawn.id, request_.logprobs);
  return Accept(std::move(drawn));
}

absl::StatusOr<GenerateDelta> Generation::Advance(TokenLogprob drawn) {
  if (drawn.id < 0) return LogitsAreNotNumbers(generated_tokens());
  return Accept(std::move(drawn));
}

GenerateDelta Generation::Accept(TokenLogprob drawn) {
  const int32_t id = drawn.id;
  GenerateDelta delta;
  delta.ids.push_back(id);
  if (request_.logprobs >= 0) delta.logprobs.push_back(std::move(drawn));
  tokens_.push_back(id);
  sampler_.Accept(id);

  if (EndsAnswer(id)) {
    finish_reason_ = FinishReason::kStop;
  } else {
    delta.text = TextOf(id);
    if (stop_strings_.found())
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
