#include "engine/lora/path_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace lorad {
namespace {

constexpr size_t kMaxPatternBytes = 4096;
// Backtracking steps of one match. A path has some 40 bytes: a plain pattern takes some hundred.
constexpr uint32_t kMatchLimit = 100'000;
constexpr uint32_t kHeapLimitKib = 4096;

std::string Shown(const std::string& pattern) {
  return absl::StrCat("\"", absl::CHexEscape(pattern.substr(0, 80)),
                      pattern.size() > 80 ? "...\"" : "\"");
}

}  // namespace

absl::StatusOr<PathPattern> PathPattern::Compile(const std::string& pattern) {
  if (pattern.size() > kMaxPatternBytes)
    return absl::InvalidArgumentError(absl::StrCat("pattern ", Shown(pattern), " has ",
                                                   pattern.size(), " bytes; the limit is ",
                                                   kMaxPatternBytes));
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_NEVER_BACKSLASH_C,
                                   &error, &offset, nullptr);
  if (code == nullptr) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof(message));
    return absl::InvalidArgumentError(absl::StrCat("pattern ", Shown(pattern), " at offset ",
                                                   offset, ": ",
                                                   reinterpret_cast<const char*>(message)));
  }
  PathPattern result;
  result.pattern_ = pattern;
  result.code_ = std::shared_ptr<pcre2_code>(code, pcre2_code_free);
  return result;
}

absl::StatusOr<PathPattern> PathPattern::CompilePatternKey(const std::string& key) {
  return Compile(absl::StrCat("(?:.*\\.)?(?:", key, ")"));
}

absl::StatusOr<bool> PathPattern::Matches(std::string_view path) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_context, void (*)(pcre2_match_context*)> context(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> data(
      pcre2_match_data_create_from_pattern(code, nullptr), pcre2_match_data_free);
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  const int found = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(path.data()), path.size(), 0, 0,
                                data.get(), context.get());
  if (found >= 0) return true;
  if (found == PCRE2_ERROR_NOMATCH) return false;
  return absl::InvalidArgumentError(absl::StrCat(
      "pattern ", Shown(pattern_), " needs more than ", kMatchLimit, " steps to match ",
      absl::string_view(path.data(), path.size()), "; nested repetitions are the usual reason"));
}

}  // namespace lorad
