#include "engine/sched/serving.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/core/check.h"
#include "engine/core/status_macros.h"

namespace lorad {
namespace {

// Waiting sequences whose adapters are loaded before their turn.
constexpr size_t kPrefetchWindow = 64;

double SecondsSince(absl::Time begin) { return absl::ToDoubleSeconds(absl::Now() - begin); }

// Wrong arguments and a full arena concern one pass; anything else is the device's, and every later
// call would report it again.
bool IsFatal(const absl::Status& status) {
  return !status.ok() && !absl::IsResourceExhausted(status) && !absl::IsInvalidArgument(status);
}

std::vector<Turn> Turns(const std::map<Turn, std::unique_ptr<Sequence>>& sequences) {
  std::vector<Turn> turns;
  for (const auto& [turn, sequence] : sequences) turns.push_back(turn);
  return turns;
}

}  // namespace

Serving::Serving(const ServingOptions& options, Runner& runner, AdapterStore& adapters,
                 std::function<void()> left_queue)
    : options_(options),
      runner_(runner),
      cache_(runner.cache()),
      adapters_(adapters),
      left_queue_(std::move(left_queue)),
      prefixes_(cache_, options.prompt_kind) {
  LORAD_CHECK(options.max_running >= 1 && options.max_running <= runner.limits().max_sequences);
  LORAD_CHECK(options.chunk_tokens >= 1 && options.chunk_tokens <= runner.limits().max_tokens);
  LORAD_CHECK(options.prompt_kind == PassKind::kRowInvariant || cache_.prefix_block_tokens() == 0 ||
              cache_.prefix_block_tokens() == options.chunk_tokens);
}

Serving::~Serving() { LORAD_CHECK(waiting_.empty() && running_.empty()); }

// ---- Coming and going -------------------------------------------------------------------------

void Serving::Accept(std::unique_ptr<Sequence> sequence) {
  const Turn turn = sequence->turn();
  waiting_[turn] = std::move(sequence);
}

void Serving::Cancel(uint64_t id) {
  for (Sequences* sequences : {&waiting_, &running_}) {
    const auto found = std::find_if(sequences->begin(), sequences->end(),
                                    [id](const auto& item) { return item.first.id == id; });
    if (found == sequences->end()) continue;
    Finish(*found->second, FinishReason::kCancelled);
    return;
  }
}

void Serving::ExpireDeadlines(absl::Time now) {
  for (Sequences* sequences : {&waiting_, &running_}) {
    for (const Turn& turn : Turns(*sequences)) {
      Sequence& sequence = *sequences->at(turn);
      if (sequence.deadline <= now) Finish(sequence, FinishReason::kDeadline);
    }
  }
}

int32_t Serving::preempted() const {
  return static_cast<int32_t>(std::count_if(
      waiting_.begin(), waiting_.end(), [](const auto& item) { return item.second->left_queue; }));
}

absl::Time Serving::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [turn, sequence] : waiting_) next = std::min(next, sequence->deadline);
  return next;
}

void Serving::FailAll(const absl::Status& status) {
  for (Sequences* sequences : {&waiting_, &running_}) {
    for (const Turn& turn : Turns(*sequences)) Fail(*sequences->at(turn), status);
  }
}

std::unique_ptr<Sequence> Serving::Remove(const Turn& turn) {
  std::unique_ptr<Sequence> sequence;
  for (Sequences* sequences : {&waiting_, &running_}) {
    const auto found = sequences->find(turn);
    if (found == sequences->end()) continue;
    sequence = std::move(found->second);
    sequences->erase(found);
    break;
  }
  cache_.Release(sequence->table);
  sequence->pin.reset();
  LeaveQueue(*sequence, absl::InfinitePast());
  return sequence;
}

void Serving::LeaveQueue(Sequence& sequence, absl::Time now) {
  if (sequence.left_queue) return;
  sequence.left_queue = true;
  sequence.first_admission = now;
  left_queue_();
}

void Serving::Finish(Sequence& running, FinishReason reason) {
  const std::unique_ptr<Sequence> sequence = Remove(running.turn());
  Report(*sequence, reason);
  if (sequence->scores()) {
    sequence->score_done(absl::CancelledError("the score was cancelled"));
    return;
  }
  GenerateResult result;
  result.finish_reason = reason;
  if (sequence->lease != nullptr) result.adapter_id = AdapterStore::Id(sequence->lease);
  result.prompt_tokens = static_cast<int32_t>(sequence->generation->prompt_tokens());
  result.cached_tokens = static_cast<int32_t>(sequence->cached_tokens);
  result.generated_tokens = static_cast<int32_t>(sequence->generation->generated_tokens());
  result.queue_seconds = sequence->queue_seconds();
  result.time_to_first_token_seconds = sequence->time_to_first_token_seconds();
  sequence->sink->OnFinish(result);
}

void Serving::FinishScore(Sequence& running) {
  const std::unique_ptr<Sequence> sequence = Remove(running.turn());
  sequence->score_done(ScoreResult{std::move(sequence->logprobs)});
}

void Serving::Fail(Sequence& running, const absl::Status& status) {
  const std::unique_ptr<Sequence> sequence = Remove(running.turn());
  Report(*sequence, FinishReason::kError);
  if (sequence->scores())
    sequence->score_done(status);
  else
    sequence->sink->OnError(status);
}

void Serving::Report(const Sequence& sequence, FinishReason reason) const {
  if (options_.observer == nullptr || sequence.scores()) return;
  RequestTimes times;
  times.adapter = sequence.lease != nullptr;
  times.queue_seconds = sequence.queue_seconds();
  times.time_to_first_token_seconds = sequence.time_to_first_token_seconds();
  times.total_seconds = SecondsSince(sequence.arrival);
  times.prompt_tokens = static_cast<int32_t>(sequence.generation->prompt_tokens());
  times.cached_tokens = static_cast<int32_t>(sequence.cached_tokens);
  times.generated_tokens = static_cast<int32_t>(sequence.generation->generated_tokens());
  times.finish_reason = reason;
  options_.observer->OnRequestFinished(times);
}

// ---- Admission and preemption -----------------------------------------------------------------

void Serving::Admit() {
  SetWantedAdapters();
  int64_t place = 0;
  for (const Turn& turn : Turns(waiting_)) {
    if (running() >= options_.max_running) break;
    const Admission admission = TryAdmit(*waiting_.at(turn), place++);
    if (admission == Admission::kBlocked) break;
    if (admission == Admission::kSkipped) continue;
    running_.insert(waiting_.extract(turn));
  }
  SetWantedAdapters();  // without those that were admitted or have failed
  adapters_.Prefetch(running());
}

void Serving::SetWantedAdapters() {
  std::vector<AdapterStore::Lease> wanted;
  for (const auto& [turn, sequence] : waiting_) {
    if (wanted.size() == kPrefetchWindow) break;
    wanted.push_back(sequence->lease);
  }
  adapters_.SetWanted(std::move(wanted));
}

bool Serving::MakeRoom(int64_t pages, int64_t place) {
  return adapters_.GiveUpPages(pages - cache_.free_pages(), place);
}

bool Serving::Reserve(Sequence& sequence, int64_t tokens, int64_t place) {
  const auto held = static_cast<int64_t>(sequence.table.pages().size());
  return MakeRoom(cache_.PagesFor(tokens) - held, place) && cache_.Reserve(sequence.table, tokens);
}

Serving::Admission Serving::TryAdmit(Sequence& sequence, int64_t place) {
  // Its prompt is not looked up in every step until then.
  if (sequence.lease != nullptr && adapters_.OnItsWay(sequence.lease)) return Admission::kSkipped;
  // One page stays free for each running sequence, so that who is let in is not thrown out at once.
  const int64_t tokens = static_cast<int64_t>(sequence.tokens().size());
  const auto has_room = [&] {
    const auto held = static_cast<int64_t>(sequence.table.pages().size());
    return MakeRoom(cache_.PagesFor(tokens) - held + running(), place) || running() == 0;
  };
  // What is known of its prompt needs no pages, and does not stand in the way of its adapter, which
  // was on the device beside it.
  prefixes_.Skip(sequence);
  if (!has_room()) {
    GiveBack(sequence);
    return Admission::kBlocked;
  }
  if (sequence.lease != nullptr) {
    const absl::StatusOr<AdapterStore::Progress> progress =
        adapters_.TryPin(sequence.lease, &sequence.pin);
    if (!progress.ok()) {
      Fail(sequence, progress.status());
      return Admission::kSkipped;
    }
    if (*progress != AdapterStore::Progress::kPinned) {
      GiveBack(sequence);
      return *progress == AdapterStore::Progress::kLoading ? Admission::kSkipped
                                                           : Admission::kBlocked;
    }
  }
  // Its adapter may just have taken pages; others that are on their way cannot be evicted yet.
  if (!has_room() || !Reserve(sequence, tokens, place)) {
    GiveBack(sequence);
    return Admission::kBlocked;
  }
  LeaveQueue(sequence, absl::Now());
  return Admission::kAdmitted;
}

void Serving::ReserveForDecoding() {
  for (const Turn& turn : Turns(running_)) {
    const auto found = running_.find(turn);
    if (found == running_.end()) return;  // this one and all behind it were preempted
    Sequence& sequence = *found->second;
    if (!sequence.decodes()) continue;
    while (!Reserve(sequence, sequence.computed + 1, /*place=*/-1)) {
      const Turn last = std::prev(running_.end())->first;
      Preempt(last);
      if (last == turn) return;
    }
  }
}

void Serving::Preempt(const Turn& turn) {
  GiveBack(*running_.at(turn));
  waiting_.insert(running_.extract(turn));
  ++preemptions_;
}

// What a sequence that waits must not keep from others. Its prompt stays known as long as nobody
// needs the pages.
void Serving::GiveBack(Sequence& sequence) {
  cache_.Release(sequence.table);
  sequence.pin.reset();
  sequence.computed = 0;
  if (sequence.first_token == absl::InfinitePast()) sequence.cached_tokens = 0;
}

// ---- Passes -----------------------------------------------------------------------------------

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
        /*prefill=*/true, static_cast<int32_t>(chunk.end - chunk.begin), SecondsSince(began));
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
