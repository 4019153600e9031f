#include "engine/model/bitsandbytes.h"

#include <cmath>
#include <cstring>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"
#include "engine/io/json.h"
#include "engine/model/json_object.h"
#include "engine/quant/quant.h"
#include "nlohmann/json.hpp"

namespace lorad {
namespace {

// The part `name`, of this dtype and these many elements; floats must be finite.
absl::StatusOr<const SafetensorsEntry*> Part(const std::string& name, DType dtype, int64_t elements,
                                             const FindTensor& find) {
  const SafetensorsEntry* entry = find(name);
  if (entry == nullptr)
    return absl::NotFoundError(
        absl::StrCat("tensor ", name, " is missing: the checkpoint is incomplete"));
  if (entry->dtype != dtype || entry->size_bytes != elements * SizeOf(dtype))
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " is ", Name(entry->dtype), " ",
                                                   entry->ShapeString(), "; expected ", Name(dtype),
                                                   " with ", elements, " elements"));
  for (int64_t i = 0; dtype == DType::kF32 && i < elements; ++i) {
    if (!std::isfinite(static_cast<const float*>(entry->data)[i]))
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", name, ": element ", i, " is not finite"));
  }
  return entry;
}

// Reads spec and nested_offset from the JSON document in `state`.
absl::Status ReadState(const SafetensorsEntry& state, int64_t out_features, int64_t in_features,
                       BitsAndBytesParts& parts) {
  const std::string_view text(static_cast<const char*>(state.data), state.size_bytes);
  ASSIGN_OR_RETURN(const nlohmann::json document, ParseJson(text, state.name));
  ASSIGN_OR_RETURN(const JsonObject json, JsonObject::Of(document, state.name));
  ASSIGN_OR_RETURN(const std::string type, json.String("quant_type"));
  if (type != "nf4" && type != "fp4") return json.Wrong("quant_type", "\"nf4\" or \"fp4\"");
  parts.spec.format = type == "nf4" ? QuantFormat::kNf4 : QuantFormat::kFp4;
  ASSIGN_OR_RETURN(const int64_t block, json.Int("blocksize", 1, 1 << 20));
  parts.spec.block = static_cast<int32_t>(block);
  RETURN_IF_ERROR(ValidateQuantSpec(parts.spec));
  ASSIGN_OR_RETURN(const std::vector<int64_t> shape, json.IntOrInts("shape", 0, INT64_MAX));
  if (shape != std::vector<int64_t>{out_features, in_features})
    return json.Wrong("shape", Shape{out_features, in_features}.ToString());
  parts.spec.double_quant = json.Find("nested_blocksize") != nullptr;
  if (!parts.spec.double_quant) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int64_t nested_block, json.Int("nested_blocksize", 1, 1 << 20));
  if (nested_block != kNestedBlock)
    return absl::UnimplementedError(absl::StrCat(state.name, ": nested_blocksize ", nested_block,
                                                 " is not supported; supported: ", kNestedBlock));
  ASSIGN_OR_RETURN(const double offset, json.Number("nested_offset", -3e38, 3e38));
  parts.nested_offset = static_cast<float>(offset);
  return absl::OkStatus();
}

bool SameBytes(const SafetensorsEntry* a, const SafetensorsEntry* b) {
  return a->size_bytes == b->size_bytes && std::memcmp(a->data, b->data, a->size_bytes) == 0;
}

}  // namespace

absl::StatusOr<std::optional<BitsAndBytesParts>> FindBitsAndBytesParts(
    const std::string& weight_name, int64_t out_features, int64_t in_features,
    const SafetensorsEntry& weight, const FindTensor& find) {
  const std::string prefix = weight_name + ".quant_state.bitsandbytes__";
  const SafetensorsEntry* state = find(prefix + "nf4");
  if (state == nullptr) state = find(prefix + "fp4");
  if (state == nullptr) return std::optional<BitsAndBytesParts>();
  BitsAndBytesParts parts;
  RETURN_IF_ERROR(ReadState(*state, out_features, in_features, parts));
  const int64_t elements = out_features * in_features;
  if (weight.size_bytes != CeilDiv(elements, 2))
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", weight_name, " has ", weight.size_bytes, " bytes; ", CeilDiv(elements, 2),
        " expected for the packed codes of ", Shape{out_features, in_features}.ToString()));
  const int64_t blocks = CeilDiv(elements, parts.spec.block);
  const bool nested = parts.spec.double_quant;
  ASSIGN_OR_RETURN(parts.absmax,
                   Part(weight_name + ".absmax", nested ? DType::kU8 : DType::kF32, blocks, find));
  ASSIGN_OR_RETURN(parts.quant_map, Part(weight_name + ".quant_map", DType::kF32, 16, find));
  if (!nested) return std::optional<BitsAndBytesParts>(parts);
  ASSIGN_OR_RETURN(parts.nested_absmax, Part(weight_name + ".nested_absmax", DType::kF32,
                                             CeilDiv(blocks, kNestedBlock), find));
  ASSIGN_OR_RETURN(parts.nested_quant_map,
                   Part(weight_name + ".nested_quant_map", DType::kF32, 256, find));
  return std::optional<BitsAndBytesParts>(parts);
}

absl::Status CheckSameFormat(const std::string& name, const BitsAndBytesParts& parts,
                             const BitsAndBytesParts& first) {
  if (parts.spec != first.spec)
    return absl::UnimplementedError(absl::StrCat(
        "tensor ", name, " is quantised as ", FormatQuantSpec(parts.spec), ", others as ",
        FormatQuantSpec(first.spec), "; a checkpoint of mixed formats is not supported"));
  const bool same =
      SameBytes(parts.quant_map, first.quant_map) &&
      (!parts.spec.double_quant || SameBytes(parts.nested_quant_map, first.nested_quant_map));
  if (!same)
    return absl::UnimplementedError(absl::StrCat(
        "tensor ", name, " has a quant_map of its own; one map for all matrices is supported"));
  return absl::OkStatus();
}

}  // namespace lorad
