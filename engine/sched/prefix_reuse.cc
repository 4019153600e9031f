#include "engine/sched/prefix_reuse.h"

#include <algorithm>

#include "absl/types/span.h"

namespace lorad {

void PrefixReuse::Skip(Sequence& sequence) {
  if (!TakesPart(sequence)) return;
  const bool answered = sequence.generation->generated_tokens() > 0;
  const int64_t useful = sequence.generation->prompt_tokens() - (answered ? 0 : 1);
  if (sequence.computed >= useful) return;
  // Behind a part of a block its rest is a pass of another shape.
  if (prompts_ == PassKind::kMatrix && sequence.computed % cache_.prefix_block_tokens() != 0)
    return;
  const auto tokens = absl::MakeConstSpan(sequence.tokens()).subspan(0, useful);
  const int64_t shared = cache_.AdoptPrefix(sequence.table, sequence.scope, tokens);
  const int64_t skipped = std::max<int64_t>(0, shared - sequence.computed);
  sequence.computed += skipped;
  if (!answered) sequence.cached_tokens += skipped;
}

void PrefixReuse::Keep(Sequence& sequence) {
  if (!TakesPart(sequence)) return;
  const int64_t known = std::min(sequence.computed, sequence.generation->prompt_tokens());
  cache_.KeepPrefix(sequence.table, sequence.scope,
                    absl::MakeConstSpan(sequence.tokens()).subspan(0, known));
}

void PrefixReuse::Count(const Sequence& sequence) {
  if (!TakesPart(sequence)) return;
  query_tokens_.fetch_add(sequence.generation->prompt_tokens(), std::memory_order_relaxed);
  hit_tokens_.fetch_add(sequence.cached_tokens, std::memory_order_relaxed);
}

}  // namespace lorad
