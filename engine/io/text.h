// std::string_view for Abseil's functions: the packaged Abseil has a string_view type of its own.
#ifndef LORAD_ENGINE_IO_TEXT_H_
#define LORAD_ENGINE_IO_TEXT_H_

#include <string_view>

#include "absl/strings/string_view.h"

namespace lorad {

inline absl::string_view AbslView(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_TEXT_H_
