// The serving half of a step: which sequences run, and their forward passes.
#ifndef LORAD_ENGINE_SCHED_SERVING_H_
#define LORAD_ENGINE_SCHED_SERVING_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/infer/runner.h"
#include "engine/sched/observer.h"
#include "engine/sched/sequence.h"

namespace lorad {

struct ServingOptions {
  int32_t max_running = 64;  // sequences that decode together; at most Runner's max_sequences
  int64_t max_batch_tokens = 2048;  // rows of one step, decoding and prefill
  int64_t chunk_tokens = 256;       // prompts are cut at its multiples; at most Runner's max_tokens
  // While rows decode, no further chunk is begun after this long: it bounds the time between two
  // tokens. At least one chunk runs in every step.
  absl::Duration prefill_budget = absl::Milliseconds(50);
  SchedulerObserver* observer = nullptr;  // not owned; may be null
};

// First in, first out, except that a sequence whose adapter is still being read does not hold up
// the ones behind it. When pages run out the youngest running sequence gives its own back and waits
// at its old place in the queue; what it has generated stays, and is run again later with the same
// numbers. Thread-compatible: engine thread.
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
  // Decodes one token of every sequence that is ready, then runs prefill chunks. Errors that
  // concern one sequence end that one; an error returned here is the device's, and final.
  absl::Status Step();
  void FailAll(const absl::Status& status);

  int32_t running() const { return static_cast<int32_t>(running_.size()); }
  int32_t waiting() const { return static_cast<int32_t>(waiting_.size()); }
  // Sequences that wait for their second slot, or a later one.
  int32_t preempted() const;
  // The nearest deadline of a waiting sequence.
  absl::Time NextDeadline() const;
  int64_t preemptions() const { return preemptions_; }

 private:
  using Sequences = std::map<uint64_t, std::unique_ptr<Sequence>>;  // by age, the oldest first

  enum class Admission { kAdmitted, kSkipped, kBlocked };
  void SetWantedAdapters();
  // `place`: in the queue.
  Admission TryAdmit(Sequence& sequence, int64_t place);
  // Evicts idle adapters until `pages` pages are free, but none that is wanted at `place` of the
  // queue or before. False when they are not enough.
  bool MakeRoom(int64_t pages, int64_t place);
  bool Reserve(Sequence& sequence, int64_t tokens, int64_t place);
  void ReserveForDecoding();
  void Preempt(uint64_t id);
  absl::Status Decode(int32_t* rows);
  absl::Status Prefill(int32_t decode_rows);
  absl::Status RunChunk(Sequence& sequence, const Chunk& chunk);
  absl::Status ScoreChunk(Sequence& sequence, const Chunk& chunk);
  absl::Status FailPass(absl::Span<Sequence* const> sequences, const absl::Status& status);
  void Deliver(Sequence& sequence, absl::Span<const float> logits);
  void NoteToken(Sequence& sequence);

  // Each ends the sequence, which must not be used afterwards.
  void Finish(Sequence& sequence, FinishReason reason);
  void FinishScore(Sequence& sequence);
  void Fail(Sequence& sequence, const absl::Status& status);
  std::unique_ptr<Sequence> Remove(uint64_t id);
  void Report(const Sequence& sequence, FinishReason reason) const;
  void LeaveQueue(Sequence& sequence, absl::Time now);

  const ServingOptions options_;
  Runner& runner_;
  KvCache& cache_;
  AdapterStore& adapters_;
  const std::function<void()> left_queue_;
  Sequences waiting_;
  Sequences running_;
  std::vector<float> logits_;
  int64_t preemptions_ = 0;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_SCHED_SERVING_H_
