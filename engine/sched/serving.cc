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

std::vector<Turn> Serving::Turns(const Sequences& sequences) {
  std::vector<Turn> turns;
  for (const auto& [turn, sequence] : sequences) turns.push_back(turn);
  return turns;
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

}  // namespace lorad
