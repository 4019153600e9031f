#include "engine/kv/page_pool.h"

#include <algorithm>
#include <limits>

#include "engine/core/check.h"

namespace lorad {

PagePool::PagePool(int64_t num_pages) {
  LORAD_CHECK(num_pages >= 0 && num_pages <= std::numeric_limits<int32_t>::max());
  references_.assign(num_pages, 0);
  free_.reserve(num_pages);
  for (int64_t page = num_pages - 1; page >= 0; --page) free_.push_back(static_cast<int32_t>(page));
}

int32_t PagePool::Take() {
  if (free_.empty()) return -1;
  const int32_t page = free_.back();
  free_.pop_back();
  references_[page] = 1;
  return page;
}

int32_t PagePool::TakeRun(int64_t count) {
  LORAD_CHECK(count >= 1);
  int64_t length = 0;
  for (size_t page = 0; page < references_.size(); ++page) {
    length = references_[page] == 0 ? length + 1 : 0;
    if (length < count) continue;
    const auto first = static_cast<int32_t>(page + 1 - count);
    const auto in_run = [&](int32_t p) { return p >= first && p < first + count; };
    free_.erase(std::remove_if(free_.begin(), free_.end(), in_run), free_.end());
    std::fill_n(references_.begin() + first, count, 1);
    return first;
  }
  return -1;
}

void PagePool::Share(int32_t page) {
  LORAD_CHECK(references_[page] > 0);
  ++references_[page];
}

void PagePool::Return(int32_t page) {
  LORAD_CHECK(references_[page] > 0);
  if (--references_[page] > 0) return;
  free_.push_back(page);
}

}  // namespace lorad
