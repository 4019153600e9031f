// The forward passes of a step.
#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "engine/core/status_macros.h"
#include "engine/sched/serving.h"

namespace lorad {
namespace {

// Wrong arguments and a full arena concern one pass; anything else is the device's, and every later
// call would report it again.
bool IsFatal(const absl::Status& status) {
  return !status.ok() && !absl::IsResourceExhausted(status) && !absl::IsInvalidArgument(status);
}

}  // namespace

absl::Status Serving::Step(const SliceBudget& budget) {
  step_ = {.began = options_.now(), .decoded = {}, .ended = {}};
  step_.running = running();
  step_.slots = options_.max_running;
  step_.queue = waiting() > 0;
  RETURN_IF_ERROR(RunRows(budget));
  step_.decoded = options_.now();
  RETURN_IF_ERROR(Prefill(step_.decode_rows, budget.prefill_budget()));
  step_.ended = options_.now();
  step_.backlog = HasBacklog();
  return absl::OkStatus();
}

bool Serving::HasBacklog() const {
  return waiting() > 0 || std::any_of(running_.begin(), running_.end(), [](const auto& item) {
           return !item.second->scores() && !item.second->decodes();
         });
}

// One pass: all decoding rows, and beside them prompts where these go row by row.
absl::Status Serving::RunRows(const SliceBudget& budget) {
  ReserveForDecoding();
  std::vector<Part> parts;
  for (const auto& [turn, sequence] : running_) {
    if (!sequence->decodes()) continue;
    const int64_t at = sequence->computed;
    parts.push_back({sequence.get(), {at, at + 1, PassKind::kRowInvariant, /*draws=*/true}});
  }
  step_.decode_rows = static_cast<int32_t>(parts.size());
  if (options_.prompt_kind == PassKind::kRowInvariant) AddPrompts(budget, parts);
  if (parts.empty()) return absl::OkStatus();
  const absl::Time began = absl::Now();
  std::vector<DrawResult> drawn(parts.size());
  const absl::Status status = RunParts(parts, absl::MakeSpan(drawn));
  if (!status.ok()) {
    std::vector<Sequence*> sequences;
    for (const Part& part : parts) sequences.push_back(part.sequence);
    return FailPass(sequences, status);
  }
  ReportRows(absl::Now() - began);
  for (const Part& part : parts) {
    part.sequence->computed = part.chunk.end;
    const bool prompt = part.chunk.begin < part.sequence->generation->prompt_tokens();
    if (prompt) prefixes_.Keep(*part.sequence);
  }
  for (size_t i = 0; i < parts.size(); ++i)
    if (parts[i].chunk.draws) Deliver(*parts[i].sequence, drawn[i]);
  return absl::OkStatus();
}

// Chunks of prompts, in order of turn, as many rows as the budget has for them.
void Serving::AddPrompts(const SliceBudget& budget, std::vector<Part>& parts) {
  const auto prompts = [](const auto& item) {
    return !item.second->scores() && !item.second->decodes();
  };
  if (std::none_of(running_.begin(), running_.end(), prompts)) return;
  const int64_t most = std::min(options_.max_batch_tokens, runner_.limits().max_tokens);
  int64_t rows = budget.PromptRows(step_.decode_rows,
                                   std::max<int64_t>(most - step_.decode_rows, 1), step_.began);
  for (const auto& [turn, sequence] : running_) {
    if (rows == 0) return;
    if (sequence->scores() || sequence->decodes()) continue;
    prefixes_.Skip(*sequence);
    if (sequence->decodes()) continue;  // all of its prompt and answer was known: its row is next
    const Chunk chunk = sequence->NextRows(rows);
    rows -= chunk.end - chunk.begin;
    step_.prompt_rows += static_cast<int32_t>(chunk.end - chunk.begin);
    parts.push_back({sequence.get(), chunk});
  }
}

// `drawn` of those that do not draw is of no use.
absl::Status Serving::RunParts(const std::vector<Part>& parts, absl::Span<DrawResult> drawn) {
  std::vector<SequenceRows> batch;
  std::vector<DrawRequest> requests;
  bool draws = false;
  for (const auto& [sequence, chunk] : parts) {
    batch.push_back(sequence->RowsOf(chunk.begin, chunk.end));
    requests.push_back(chunk.draws ? sequence->generation->NextDraw() : DrawRequest{});
    draws = draws || chunk.draws;
  }
  return draws ? runner_.Draw(batch, PassKind::kRowInvariant, requests, drawn)
               : runner_.Forward(batch, PassKind::kRowInvariant);
}

// The time of a pass that is both decoding's and prefill's is shared out by rows.
void Serving::ReportRows(absl::Duration took) const {
  if (options_.observer == nullptr) return;
  const double each = absl::ToDoubleSeconds(took) / (step_.decode_rows + step_.prompt_rows);
  for (const auto& [prefill, rows] :
       {std::pair(false, step_.decode_rows), std::pair(true, step_.prompt_rows)})
    if (rows > 0) options_.observer->OnServingStep(prefill, rows, rows * each);
}

absl::Status Serving::Prefill(int32_t decode_rows, absl::Duration budget) {
  const absl::Time began = options_.now();
  const int64_t max_tokens = options_.max_batch_tokens - decode_rows - step_.prompt_rows;
  int64_t used = 0;
  for (const Turn& turn : Turns(running_)) {
    while (true) {
      const auto found = running_.find(turn);
      if (found == running_.end()) break;
      Sequence& sequence = *found->second;
      if (!sequence.scores() && options_.prompt_kind == PassKind::kRowInvariant) break;
      prefixes_.Skip(sequence);  // others may have run its next chunks meanwhile
      if (sequence.decodes()) break;
      if (sequence.scored()) {
        FinishScore(sequence);
        break;
      }
      const Chunk chunk = sequence.NextChunk(options_.chunk_tokens, options_.row_chunk_tokens);
      const bool late = decode_rows > 0 && options_.now() - began > budget;
      if (used > 0 && (late || used + chunk.end - chunk.begin > max_tokens))
        return absl::OkStatus();
      used += chunk.end - chunk.begin;
      ++step_.chunks;
      RETURN_IF_ERROR(RunChunk(sequence, chunk));
    }
  }
  return absl::OkStatus();
}

absl::Status Serving::RunChunk(Sequence& sequence, const Chunk& chunk) {
  const absl::Time began = absl::Now();
  absl::Status status;
  DrawResult drawn;
  if (sequence.scores()) {
    status = ScoreChunk(sequence, chunk);
  } else {
    const SequenceRows rows = sequence.RowsOf(chunk.begin, chunk.end);
    status = chunk.draws ? runner_.Draw({rows}, chunk.kind, {sequence.generation->NextDraw()},
                                        absl::MakeSpan(&drawn, 1))
                         : runner_.Forward({rows}, chunk.kind);
  }
  if (!status.ok()) return FailPass({&sequence}, status);
  sequence.computed = chunk.end;
  if (chunk.kind == PassKind::kMatrix) prefixes_.Keep(sequence);
  if (options_.observer != nullptr) {
    options_.observer->OnServingStep(
        /*prefill=*/true, static_cast<int32_t>(chunk.end - chunk.begin),
        absl::ToDoubleSeconds(absl::Now() - began));
  }
  if (chunk.draws) Deliver(sequence, drawn);
  return absl::OkStatus();
}

absl::Status Serving::ScoreChunk(Sequence& sequence, const Chunk& chunk) {
  const int64_t count = chunk.end - chunk.begin;
  const auto next = absl::MakeConstSpan(sequence.score_ids).subspan(chunk.begin + 1, count);
  const auto answers = absl::MakeSpan(sequence.logprobs).subspan(chunk.begin + 1, count);
  return runner_.Score(sequence.RowsOf(chunk.begin, chunk.end), next, answers);
}

// Ends the sequences of a pass that went wrong. The error comes back when it is the device's.
absl::Status Serving::FailPass(absl::Span<Sequence* const> sequences, const absl::Status& status) {
  for (Sequence* sequence : sequences) Fail(*sequence, status);
  return IsFatal(status) ? status : absl::OkStatus();
}

void Serving::Deliver(Sequence& sequence, const DrawResult& drawn) {
  Generation& generation = *sequence.generation;
  absl::StatusOr<GenerateDelta> delta =
      drawn.logits.empty() ? generation.Advance(drawn.token) : generation.Advance(drawn.logits);
  if (!delta.ok()) {
    Fail(sequence, delta.status());
    return;
  }
  NoteToken(sequence);
  sequence.sink->OnDelta(*std::move(delta));
  const std::optional<FinishReason> reason = sequence.generation->finish_reason();
  if (reason.has_value()) Finish(sequence, *reason);
}

void Serving::NoteToken(Sequence& sequence) {
  const absl::Time now = absl::Now();
  const bool first = sequence.first_token == absl::InfinitePast();
  const absl::Time before = first ? sequence.arrival : sequence.last_token;
  if (first) sequence.first_token = now;
  sequence.last_token = now;
  if (first) prefixes_.Count(sequence);
  if (options_.observer == nullptr) return;
  const bool adapter = sequence.lease != nullptr;
  const double seconds = absl::ToDoubleSeconds(now - before);
  if (first)
    options_.observer->OnFirstToken(adapter, seconds);
  else
    options_.observer->OnInterToken(adapter, seconds);
}

}  // namespace lorad
