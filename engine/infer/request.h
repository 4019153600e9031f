// What a client asks of generation and scoring, and what it gets. Plain data; part of the façade.
#ifndef LORAD_ENGINE_INFER_REQUEST_H_
#define LORAD_ENGINE_INFER_REQUEST_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace lorad {

// How the next token is drawn. Order of application, as in vLLM: penalties, temperature, min-p,
// top-k, top-p.
struct SamplingParams {
  double temperature = 1.0;  // >= 0; 0: greedy, the lowest id among equals
  int32_t top_k = 0;         // >= 0; 0: all
  double top_p = 1.0;        // (0, 1]
  double min_p = 0.0;        // [0, 1]: drops tokens below min_p times the likeliest
  double repetition_penalty =
      1.0;  // > 0: divides positive, multiplies negative logits of seen tokens
  double presence_penalty = 0.0;   // [-2, 2]: subtracted once for each generated token
  double frequency_penalty = 0.0;  // [-2, 2]: subtracted per occurrence among generated tokens
  uint64_t seed = 0;  // the draw at position i is a function of (seed, i) and the logits
};

// Priorities are in [-kMaxPriority, kMaxPriority].
inline constexpr int32_t kMaxPriority = 100;

// What the text of an answer must be. The answer ends with kStop as soon as nothing more can
// follow; before that, end-of-sequence and stop ids are drawn only where it may end. An answer that
// is cut, by max_tokens (kLength) or by a stop string, may be incomplete.
struct ConstraintSpec {
  enum class Kind : uint8_t {
    kNone,
    kRegex,       // `text` is a pattern that matches all of it: engine/infer/constraint/regex.h
    kJsonSchema,  // `text` is a schema: engine/infer/constraint/json_schema.h
    kJsonObject,  // any JSON object
  };
  Kind kind = Kind::kNone;
  std::string text = {};
};

struct GenerateRequest {
  std::vector<int32_t> prompt;  // at least one id, each in [0, vocab)
  std::string adapter_id;       // sha256 of a registered adapter; empty: the base model
  std::string tenant;           // whose request it is: tenants share no prompts; empty: of none
  int32_t priority = 0;         // a larger one goes first; see Turn in engine/sched/sequence.h
  SamplingParams sampling;
  int32_t max_tokens = 0;                 // >= 1; 0: what the context has left
  std::vector<std::string> stop_strings;  // matched in the decoded text, also across token borders
  std::vector<int32_t> stop_ids;          // besides the model's end-of-sequence ids
  bool ignore_eos = false;
  ConstraintSpec constraint;
  int32_t logprobs = -1;  // -1: none; n >= 0: of the drawn token and the n likeliest; at most 20
};

enum class FinishReason { kStop, kLength, kCancelled, kDeadline, kError };

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0;  // natural log, of the model's distribution before temperature and penalties
  std::vector<std::pair<int32_t, float>> top;  // likeliest first
};

struct GenerateDelta {
  std::vector<int32_t> ids;
  std::string text;                    // whole UTF-8; what a stop string might begin is held back
  std::vector<TokenLogprob> logprobs;  // one per id when asked for
};

struct GenerateResult {
  FinishReason finish_reason = FinishReason::kStop;
  std::string adapter_id;  // the version that answered, from the first token to the last
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;  // of the prompt: not run, because they were run before
  int32_t generated_tokens = 0;
  double queue_seconds = 0;
  double time_to_first_token_seconds = 0;
};

// Receives one request's output on the engine thread: must return at once and never block.
// Exactly one of OnFinish and OnError is called, last.
class GenerateSink {
 public:
  virtual ~GenerateSink() = default;
  virtual void OnDelta(GenerateDelta delta) = 0;
  virtual void OnFinish(const GenerateResult& result) = 0;
  virtual void OnError(const absl::Status& status) = 0;
};

// A request and who hears its answer.
struct Submission {
  GenerateRequest request;
  std::shared_ptr<GenerateSink> sink;
};

struct ScoreRequest {
  std::vector<int32_t> ids;  // at least one
  std::string adapter_id;
};
struct ScoreResult {
  // logprobs[t] = ln p(ids[t] | ids[0..t-1]); logprobs[0] is NaN: nothing predicts the first token.
  std::vector<float> logprobs;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_REQUEST_H_
