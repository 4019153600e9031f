// Which tokens of a prompt need not be run because they were run before.
#ifndef LORAD_ENGINE_SCHED_PREFIX_REUSE_H_
#define LORAD_ENGINE_SCHED_PREFIX_REUSE_H_

#include <atomic>
#include <cstdint>
#include <string>

#include "engine/kv/kv_cache.h"
#include "engine/sched/sequence.h"

namespace lorad {

// Shares nothing that would not give a known prompt the same answer to the bit as a new one. Where
// prompts are run as matrices that is whole chunks: one that begins at the same token after the
// same tokens was one pass of the same shape. Neither holds for a prompt's last, shorter chunk, nor
// for generated tokens. Where prompts are run row by row, it is whole
// pages, wherever passes were cut. All prompts of an engine are run in one of these ways, so
// the cache never holds both.
//
// Sequences that score take no part. Each of their tokens must be run for its log-probability; and
// what is scored is seldom a prompt, so keeping it would push out what is.
//
// Engine thread, but for the counters.
class PrefixReuse {
 public:
  // `cache` is not owned.
  PrefixReuse(KvCache& cache, PassKind prompts) : cache_(cache), prompts_(prompts) {}

  // Skips the blocks that come next and are known; its pages hold them then. The last token of a
  // prompt that has no answer yet is not skipped: its logits are needed.
  void Skip(Sequence& sequence);
  // Keeps the blocks of the prompt that have been computed.
  void Keep(Sequence& sequence);
  // An adapter is gone and will not be asked for: memory shall not hold what it computed.
  void Forget(const std::string& adapter_id) { cache_.DropPrefixes(adapter_id); }

  // Counts a sequence, once, when its prompt is done.
  void Count(const Sequence& sequence);
  // Prompt tokens so counted, and those of them that were skipped. Any thread.
  int64_t query_tokens() const { return query_tokens_.load(std::memory_order_relaxed); }
  int64_t hit_tokens() const { return hit_tokens_.load(std::memory_order_relaxed); }

 private:
  bool TakesPart(const Sequence& sequence) const {
    return cache_.prefix_block_tokens() > 0 && !sequence.scores();
  }

  KvCache& cache_;
  const PassKind prompts_;
  std::atomic<int64_t> query_tokens_{0};
  std::atomic<int64_t> hit_tokens_{0};
};

}  // namespace lorad

#endif  // LORAD_ENGINE_SCHED_PREFIX_REUSE_H_
