#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/io/tokenizer/pattern.h"

#include <pcre2.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/check.h"
#include "engine/core/status_macros.h"
#include "engine/io/json_check.h"
#include "engine/io/tokenizer/json_fields.h"
#include "engine/io/utf8.h"

namespace lorad {
namespace {

// Steps that one match may take before it is given up: PCRE2's own default, set here so that a
// packager's choice does not change what lorad accepts. It ends (a+)+b on a million a's in under a
// second.
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr size_t kFirstJitStackBytes = 32 << 10;
constexpr size_t kMaxJitStackBytes = 32 << 20;

// What one search needs beside the compiled expression. PCRE2's JIT runs on 32 KiB of the thread's
// stack until told otherwise; the larger stack is made only for the rare text that needs it.
class MatchState {
 public:
  explicit MatchState(const pcre2_code* code)
      : code_(code),
        data_(pcre2_match_data_create_from_pattern(code, nullptr)),
        context_(pcre2_match_context_create(nullptr)) {
    LORAD_CHECK(data_ != nullptr && context_ != nullptr);
    pcre2_set_match_limit(context_, kMatchLimit);
  }
  ~MatchState() {
    pcre2_jit_stack_free(stack_);
    pcre2_match_context_free(context_);
    pcre2_match_data_free(data_);
  }
  MatchState(const MatchState&) = delete;
  MatchState& operator=(const MatchState&) = delete;

  // PCRE2's return code: positive when found.
  int Find(std::string_view text, size_t start) {
    // Without NO_UTF_CHECK every call would look at the whole text again.
    int found = pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), start,
                            PCRE2_NO_UTF_CHECK, data_, context_);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT && stack_ == nullptr) {
      stack_ = pcre2_jit_stack_create(kFirstJitStackBytes, kMaxJitStackBytes, nullptr);
      pcre2_jit_stack_assign(context_, nullptr, stack_);
      found = Find(text, start);
    }
    return found;
  }
  TextRange range() const {
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data_);
    return {offsets[0], offsets[1]};
  }

 private:
  const pcre2_code* code_;
  pcre2_match_data* data_;
  pcre2_match_context* context_;
  pcre2_jit_stack* stack_ = nullptr;
};

std::string ErrorText(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, std::size(buffer));
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

absl::StatusOr<Pattern> Pattern::Regex(const std::string& expression, const std::string& where) {
  absl::StatusOr<std::string> rewritten = OnigurumaToPcre2(expression);
  if (!rewritten.ok())
    return absl::Status(rewritten.status().code(),
                        absl::StrCat(where, ": expression \"", ClippedText(expression),
                                     "\": ", rewritten.status().message()));
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  LORAD_CHECK(context != nullptr);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);  // as in Oniguruma, "." stops at \n alone
  int error = 0;
  PCRE2_SIZE offset = 0;
  // MULTILINE: in Oniguruma ^ and $ are always those of a line.
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(rewritten->data()), rewritten->size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &offset, context);
  pcre2_compile_context_free(context);
  if (code == nullptr)
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": expression \"", ClippedText(expression), "\": ", ErrorText(error)));
  // A build of PCRE2 without JIT, or a system that forbids it, leaves the interpreter.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  Pattern pattern;
  pattern.text_ = expression;
  pattern.code_ = std::shared_ptr<const void>(
      code, [](const void* p) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(p))); });
  return pattern;
}

Pattern Pattern::Literal(std::string text) {
  Pattern pattern;
  pattern.text_ = std::move(text);
  return pattern;
}

absl::StatusOr<Pattern> Pattern::FromJson(const nlohmann::json& json, const std::string& where) {
  RETURN_IF_ERROR(CheckFields(json, {"String", "Regex"}, where));
  if (json.size() != 1)
    return absl::InvalidArgumentError(absl::StrCat(where, ": needs one of String and Regex"));
  if (json.contains("Regex")) {
    ASSIGN_OR_RETURN(const std::string expression, StringField(json, "Regex", where));
    return Regex(expression, where);
  }
  ASSIGN_OR_RETURN(std::string text, StringField(json, "String", where));
  if (text.empty()) return absl::InvalidArgumentError(absl::StrCat(where, ": String is empty"));
  return Literal(std::move(text));
}

absl::Status Pattern::FindAll(std::string_view text, std::vector<TextRange>* matches) const {
  if (!is_literal()) return FindRegex(text, matches);
  for (size_t at = text.find(text_); at != std::string_view::npos;
       at = text.find(text_, at + text_.size()))
    matches->push_back({at, at + text_.size()});
  return absl::OkStatus();
}

absl::Status Pattern::FindRegex(std::string_view text, std::vector<TextRange>* matches) const {
  MatchState state(static_cast<const pcre2_code*>(code_.get()));
  size_t start = 0;
  bool after_match = false;
  while (start <= text.size()) {
    const int found = state.Find(text, start);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0)
      return absl::ResourceExhaustedError(absl::StrCat("expression \"", ClippedText(text_),
                                                       "\" gave up at byte ", start,
                                                       " of the text: ", ErrorText(found)));
    const TextRange range = state.range();
    // An empty match right after the one before would be found for ever.
    if (range.begin == range.end && after_match && range.end == start) {
      start += start < text.size() ? NextUtf8(text.substr(start)).length : 1;
      after_match = false;
      continue;
    }
    matches->push_back(range);
    start = range.end;
    after_match = true;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReplaceAll(std::string_view text, const Pattern& pattern,
                                       std::string_view replacement) {
  std::vector<TextRange> matches;
  RETURN_IF_ERROR(pattern.FindAll(text, &matches));
  std::string replaced;
  replaced.reserve(text.size());
  size_t done = 0;
  for (const TextRange& match : matches) {
    replaced.append(text.substr(done, match.begin - done)).append(replacement);
    done = match.end;
  }
  return replaced.append(text.substr(done));
}

}  // namespace lorad
