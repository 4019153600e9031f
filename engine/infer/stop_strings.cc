#include "engine/infer/stop_strings.h"

#include <algorithm>
#include <utility>

namespace lorad {

std::string StopStrings::Push(std::string_view piece) {
  if (found_) return "";
  held_ += piece;
  size_t end = std::string::npos, begin = 0;
  for (const std::string& stop : strings_) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    const size_t stop_end = at + stop.size();
    if (end == std::string::npos || stop_end < end || (stop_end == end && at < begin)) {
      end = stop_end;
      begin = at;
    }
  }
  if (end != std::string::npos) {
    found_ = true;
    held_.resize(begin);
    return std::exchange(held_, "");
  }
  const size_t settled = held_.size() - HeldBytes();
  std::string text = held_.substr(0, settled);
  held_.erase(0, settled);
  return text;
}

std::string StopStrings::Finish() { return found_ ? "" : std::exchange(held_, ""); }

// Length of the longest end of held_ that begins a stop string. At most the longest stop string
// less one, so the text is looked through once per character whatever it is.
size_t StopStrings::HeldBytes() const {
  size_t longest = 0;
  for (const std::string& stop : strings_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > longest; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) longest = n;
    }
  }
  return longest;
}

}  // namespace lorad
