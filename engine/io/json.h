// JSON (RFC 8259) read strictly: what two readers could understand differently is refused.
#ifndef LORAD_ENGINE_IO_JSON_H_
#define LORAD_ENGINE_IO_JSON_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"

namespace lorad {

// Deeper documents are refused: no file that lorad reads needs more, and a destructor of nested
// values recurses.
inline constexpr int kMaxJsonDepth = 64;

// Parses one document. kInvalidArgument, with `where` (a path or another name of the source), line
// and column, for: a syntax error, invalid UTF-8, a NUL or BOM, text after the document, an object
// key given twice, nesting deeper than kMaxJsonDepth. Thread-safe. Callers include
// <nlohmann/json.hpp> in their .cc file.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, std::string_view where);

// ParseJson of a file; errors of ReadFile.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path);

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_JSON_H_
