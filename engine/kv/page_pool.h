// Which pages of the KV cache are free.
#ifndef LORAD_ENGINE_KV_PAGE_POOL_H_
#define LORAD_ENGINE_KV_PAGE_POOL_H_

#include <cstdint>
#include <vector>

namespace lorad {

// Numbers of pages with reference counts: a page that several sequences share (a common prefix)
// goes back when the last one lets go. The prefix cache holds references of its own.
// Thread-compatible.
class PagePool {
 public:
  // All pages 0..num_pages-1 are free. REQUIRES: 0 <= num_pages <= INT32_MAX.
  explicit PagePool(int64_t num_pages);

  // A page with one reference, or -1 when none is free. The page that was freed last comes first:
  // it is the likeliest to be in a cache of the processor.
  int32_t Take();
  // The first of `count` pages that follow one another, each with one reference, or -1 when there
  // is no such run. The lowest run is taken, so that the long ones stay whole. REQUIRES: count
  // >= 1.
  int32_t TakeRun(int64_t count);
  // One more reference. REQUIRES: the page is in use.
  void Share(int32_t page);
  // One reference less. REQUIRES: the page is in use.
  void Return(int32_t page);

  int64_t used() const { return static_cast<int64_t>(references_.size()) - free(); }
  int64_t free() const { return static_cast<int64_t>(free_.size()); }

 private:
  std::vector<int32_t> references_;  // of each page
  std::vector<int32_t> free_;        // a stack
};

}  // namespace lorad

#endif  // LORAD_ENGINE_KV_PAGE_POOL_H_
