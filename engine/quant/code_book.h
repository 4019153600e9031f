// The code books of the k-bit formats and of 8-bit optimiser states.
#ifndef LORAD_ENGINE_QUANT_CODE_BOOK_H_
#define LORAD_ENGINE_QUANT_CODE_BOOK_H_

#include <array>
#include <vector>

#include "engine/core/quant_spec.h"

namespace lorad {

// Value of each code for absmax 1: 16 entries for the 4-bit formats, 256 for int8 (code c at c +
// 128; entry 0 is not used). Empty for kNone. nf4: Dettmers et al., "QLoRA", 2023, appendix E. fp4:
// bitsandbytes (sign bit 3, values / 12).
std::vector<float> CodeBook(QuantFormat format);

// The signed dynamic map, of the second quantisation and of first moments: 256 ascending values, 0
// at 127, 1 at 255. For each exponent i in 0..6, the 2^i midpoints of linspace(0.1, 1, 2^i + 1)
// times 10^(i - 6), both signs. Source: Dettmers, "8-bit Approximations for Parallelism in Deep
// Learning", 2016.
const std::array<float, 256>& DynamicMap();

// The unsigned one, of second moments: 256 ascending values, 0 at 0, 1 at 255; for each exponent
// twice as many midpoints, of linspace(0.1, 1, 2^(i + 1) + 1), without sign. As
// bitsandbytes.functional.create_dynamic_map(signed=False).
const std::array<float, 256>& UnsignedDynamicMap();

}  // namespace lorad

#endif  // LORAD_ENGINE_QUANT_CODE_BOOK_H_
