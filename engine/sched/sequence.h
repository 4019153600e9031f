// A request inside the scheduler, from acceptance to its last word.
#ifndef LORAD_ENGINE_SCHED_SEQUENCE_H_
#define LORAD_ENGINE_SCHED_SEQUENCE_H_

#include <compare>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/infer/generation.h"
#include "engine/infer/pass.h"
#include "engine/infer/request.h"
#include "engine/kv/kv_cache.h"
#include "engine/kv/prefix_cache.h"
#include "engine/lora/store.h"

namespace lorad {

// Receives the tokens' log-probabilities, once, on the engine thread.
using ScoreCallback = std::function<void(absl::StatusOr<ScoreResult>)>;

// Who goes first: the lower one waits in front and is preempted last. A step of priority is a head
// start of kHeadStart, so a sequence goes before all of lower priority that have not waited that
// much longer, and is overtaken only by those that come within its own disadvantage: whatever
// arrives, its time comes. Equal priorities are served in order of arrival.
inline constexpr absl::Duration kHeadStart = absl::Seconds(10);
struct Turn {
  absl::Time time;  // of arrival, less the head start
  uint64_t id = 0;

  bool operator==(const Turn&) const = default;
  std::weak_ordering operator<=>(const Turn&) const = default;
};

// A piece of a sequence that one forward pass takes: tokens [begin, end).
struct Chunk {
  int64_t begin = 0;
  int64_t end = 0;
  PassKind kind = PassKind::kMatrix;
  bool draws = false;  // the logits after its last token give the next token
};

// Either generates (`generation` and `sink`) or scores (`score_ids` and `score_done`). Engine
// thread, after it was handed over.
struct Sequence {
  uint64_t id = 0;  // ascending in order of arrival
  std::optional<Generation> generation;
  std::shared_ptr<GenerateSink> sink;
  std::vector<int32_t> score_ids;
  std::vector<float> logprobs;  // of score_ids; the first is NaN
  ScoreCallback score_done;
  PrefixScope scope;  // of its prompt
  int32_t priority = 0;

  absl::Time deadline = absl::InfiniteFuture();
  absl::Time arrival = absl::InfinitePast();
  absl::Time first_admission = absl::InfinitePast();  // unset: never ran
  absl::Time first_token = absl::InfinitePast();
  absl::Time last_token = absl::InfinitePast();
  bool left_queue = false;  // no longer counts as queued

  AdapterStore::Lease lease;  // null: base model
  AdapterStore::Pin pin;      // while it runs, unless base
  KvTable table;
  int64_t computed = 0;       // tokens whose keys and values are in the cache
  int64_t cached_tokens = 0;  // of the prompt: found there before the first token of the answer

  Turn turn() const { return {arrival - priority * kHeadStart, id}; }

  bool scores() const { return !generation.has_value(); }
  const std::vector<int32_t>& tokens() const { return scores() ? score_ids : generation->tokens(); }
  // All tokens but the last are in the cache: the next pass is a decoding row.
  bool decodes() const {
    return !scores() && generation->generated_tokens() > 0 &&
           computed + 1 == static_cast<int64_t>(tokens().size());
  }
  // Tokens that a scoring pass runs: nothing follows the last one, so it is not needed.
  bool scored() const { return scores() && computed + 1 >= static_cast<int64_t>(score_ids.size()); }

  // 0 when it never ran, or never gave a token.
  double queue_seconds() const;
  double time_to_first_token_seconds() const;

  // The chunk that comes next when decodes() and scored() are false. The prompt is cut at multiples
  // of `chunk_tokens`, so its numbers are the same whatever else runs; a rest of at most
  // `row_chunk_tokens` of a prompt that is not scored goes row by row. Tokens that were generated
  // before a preemption are run as decoding ran them, row by row: their keys and values come out
  // the same to the bit.
  Chunk NextChunk(int64_t chunk_tokens, int64_t row_chunk_tokens) const;
  // The same of at most `rows` tokens where prompts are run row by row, too.
  Chunk NextRows(int64_t rows) const;
  // The rows of tokens [begin, end).
  SequenceRows RowsOf(int64_t begin, int64_t end) const;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_SCHED_SEQUENCE_H_
