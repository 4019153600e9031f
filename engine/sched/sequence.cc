#include "engine/sched/sequence.h"

#include <algorithm>

#include "absl/types/span.h"

namespace lorad {

double Sequence::queue_seconds() const {
  if (first_admission == absl::InfinitePast()) return 0;
  return absl::ToDoubleSeconds(first_admission - arrival);
}

double Sequence::time_to_first_token_seconds() const {
  if (first_token == absl::InfinitePast()) return 0;
  return absl::ToDoubleSeconds(first_token - arrival);
}

Chunk Sequence::NextChunk(int64_t chunk_tokens, int64_t row_chunk_tokens) const {
  const int64_t total = static_cast<int64_t>(tokens().size());
  const int64_t prompt = scores() ? total - 1 : generation->prompt_tokens();
  Chunk chunk;
  chunk.begin = computed;
  if (computed < prompt) {
    chunk.end = std::min(prompt, (computed / chunk_tokens + 1) * chunk_tokens);
    const bool rest = chunk.end % chunk_tokens != 0;  // a whole chunk may be shared
    const bool few = chunk.end - chunk.begin <= row_chunk_tokens;
    chunk.kind = rest && few && !scores() ? PassKind::kRowInvariant : PassKind::kMatrix;
    chunk.draws = !scores() && chunk.end == total;
  } else {
    chunk.end = std::min(total - 1, computed + chunk_tokens);
    chunk.kind = PassKind::kRowInvariant;
  }
  return chunk;
}

Chunk Sequence::NextRows(int64_t rows) const {
  const int64_t total = static_cast<int64_t>(tokens().size());
  const bool answered = generation->generated_tokens() > 0;
  Chunk chunk;
  chunk.kind = PassKind::kRowInvariant;
  chunk.begin = computed;
  chunk.end = std::min(total - (answered ? 1 : 0), computed + rows);
  chunk.draws = chunk.end == total;
  return chunk;
}

SequenceRows Sequence::RowsOf(int64_t begin, int64_t end) const {
  return {.ids = absl::MakeConstSpan(tokens()).subspan(begin, end - begin),
          .position = begin,
          .pages = table.pages(),
          .adapter = pin.get()};
}

}  // namespace lorad
