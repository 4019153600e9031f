// The text form of a QuantSpec, as --quant takes it.
#include <bit>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/core/status_macros.h"
#include "engine/quant/quant.h"

namespace lorad {
namespace {

constexpr std::pair<std::string_view, QuantFormat> kFormats[] = {{"nf4", QuantFormat::kNf4},
                                                                 {"fp4", QuantFormat::kFp4},
                                                                 {"int4", QuantFormat::kInt4},
                                                                 {"int8", QuantFormat::kInt8},
                                                                 {"none", QuantFormat::kNone}};

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

absl::Status ValidateQuantSpec(const QuantSpec& spec) {
  if (spec.block < 32 || spec.block > 4096 ||
      !std::has_single_bit(static_cast<uint32_t>(spec.block))) {
    return absl::InvalidArgumentError(
        absl::StrCat("quant: block ", spec.block, " must be a power of two from 32 to 4096"));
  }
  return absl::OkStatus();
}

absl::StatusOr<QuantSpec> ParseQuantSpec(std::string_view text) {
  QuantSpec spec;
  const std::vector<std::string> parts = absl::StrSplit(View(text), ',');
  bool known = false;
  for (const auto& [name, format] : kFormats) {
    if (parts[0] == name) spec.format = format, known = true;
  }
  if (!known) {
    return absl::InvalidArgumentError(
        absl::StrCat("quant: unknown format \"", parts[0], "\"; use nf4, fp4, int4, int8 or none"));
  }
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::pair<std::string, std::string> option =
        absl::StrSplit(parts[i], absl::MaxSplits('=', 1));
    const bool parsed = option.first == "block" ? absl::SimpleAtoi(option.second, &spec.block)
                        : option.first == "double_quant"
                            ? absl::SimpleAtob(option.second, &spec.double_quant)
                            : false;
    if (!parsed) {
      return absl::InvalidArgumentError(
          absl::StrCat("quant: \"", parts[i], "\" in \"", View(text),
                       "\"; known are block=N and double_quant=true|false"));
    }
  }
  if (spec.format == QuantFormat::kNone) spec.double_quant = false;
  RETURN_IF_ERROR(ValidateQuantSpec(spec));
  return spec;
}

std::string FormatQuantSpec(const QuantSpec& spec) {
  std::string text;
  for (const auto& [name, format] : kFormats) {
    if (spec.format == format) text = std::string(name);
  }
  if (spec.format == QuantFormat::kNone) return text;
  if (spec.block != QuantSpec().block) absl::StrAppend(&text, ",block=", spec.block);
  if (spec.double_quant != QuantSpec().double_quant) absl::StrAppend(&text, ",double_quant=false");
  return text;
}

}  // namespace lorad
