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

std::vector<uint64_t> Keys(const std::map<uint64_t, std::unique_ptr<Sequence>>& sequences) {
  std::vector<uint64_t> keys;
  for (const auto& [id, sequence] : sequences) keys.push_back(id);
  return keys;
}

}  // namespace

Serving::Serving(const ServingOptions& options, Runner& runner, AdapterStore& adapters,
                 std::function<void()> left_queue)
    : options_(options),
      runner_(runner),
      cache_(runner.cache()),
      adapters_(adapters),
      left_queue_(std::move(left_queue)) {
  LORAD_CHECK(options.max_running >= 1 && options.max_running <= runner.limits().max_sequences);
  LORAD_CHECK(options.chunk_tokens >= 1 && options.chunk_tokens <= runner.limits().max_tokens);
}

Serving::~Serving() { LORAD_CHECK(waiting_.empty() && running_.empty()); }

// ---- Coming and going -------------------------------------------------------------------------

void Serving::Accept(std::unique_ptr<Sequence> sequence) {
  const uint64_t id = sequence->id;
  waiting_[id] = std::move(sequence);
}

void Serving::Cancel(uint64_t id) {
  for (Sequences* sequences : {&waiting_, &running_}) {
    const auto found = sequences->find(id);
    if (found == sequences->end()) continue;
    Finish(*found->second, FinishReason::kCancelled);
    return;
  }
}

void Serving::ExpireDeadlines(absl::Time now) {
  for (Sequences* sequences : {&waiting_, &running_}) {
    for (const uint64_t id : Keys(*sequences)) {
      Sequence& sequence = *sequences->at(id);
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
  for (const auto& [id, sequence] : waiting_) next = std::min(next, sequence->deadline);
  return next;
}

void Serving::FailAll(const absl::Status& status) {
  for (Sequences* sequences : {&waiting_, &running_}) {
    for (const uint64_t id : Keys(*sequences)) Fail(*sequences->at(id), status);
  }
}

std::unique_ptr<Sequence> Serving::Remove(uint64_t id) {
  std::unique_ptr<Sequence> sequence;
  for (Sequences* sequences : {&waiting_, &running_}) {
    const auto found = sequences->find(id);
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
  const std::unique_ptr<Sequence> sequence = Remove(running.id);
  Report(*sequence, reason);
  if (sequence->scores()) {
    sequence->score_done(absl::CancelledError("the score was cancelled"));
    return;
  }
  GenerateResult result;
  result.finish_reason = reason;
  if (sequence->lease != nullptr) result.adapter_id = AdapterStore::Id(sequence->lease);
  result.prompt_tokens = static_cast<int32_t>(sequence->generation->prompt_tokens());
  result.generated_tokens = static_cast<int32_t>(sequence->generation->generated_tokens());
  result.queue_seconds = sequence->queue_seconds();
  result.time_to_first_token_seconds = sequence->time_to_first_token_seconds();
  sequence->sink->OnFinish(result);
}

void Serving::FinishScore(Sequence& running) {
  const std::unique_ptr<Sequence> sequence = Remove(running.id);
  sequence->score_done(ScoreResult{std::move(sequence->logprobs)});
}

void Serving::Fail(Sequence& running, const absl::Status& status) {
  const std::unique_ptr<Sequence> sequence = Remove(running.id);
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
  times.generated_tokens = static_cast<int32_t>(sequence.generation->generated_tokens());
  times.finish_reason = reason;
  options_.observer->OnRequestFinished(times);
}

// ---- Admission and preemption -----------------------------------------------------------------

void Serving::Admit() {
  SetWantedAdapters();
  int64_t place = 0;
  for (const uint64_t id : Keys(waiting_)) {
    if (running() >= options_.max_running) break;
    const Admission admission = TryAdmit(*waiting_.at(id), place++);
    if (admission == Admission::kBlocked) break;
    if (admission == Admission::kSkipped) continue;
    running_.insert(waiting_.extract(id));
  }
  SetWantedAdapters();  // without those that were admitted or have failed
  adapters_.Prefetch(running());
}

void Serving::SetWantedAdapters() {
  std::vector<AdapterStore::Lease> wanted;
  for (const auto& [id, sequence] : waiting_) {
    if (wanted.size() == kPrefetchWindow) break;
    wanted.push_back(sequence->lease);
  }
  adapters_.SetWanted(std::move(wanted));
}

bool Serving::MakeRoom(int64_t pages, int64_t place) {
  return cache_.free_pages() >= pages || adapters_.FreePages(pages, place);
}

bool Serving::Reserve(Sequence& sequence, int64_t tokens, int64_t place) {
  const auto held = static_cast<int64_t>(sequence.table.pages().size());
  return MakeRoom(cache_.PagesFor(tokens) - held, place) && cache_.Reserve(sequence.table, tokens);
}

Serving::Admission Serving::TryAdmit(Sequence& sequence, int64_t place) {
  // One page stays free for each running sequence, so that who is let in is not thrown out at once.
  const int64_t tokens = static_cast<int64_t>(sequence.tokens().size());
  const int64_t pages = cache_.PagesFor(tokens) + running();
  const auto has_room = [&] { return MakeRoom(pages, place) || running() == 0; };
  if (!has_room()) return Admission::kBlocked;
  if (sequence.lease != nullptr) {
    const absl::StatusOr<AdapterStore::Progress> progress =
        adapters_.TryPin(sequence.lease, &sequence.pin);
    if (!progress.ok()) {
      Fail(sequence, progress.status());
      return Admission::kSkipped;
    }
    if (*progress == AdapterStore::Progress::kLoading) return Admission::kSkipped;
    if (*progress == AdapterStore::Progress::kNoRoom) return Admission::kBlocked;
  }
  // Its adapter may just have taken pages; others that are on their way cannot be evicted yet.
  if (!has_room() || !Reserve(sequence, tokens, place)) {
    sequence.pin.reset();
    return Admission::kBlocked;
  }
  LeaveQueue(sequence, absl::Now());
  return Admission::kAdmitted;
}

void Serving::ReserveForDecoding() {
  for (const uint64_t id : Keys(running_)) {
    const auto found = running_.find(id);
    if (found == running_.end()) return;  // this one and all younger ones were preempted
    Sequence& sequence = *found->second;
    if (!sequence.decodes()) continue;
    while (!Reserve(sequence, sequence.computed + 1, /*place=*/-1)) {
      const uint64_t youngest = std::prev(running_.end())->first;
      Preempt(youngest);
      if (youngest == id) return;
    }
  }
}

// The pin goes too: a sequence that waits must not keep others from theirs.
void Serving::Preempt(uint64_t id) {
  Sequence& sequence = *running_.at(id);
  cache_.Release(sequence.table);
  sequence.pin.reset();
  sequence.computed = 0;
  waiting_.insert(running_.extract(id));
  ++preemptions_;
}

// ---- Passes -----------------------------------------------------------------------------------

absl::Status Serving::Step() {
  int32_t rows = 0;
  RETURN_IF_ERROR(Decode(&rows));
  return Prefill(rows);
}

absl::Status Serving::Decode(int32_t* rows) {
  ReserveForDecoding();
  std::vector<Sequence*> sequences;
  std::vector<SequenceRows> batch;
  for (const auto& [id, sequence] : running_) {
    if (!sequence->decodes()) continue;
    sequences.push_back(sequence.get());
    batch.push_back(sequence->RowsOf(sequence->computed, sequence->computed + 1));
  }
  *rows = static_cast<int32_t>(batch.size());
  if (batch.empty()) return absl::OkStatus();
  const absl::Time began = absl::Now();
  const int64_t vocab = runner_.model().config().vocab_size;
  logits_.resize(batch.size() * vocab);
  const absl::Status status =
      runner_.Forward(batch, PassKind::kRowInvariant, absl::MakeSpan(logits_));
  if (!status.ok()) return FailPass(sequences, status);
  if (options_.observer != nullptr)
    options_.observer->OnServingStep(/*prefill=*/false, *rows, SecondsSince(began));
  for (size_t i = 0; i < sequences.size(); ++i) {
    ++sequences[i]->computed;
    Deliver(*sequences[i], absl::MakeConstSpan(logits_).subspan(i * vocab, vocab));
  }
  return absl::OkStatus();
}

absl::Status Serving::Prefill(int32_t decode_rows) {
  const absl::Time began = absl::Now();
  const int64_t budget = options_.max_batch_tokens - decode_rows;
  int64_t used = 0;
  for (const uint64_t id : Keys(running_)) {
    while (true) {
      const auto found = running_.find(id);
      if (found == running_.end() || found->second->decodes()) break;
      Sequence& sequence = *found->second;
      if (sequence.scored()) {
        FinishScore(sequence);
        break;
      }
      const Chunk chunk = sequence.NextChunk(options_.chunk_tokens);
      const bool late = decode_rows > 0 && absl::Now() - began > options_.prefill_budget;
      if (used > 0 && (late || used + chunk.end - chunk.begin > budget)) return absl::OkStatus();
      used += chunk.end - chunk.begin;
      RETURN_IF_ERROR(RunChunk(sequence, chunk));
    }
  }
  return absl::OkStatus();
}

absl::Status Serving::RunChunk(Sequence& sequence, const Chunk& chunk) {
  const absl::Time began = absl::Now();
  absl::Status status;
  if (sequence.scores()) {
    status = ScoreChunk(sequence, chunk);
  } else {
    logits_.resize(chunk.draws ? runner_.model().config().vocab_size : 0);
    const SequenceRows rows = sequence.RowsOf(chunk.begin, chunk.end);
    status = runner_.Forward({rows}, chunk.kind, absl::MakeSpan(logits_));
  }
  Sequence* const concerned = &sequence;
  if (!status.ok()) return FailPass({concerned}, status);
  sequence.computed = chunk.end;
  if (options_.observer != nullptr) {
    options_.observer->OnServingStep(
        /*prefill=*/true, static_cast<int32_t>(chunk.end - chunk.begin), SecondsSince(began));
  }
  if (chunk.draws) Deliver(sequence, logits_);
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

void Serving::Deliver(Sequence& sequence, absl::Span<const float> logits) {
  absl::StatusOr<GenerateDelta> delta = sequence.generation->Advance(logits);
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
  if (options_.observer == nullptr) return;
  const bool adapter = sequence.lease != nullptr;
  const double seconds = absl::ToDoubleSeconds(now - before);
  if (first)
    options_.observer->OnFirstToken(adapter, seconds);
  else
    options_.observer->OnInterToken(adapter, seconds);
}

}  // namespace lorad
