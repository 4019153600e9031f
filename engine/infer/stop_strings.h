// Finds stop strings in text that arrives in pieces.
#ifndef LORAD_ENGINE_INFER_STOP_STRINGS_H_
#define LORAD_ENGINE_INFER_STOP_STRINGS_H_

#include <string>
#include <string_view>
#include <vector>

namespace lorad {

// The answer does not depend on how the text is cut: the stop string that is complete first ends
// the text, the longest of those complete at the same character. Thread-compatible.
class StopStrings {
 public:
  // REQUIRES: none is empty. An empty list holds nothing back.
  explicit StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {}

  // The text that is settled by `piece`: all but what may begin a stop string. When a stop string
  // is complete, the text before it, and found() is true from then on; later pieces give nothing.
  std::string Push(std::string_view piece);
  // What was held back; nothing when a stop string was found.
  std::string Finish();
  bool found() const { return found_; }

 private:
  size_t HeldBytes() const;

  const std::vector<std::string> strings_;
  std::string held_;
  bool found_ = false;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_STOP_STRINGS_H_
