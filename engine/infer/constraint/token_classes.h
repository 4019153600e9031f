// States that no token tells apart.
#ifndef LORAD_ENGINE_INFER_CONSTRAINT_TOKEN_CLASSES_H_
#define LORAD_ENGINE_INFER_CONSTRAINT_TOKEN_CLASSES_H_

#include <cstdint>
#include <vector>

#include "engine/infer/constraint/grammar.h"

namespace lorad {

// For each state one of its rule, the first, from which the same texts of up to `bytes` bytes can
// follow, to the rule's end or without it. In a string of at most 500 characters nearly every place
// is like the others: masks are found for one of them. Moore's refinement of partitions (Hopcroft,
// Motwani and Ullman, 2006, section 4.4), ended after as many rounds as a token has bytes. Takes up
// to `bytes` passes over the grammar's automata.
std::vector<int32_t> TokenClasses(const Grammar& grammar, int32_t bytes);

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_CONSTRAINT_TOKEN_CLASSES_H_
