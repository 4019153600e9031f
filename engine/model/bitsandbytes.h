// Matrices that bitsandbytes has quantised to 4 bits. Internal to engine/model.
//
// For a linear layer P: `P.weight` holds the packed codes (any storage dtype: the bytes count),
// `P.weight.absmax`, `P.weight.quant_map`, with double quantisation also `P.weight.nested_absmax`
// and `P.weight.nested_quant_map`, and `P.weight.quant_state.bitsandbytes__nf4` (or fp4) a JSON
// document. Source: bitsandbytes/functional.py, QuantState.as_dict.
#ifndef LORAD_ENGINE_MODEL_BITSANDBYTES_H_
#define LORAD_ENGINE_MODEL_BITSANDBYTES_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/io/safetensors.h"
#include "engine/model/checkpoint_plan.h"

namespace lorad {

// Finds a tensor by name, null if there is none, and counts it as used.
using FindTensor = std::function<const SafetensorsEntry*(const std::string&)>;

// The parts of `weight_name` [out, in]; nullopt when it has no quant_state. kNotFound,
// kInvalidArgument or kUnimplemented names the part at fault.
absl::StatusOr<std::optional<BitsAndBytesParts>> FindBitsAndBytesParts(
    const std::string& weight_name, int64_t out_features, int64_t in_features,
    const SafetensorsEntry& weight, const FindTensor& find);

// The maps are shared by all matrices of a model: kUnimplemented, naming `name`, unless `parts` has
// the spec and the maps of `first`.
absl::Status CheckSameFormat(const std::string& name, const BitsAndBytesParts& parts,
                             const BitsAndBytesParts& first);

}  // namespace lorad

#endif  // LORAD_ENGINE_MODEL_BITSANDBYTES_H_
