// A set of token ids, one bit each.
#ifndef LORAD_ENGINE_INFER_TOKEN_MASK_H_
#define LORAD_ENGINE_INFER_TOKEN_MASK_H_

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

namespace lorad {

// Ids are in [0, vocab). Thread-compatible.
class TokenMask {
 public:
  explicit TokenMask(int64_t vocab = 0) : words_((vocab + 63) / 64, 0) {}

  void Add(int32_t id) { words_[id >> 6] |= uint64_t{1} << (id & 63); }
  void Remove(int32_t id) { words_[id >> 6] &= ~(uint64_t{1} << (id & 63)); }
  // REQUIRES: `other` is of the same vocabulary.
  void AddAll(const TokenMask& other) {
    for (size_t i = 0; i < words_.size(); ++i) words_[i] |= other.words_[i];
  }

  bool empty() const {
    return std::all_of(words_.begin(), words_.end(), [](uint64_t word) { return word == 0; });
  }
  int64_t size_bytes() const { return static_cast<int64_t>(words_.size() * sizeof(uint64_t)); }

  // Calls visit(id) for every id, ascending.
  template <typename Visit>
  void ForEach(Visit&& visit) const {
    for (size_t i = 0; i < words_.size(); ++i) {
      for (uint64_t rest = words_[i]; rest != 0; rest &= rest - 1)
        visit(static_cast<int32_t>(i * 64 + std::countr_zero(rest)));
    }
  }

  bool operator==(const TokenMask&) const = default;

 private:
  std::vector<uint64_t> words_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_TOKEN_MASK_H_
