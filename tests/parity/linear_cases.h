// What the parity tests of linear layers run over.
#ifndef LORAD_TESTS_PARITY_LINEAR_CASES_H_
#define LORAD_TESTS_PARITY_LINEAR_CASES_H_

#include <ostream>
#include <utility>
#include <vector>

#include "tests/unit/engine/ops/linear_fixture.h"

namespace lorad {

struct TermSpec {
  QuantSpec quant;
  int64_t out;
  std::vector<SegmentSpec> segments;
  bool bias = false;
  float dropout = 0;
};
struct GroupSpec {
  const char* name;
  int64_t tokens, in;
  std::vector<TermSpec> terms;
  bool side_by_side = true;  // y, and dy, in one buffer
  bool spare = true;         // columns behind x, and behind the last dy
  bool accumulate = false;
};
inline std::ostream& operator<<(std::ostream& out, const GroupSpec& spec) {
  return out << spec.name;
}

inline std::vector<SegmentSpec> AllRows(int64_t tokens, int64_t rank) {
  return {{0, tokens, rank, 0.5f}};
}
// Of 130 tokens: base rows before, between and after; a segment of no rows.
inline std::vector<SegmentSpec> TwoSegments(int64_t rank) {
  return {{3, 50, rank, 0.5f}, {50, 50, 4, 1.0f}, {60, 121, rank + 5, 2.0f}};
}

// Formats, ranks, tokens and sizes of all kinds, and each way in which the operands can lie.
inline std::vector<GroupSpec> LinearCases() {
  constexpr QuantSpec kNf4 = {QuantFormat::kNf4, 64, true},
                      kSingle = {QuantFormat::kNf4, 64, false},
                      kInt8 = {QuantFormat::kInt8, 64, true},
                      kDense = {QuantFormat::kNone, 64, false};
  const auto term = [](const QuantSpec& quant, int64_t out, std::vector<SegmentSpec> segments,
                       bool bias = false, float dropout = 0) {
    return TermSpec{quant, out, std::move(segments), bias, dropout};
  };
  const std::vector<TermSpec> two_terms = {term(kNf4, 64, AllRows(65, 3)),
                                           term(kNf4, 32, AllRows(65, 16), true)};
  std::vector<GroupSpec> cases;
  const auto add = [&](const char* name, int64_t tokens, int64_t in, std::vector<TermSpec> terms) {
    cases.push_back({name, tokens, in, std::move(terms)});
    return &cases.back();
  };
  add("OneToken", 1, 128, {term(kNf4, 64, AllRows(1, 16))});
  add("NoLora", 130, 256, {term(kNf4, 192, {}, true), term(kNf4, 64, {})});
  add("OneTermWithoutLora", 130, 256,
      {term(kNf4, 192, AllRows(130, 3)), term(kNf4, 64, {}), term(kNf4, 64, AllRows(130, 16))});
  add("MixedRanks", 7, 96,
      {term(kSingle, 40, AllRows(7, 3), true), term(kSingle, 24, AllRows(7, 16)),
       term(kSingle, 24, AllRows(7, 5), true)})
      ->accumulate = true;
  add("RanksAboveOneStep", 70, 128,
      {term(kNf4, 64, AllRows(70, 64)), term(kNf4, 72, AllRows(70, 16))});
  add("Int8", 130, 128, {term(kInt8, 96, AllRows(130, 8), true)})->accumulate = true;
  add("Dense", 130, 128,
      {term(kDense, 96, AllRows(130, 16), true), term(kDense, 32, AllRows(130, 4))});
  add("DenseAndPacked", 33, 128,
      {term(kNf4, 64, AllRows(33, 16)), term(kDense, 32, AllRows(33, 4)),
       term(kInt8, 40, AllRows(33, 8))});
  add("NotSideBySide", 65, 128, two_terms)->side_by_side = false;
  add("NoSpareColumns", 65, 128, two_terms)->spare = false;
  GroupSpec* neither = add("NeitherNor", 65, 128, two_terms);
  neither->side_by_side = neither->spare = false;
  add("PartOfTheRows", 130, 128, {term(kNf4, 64, {{3, 100, 16, 0.5f}}, true)})->accumulate = true;
  add("TwoSegments", 130, 128,
      {term(kNf4, 64, TwoSegments(3)), term(kNf4, 40, TwoSegments(16)),
       term(kNf4, 24, {{7, 129, 8, 1.5f}}, true)});
  add("TwoSegmentsNotSideBySide", 130, 128,
      {term(kNf4, 64, TwoSegments(3)), term(kNf4, 40, TwoSegments(16))})
      ->side_by_side = false;
  add("Dropout", 66, 128,
      {term(kNf4, 64, AllRows(66, 16), true, 0.25f), term(kNf4, 40, AllRows(66, 5), false, 0.5f)})
      ->accumulate = true;
  add("DropoutOfOneTerm", 66, 128,
      {term(kNf4, 64, AllRows(66, 16)), term(kNf4, 40, AllRows(66, 5), false, 0.5f),
       term(kNf4, 32, AllRows(66, 4))});
  add("DropoutTwoSegments", 130, 128, {term(kNf4, 64, TwoSegments(3), false, 0.25f)})->spare =
      false;
  add("OddSizes", 7, 33, {term(kNf4, 7, AllRows(7, 3), true), term(kNf4, 5, {})})->accumulate =
      true;
  add("OddSizesInt8", 9, 35, {term(kInt8, 11, {{1, 8, 5, 1.0f}}, false, 0.25f)})->spare = false;
  add("FiveTerms", 20, 64,
      {term(kNf4, 16, AllRows(20, 4)), term(kNf4, 24, AllRows(20, 8)),
       term(kNf4, 32, AllRows(20, 3)), term(kNf4, 40, {}), term(kNf4, 48, AllRows(20, 16))});
  return cases;
}

// The first term of each, which a residual may go with.
inline std::vector<GroupSpec> OneTermCases() {
  std::vector<GroupSpec> cases = LinearCases();
  for (GroupSpec& spec : cases) {
    spec.terms.erase(spec.terms.begin() + 1, spec.terms.end());
    spec.accumulate = false;
  }
  return cases;
}

}  // namespace lorad

#endif  // LORAD_TESTS_PARITY_LINEAR_CASES_H_
