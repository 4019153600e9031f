// A bounded map that drops what was not used for the longest time.
#ifndef LORAD_ENGINE_INFER_CONSTRAINT_LRU_CACHE_H_
#define LORAD_ENGINE_INFER_CONSTRAINT_LRU_CACHE_H_

#include <cstddef>
#include <list>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"

namespace lorad {

// Values are shared and immutable, so that one that is dropped lives on where it is used.
// Thread-safe.
template <typename Key, typename Value>
class LruCache {
 public:
  explicit LruCache(size_t capacity) : capacity_(capacity) {}  // >= 1

  std::shared_ptr<const Value> Find(const Key& key) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    const auto found = index_.find(key);
    if (found == index_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found->second);
    return found->second->second;
  }

  // Two threads may have made the same value: the first one stays and is returned.
  std::shared_ptr<const Value> Insert(const Key& key, std::shared_ptr<const Value> value)
      ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    const auto [found, added] = index_.try_emplace(key, entries_.begin());
    if (!added) return found->second->second;
    entries_.emplace_front(key, std::move(value));
    found->second = entries_.begin();
    std::shared_ptr<const Value> inserted = entries_.front().second;
    if (entries_.size() > capacity_) {
      index_.erase(entries_.back().first);
      entries_.pop_back();
    }
    return inserted;
  }

 private:
  using Entries = std::list<std::pair<Key, std::shared_ptr<const Value>>>;

  const size_t capacity_;
  absl::Mutex mu_;
  Entries entries_ ABSL_GUARDED_BY(mu_);  // the last used first
  absl::flat_hash_map<Key, typename Entries::iterator> index_ ABSL_GUARDED_BY(mu_);
};

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_CONSTRAINT_LRU_CACHE_H_
