#include "engine/infer/constraint/token_trie.h"

#include <algorithm>
#include <limits>
#include <string_view>
#include <utility>

namespace lorad {
namespace {

constexpr size_t kMaxTokenBytes = std::numeric_limits<uint16_t>::max();

size_t CommonPrefix(std::string_view a, std::string_view b) {
  return std::mismatch(a.begin(), a.begin() + std::min(a.size(), b.size()), b.begin()).first -
         a.begin();
}

}  // namespace

TokenTrie::TokenTrie(std::vector<std::string> bytes) : bytes_(std::move(bytes)) {
  for (size_t id = 0; id < bytes_.size(); ++id) {
    if (!bytes_[id].empty() && bytes_[id].size() <= kMaxTokenBytes)
      ids_.push_back(static_cast<int32_t>(id));
  }
  // As unsigned bytes; ids with the same bytes in order.
  std::stable_sort(ids_.begin(), ids_.end(),
                   [this](int32_t a, int32_t b) { return bytes_[a] < bytes_[b]; });
  std::vector<int32_t> open;  // the nodes on the way to the current token
  const auto close_to = [&](size_t depth) {
    for (; open.size() > depth; open.pop_back())
      nodes_[open.back()].end = static_cast<int32_t>(nodes_.size());
  };
  std::string_view before;
  for (size_t i = 0; i < ids_.size(); ++i) {
    const std::string_view token = bytes_[ids_[i]];
    close_to(CommonPrefix(before, token));
    for (size_t depth = open.size(); depth < token.size(); ++depth) {
      open.push_back(static_cast<int32_t>(nodes_.size()));
      nodes_.push_back({0, static_cast<int32_t>(i), static_cast<uint16_t>(depth),
                        static_cast<uint8_t>(token[depth])});
      max_depth_ = std::max(max_depth_, static_cast<int32_t>(depth));
    }
    before = token;
  }
  close_to(0);
  nodes_.push_back(
      {static_cast<int32_t>(nodes_.size()) + 1, static_cast<int32_t>(ids_.size()), 0, 0});
}

}  // namespace lorad
