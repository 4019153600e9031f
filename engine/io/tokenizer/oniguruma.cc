// Rewriting Oniguruma's syntax for PCRE2. Sources: Oniguruma's doc/RE (Ruby syntax),
// pcre2pattern(3).
#include <cctype>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/io/text.h"
#include "engine/io/tokenizer/pattern.h"
#include "engine/io/tokenizer/unicode.h"

namespace lorad {
namespace {

constexpr char kWordClass[] = R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc})";
constexpr char kHexClass[] = "0-9a-fA-F";

// Copies an expression, replacing what PCRE2 reads otherwise.
class Rewriter {
 public:
  explicit Rewriter(std::string_view expression) : rest_(expression), size_(expression.size()) {}

  absl::StatusOr<std::string> Run() {
    while (!rest_.empty()) {
      switch (rest_[0]) {
        case '\\':
          RETURN_IF_ERROR(Escape(/*in_class=*/false));
          break;
        case '[':
          RETURN_IF_ERROR(Class());
          break;
        case '(':
          RETURN_IF_ERROR(Group());
          break;
        case '{':
          RETURN_IF_ERROR(Interval());
          break;
        default:
          Copy(1);
      }
    }
    return out_;
  }

 private:
  void Copy(size_t count) {
    out_.append(rest_.substr(0, count));
    rest_.remove_prefix(std::min(count, rest_.size()));
  }
  absl::Status Unsupported(std::string_view what) const {
    return absl::UnimplementedError(absl::StrCat("\"", AbslView(what), "\" at byte ",
                                                 size_ - rest_.size(), " is not supported"));
  }
  // Replaces a two-byte escape by a class or, inside of one, by what stands between its brackets.
  void EmitClass(std::string_view inside, bool in_class, bool negated = false) {
    rest_.remove_prefix(2);
    absl::StrAppend(&out_,
                    in_class  ? ""
                    : negated ? "[^"
                              : "[",
                    AbslView(inside), in_class ? "" : "]");
  }

  absl::Status Escape(bool in_class);
  absl::Status Class();
  absl::Status Group();
  absl::Status Interval();

  std::string_view rest_;
  size_t size_;
  std::string out_;
};

absl::Status Rewriter::Escape(bool in_class) {
  if (rest_.size() < 2) return absl::InvalidArgumentError("ends with a backslash");
  const std::string_view escape = rest_.substr(0, 2);
  switch (rest_[1]) {
    case 's':
      EmitClass(kWhitespaceClass, in_class);
      return absl::OkStatus();
    case 'S':
      EmitClass(kNonWhitespaceClass, in_class);
      return absl::OkStatus();
    case 'w':
      EmitClass(kWordClass, in_class);
      return absl::OkStatus();
    case 'h':  // a hexadecimal digit; in PCRE2 horizontal space
      EmitClass(kHexClass, in_class);
      return absl::OkStatus();
    case 'W':
    case 'H':
      if (in_class) return Unsupported(escape);
      EmitClass(rest_[1] == 'W' ? kWordClass : kHexClass, in_class, /*negated=*/true);
      return absl::OkStatus();
    case 'v':  // vertical tab; in PCRE2 any vertical space
      rest_.remove_prefix(2);
      out_ += "\\x{b}";
      return absl::OkStatus();
    case 'u':
      if (rest_.size() < 6) return absl::InvalidArgumentError("\\u needs four hexadecimal digits");
      absl::StrAppend(&out_, "\\x{", AbslView(rest_.substr(2, 4)), "}");
      rest_.remove_prefix(6);
      return absl::OkStatus();
    default:
      break;
  }
  // Letters that mean the same in both; other letters do not, or are unknown to one of them.
  constexpr std::string_view kSame = "dDpPxrntfaebBAzZ";
  const bool letter = std::isalpha(static_cast<unsigned char>(rest_[1])) != 0;
  if (letter && kSame.find(rest_[1]) == std::string_view::npos) return Unsupported(escape);
  Copy(2);
  return absl::OkStatus();
}

absl::Status Rewriter::Class() {
  Copy(rest_.substr(0, 2) == "[^" ? 2 : 1);
  if (!rest_.empty() && rest_[0] == ']') Copy(1);  // a first ']' is one of the characters
  while (!rest_.empty() && rest_[0] != ']') {
    if (rest_[0] == '\\') {
      RETURN_IF_ERROR(Escape(/*in_class=*/true));
    } else if (rest_[0] == '[' || rest_.substr(0, 2) == "&&") {
      return Unsupported(rest_.substr(0, 2));  // classes within classes, and their intersection
    } else {
      Copy(1);
    }
  }
  if (rest_.empty()) return absl::InvalidArgumentError("a character class is not closed");
  Copy(1);
  return absl::OkStatus();
}

absl::Status Rewriter::Group() {
  if (rest_.substr(0, 2) != "(?") {
    Copy(1);
    return absl::OkStatus();
  }
  for (const std::string_view same :
       {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?-i:"}) {
    if (rest_.substr(0, same.size()) == same) {
      Copy(same.size());
      return absl::OkStatus();
    }
  }
  // Further on, the two disagree on how far a bare (?i) reaches.
  if (rest_.substr(0, 4) == "(?i)" && rest_.size() == size_) {
    Copy(4);
    return absl::OkStatus();
  }
  return Unsupported(rest_.substr(0, 4));
}

absl::Status Rewriter::Interval() {
  const size_t close = rest_.find('}');
  const std::string_view inside = rest_.substr(1, close == std::string_view::npos ? 0 : close - 1);
  const bool interval =
      !inside.empty() && inside.find_first_not_of("0123456789,") == std::string_view::npos;
  if (!interval) {
    Copy(1);
    return absl::OkStatus();
  }
  if (inside[0] == ',') return Unsupported(rest_.substr(0, close + 1));
  // {n,m}+ repeats again in Oniguruma and is possessive in PCRE2.
  if (rest_.substr(close + 1, 1) == "+") return Unsupported(rest_.substr(0, close + 2));
  Copy(close + 1);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> OnigurumaToPcre2(std::string_view expression) {
  return Rewriter(expression).Run();
}

}  // namespace lorad
