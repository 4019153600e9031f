// The serving half of a step: which sequences run, and their forward passes.
#ifndef LORAD_ENGINE_SCHED_SERVING_H_
#define LORAD_ENGINE_SCHED_SERVING_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/infer/runner.h"
#include "engine/sched/observer.h"
#include "engine/sched/prefix_reuse.h"
#include "engine/sched/sequence.h"
#include "engine/sched/slice_budget.h"

namespace lorad {

struct ServingOptions {
  int32_t max_running = 64;  // sequences that decode together; at most Runner's max_sequences
  int64_t max_batch_tokens = 2048;  // rows of one step, decoding and prefill
  // Prompts are cut at its multiples; at most Runner's max_tokens. With kMatrix the blocks in which
  // the KV cache keeps prompts, if it does, are as long.
  int64_t chunk_tokens = 256;
  // kMatrix: a chunk of a prompt is a pass of its own. kRowInvariant: prompts share the passes of
  // decoding, by as many rows as there is time for, and Runner's max_tokens bounds such a pass; a
  // row's numbers are the same however a prompt is cut.
  PassKind prompt_kind = PassKind::kMatrix;
  // With kMatrix: a prompt's last chunk, which nobody shares, goes row by row if it has no more
  // tokens: a pass over a few rows is quicker than decoding the weights.
  int64_t row_chunk_tokens = 0;
  std::function<absl::Time()> now = [] { return absl::Now(); };  // that steps are timed by
  SchedulerObserver* observer = nullptr;                         // not owned; may be null
};

// Sequences run in order of their turn: by priority, then first in, first out (see Turn), except
// that one whose adapter is still being read does not hold up those behind it. One whose adapter
// finds no room does, so whatever adapters others ask for, it runs when those that run now have
// ended. Nobody loses a slot to one that waits; when pages run out the running sequence whose turn
// is the last gives its own back and waits at its old place in the queue. What it has generated
// stays, and is run again later with the same numbers. Thread-compatible: engine thread.
class Serving {
 public:
  // `left_queue` is told each time a sequence gets its first slot, or ends without one.
  Serving(const ServingOptions& options, Runner& runner, AdapterStore& adapters,
          std::function<void()> left_queue);
  ~Serving();  // REQUIRES: FailAll was called, or nothing is left

  void Accept(std::unique_ptr<Sequence> sequence);
  // Ends it with kCancelled and frees its pages. No effect on an unknown one.
  void Cancel(uint64_t id);
  void ExpireDeadlines(absl::Time now);
  // Moves sequences from the queue to the running ones as far as slots, pages and adapters allow,
  // and begins to load the adapters of those that stay.
  void Admit();
  // Decodes one token of every sequence that is ready, with as many rows of prompts beside them as
  // `budget` says where these share the pass, then runs prefill chunks: one at least; while rows
  // decode, no further one is begun after its prefill_budget(), which bounds the time between two
  // tokens. Errors that concern one sequence end that one; an error returned here is the device's,
  // and final.
  absl::Status Step(const SliceBudget& budget);
  // How the last Step() went.
  const ServedStep& last_step() const { return step_; }
  void FailAll(const absl::Status& status);

  int32_t running() const { return static_cast<int32_t>(running_.size()); }
  int32_t waiting() const { return static_cast<int32_t>(waiting_.size()); }
  // Sequences that wait for their second slot, or a later one.
  int32_t preempted() const;
  // The nearest deadline of a waiting sequence.
  absl::Time NextDeadline() const;
  int64_t preemptions() const { return preemptions_; }
  PrefixReuse& prefixes() { return prefixes_; }
  const PrefixReuse& prefixes() const { return prefixes_; }

 private:
  using Sequences = std::map<Turn, std::unique_ptr<Sequence>>;
  // For loops that end sequences.
  static std::vector<Turn> Turns(const Sequences& sequences);

  enum class Admission { kAdmitted, kSkipped, kBlocked };
  void SetWantedAdapters();
  // `place`: in the queue.
  Admission TryAdmit(Sequence& sequence, int64_t place);
  // Evicts idle adapters until `pages` pages are free, but none that is wanted at `place` of the
  // queue or before. False when they are not enough.
  bool MakeRoom(int64_t pages, int64_t place);
  bool Reserve(Sequence& sequence, int64_t tokens, int64_t place);
  void ReserveForDecoding();
  void Preempt(const Turn& turn);
  void GiveBack(Sequence& sequence);
  // A sequence's part in a pass of rows.
  struct Part {
    Sequence* sequence;
    Chunk chunk;
  };
  // Passes: serving_passes.cc.
  absl::Status RunRows(const SliceBudget& budget);
  void AddPrompts(const SliceBudget& budget, std::vector<Part>& parts);
  absl::Status RunParts(const std::vector<Part>& parts, absl::Span<DrawResult> drawn);
  void ReportRows(absl::Duration took) const;
  absl::Status Prefill(int32_t decode_rows, absl::Duration budget);
  bool HasBacklog() const;
  absl::Status RunChunk(Sequence& sequence, const Chunk& chunk);
  absl::Status ScoreChunk(Sequence& sequence, const Chunk& chunk);
  absl::Status FailPass(absl::Span<Sequence* const> sequences, const absl::Status& status);
  void Deliver(Sequence& sequence, const DrawResult& drawn);
  void NoteToken(Sequence& sequence);

  // Each ends the sequence, which must not be used afterwards.
  void Finish(Sequence& sequence, FinishReason reason);
  void FinishScore(Sequence& sequence);
  void Fail(Sequence& sequence, const absl::Status& status);
  std::unique_ptr<Sequence> Remove(const Turn& turn);
  void Report(const Sequence& sequence, FinishReason reason) const;
  void LeaveQueue(Sequence& sequence, absl::Time now);

  const ServingOptions options_;
  Runner& runner_;
  KvCache& cache_;
  AdapterStore& adapters_;
  const std::function<void()> left_queue_;
  PrefixReuse prefixes_;
  Sequences waiting_;
  Sequences running_;
  ServedStep step_;
  int64_t preemptions_ = 0;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_SCHED_SERVING_H_
