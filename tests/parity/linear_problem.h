// A group of linear layers with LoRA on both backends, for the parity tests of the forward and the
// backward pass.
#ifndef LORAD_TESTS_PARITY_LINEAR_PROBLEM_H_
#define LORAD_TESTS_PARITY_LINEAR_PROBLEM_H_

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "tests/parity/linear_cases.h"
#include "tests/parity/parity_fixture.h"

namespace lorad {

class LinearParityTest : public ParityTest {
 protected:
  // An adapter of some rows of one term. xa is NaN before the forward pass.
  struct Pair {
    SegmentSpec spec;
    Both<float> a, b;
    Slices xa;
    std::vector<float> da, db;             // the CPU's
    int64_t da_offset = 0, db_offset = 0;  // in the device's gradients
  };
  struct Term {
    TermSpec spec;
    Weight weight;
    Both<float> bias;
    std::vector<Pair> pairs;
    LoraDropout dropout;  // without the keys
    std::vector<LoraSegment> cpu_segments, cuda_segments;
  };
  struct Group {
    GroupSpec spec;
    bool row_invariant = false;
    Slices x;
    std::vector<Slices> y;  // one with all terms' slices, or one for each term; dy in the backward
    Slices* residual = nullptr;  // not owned, may be y; null: none
    std::vector<Term> terms;
    Both<uint64_t> token_keys;
    std::vector<float> gradients;  // all da, then all db, as they begin; gaps between are canaries
    DeviceBuffer cuda_gradients;

    std::pair<Slices*, size_t> Output(size_t term) {
      return spec.side_by_side ? std::pair(&y[0], term) : std::pair(&y[term], size_t{0});
    }
  };
  static constexpr int64_t kSparePastY = 8;  // nobody's
  static constexpr int64_t kGuard = 64;      // floats around the gradients
  static constexpr float kCanary = 12345.0f;

  int64_t SpareColumns(const GroupSpec& spec) {
    int64_t rank = 0;
    for (const TermSpec& term : spec.terms) {
      int64_t widest = 0;
      for (const SegmentSpec& segment : term.segments) widest = std::max(widest, segment.rank);
      rank += widest;
    }
    return spec.spare ? cuda().ops().PreferredLinearLayout().SpareColumns(rank) : 0;
  }

  Term MakeTerm(const GroupSpec& spec, const TermSpec& term_spec, bool backward, uint32_t seed) {
    Term term;
    term.spec = term_spec;
    const int64_t out = term_spec.out;
    term.weight = MakeParityWeight(term_spec.quant, out, spec.in, seed);
    if (term_spec.bias) term.bias = Same<float>({out}, Random<float>({out}, seed + 1).data);
    for (const SegmentSpec& s : term_spec.segments) {
      seed += 10;
      Pair pair;
      pair.spec = s;
      pair.a = Same<float>({s.rank, spec.in}, Random<float>({s.rank, spec.in}, seed).data);
      pair.b = Same<float>({out, s.rank}, Random<float>({out, s.rank}, seed + 1).data);
      const Shape shape = {s.end - s.begin, s.rank};
      pair.xa = backward ? RandomSlices({shape}, 0, seed + 2) : UnwrittenSlices({shape}, 0);
      pair.da = Random<float>({s.rank, spec.in}, seed + 3).data;
      pair.db = Random<float>({out, s.rank}, seed + 4).data;
      term.pairs.push_back(std::move(pair));
    }
    term.dropout = {term_spec.dropout, 42, 7, seed, {}};
    return term;
  }

  // `gap`: floats between gradients of neighbouring adapters.
  Group MakeGroup(const GroupSpec& spec, bool backward, int64_t gap = 24) {
    Group group;
    group.spec = spec;
    const int64_t spare = SpareColumns(spec);
    group.x = RandomSlices({{spec.tokens, spec.in}}, spare, 1);
    std::vector<Shape> shapes;
    for (const TermSpec& term : spec.terms) shapes.push_back({spec.tokens, term.out});
    const auto output = [&](const std::vector<Shape>& slices, uint32_t seed, bool last) {
      if (backward) return RandomSlices(slices, last ? spare : 0, seed);
      return spec.accumulate ? RandomSlices(slices, kSparePastY, seed)
                             : UnwrittenSlices(slices, kSparePastY);
    };
    if (spec.side_by_side) {
      group.y.push_back(output(shapes, 100, true));
    } else {
      for (size_t i = 0; i < shapes.size(); ++i) {
        group.y.push_back(
            output({shapes[i]}, 100 + static_cast<uint32_t>(i), i + 1 == shapes.size()));
      }
    }
    for (size_t i = 0; i < spec.terms.size(); ++i) {
      group.terms.push_back(
          MakeTerm(spec, spec.terms[i], backward, 1000 * static_cast<uint32_t>(i + 1)));
    }
    std::vector<uint64_t> keys;
    for (int64_t t = 0; t < spec.tokens; ++t)
      keys.push_back(static_cast<uint64_t>(3 + t / 4) << 32 | static_cast<uint64_t>(t % 4));
    group.token_keys = Same<uint64_t>({spec.tokens}, std::move(keys));
    if (backward) PlaceGradients(gap, group);
    return group;
  }

  void PlaceGradients(int64_t gap, Group& group) {
    std::vector<float>& all = group.gradients;
    all.assign(kGuard, kCanary);
    const auto place = [&](const std::vector<float>& values) {
      const int64_t offset = static_cast<int64_t>(all.size());
      all.insert(all.end(), values.begin(), values.end());
      all.insert(all.end(), gap, kCanary);
      return offset;
    };
    for (Term& term : group.terms)
      for (Pair& pair : term.pairs) pair.da_offset = place(pair.da);
    for (Term& term : group.terms)
      for (Pair& pair : term.pairs) pair.db_offset = place(pair.db);
    all.insert(all.end(), kGuard, kCanary);
    group.cuda_gradients = Upload(all.data(), static_cast<int64_t>(all.size() * sizeof(float)));
  }

  // The segments of each term, on one side or the other.
  void BindSegments(Group& group) {
    for (Term& term : group.terms) {
      term.cpu_segments.clear();
      term.cuda_segments.clear();
      for (Pair& pair : term.pairs) {
        const SegmentSpec& s = pair.spec;
        LoraSegment segment = {s.begin,   s.end,          pair.a.cpu(), pair.b.cpu(),
                               s.scaling, pair.xa.cpu(0), {},           {}};
        if (!group.gradients.empty()) {
          segment.da = {pair.da.data(), DType::kF32, pair.a.shape};
          segment.db = {pair.db.data(), DType::kF32, pair.b.shape};
        }
        term.cpu_segments.push_back(segment);
        segment.a = pair.a.cuda(), segment.b = pair.b.cuda(), segment.xa = pair.xa.cuda(0);
        if (!group.gradients.empty()) {
          auto* gradients = static_cast<float*>(group.cuda_gradients.data());
          segment.da.data = gradients + pair.da_offset;
          segment.db.data = gradients + pair.db_offset;
        }
        term.cuda_segments.push_back(segment);
      }
    }
  }
  static LoraDropout Dropout(const Term& term, const TensorView& token_keys) {
    LoraDropout dropout = term.dropout;
    dropout.token_keys = token_keys;
    return dropout;
  }

  // Scratch of exactly `bytes`, filled with NaN, before a guard; valid until the next call.
  TensorView GuardedWorkspace(int64_t bytes) {
    scratch_bytes_ = bytes;
    scratch_ =
        Upload(std::vector<uint8_t>(bytes + kScratchGuard, 0xff).data(), bytes + kScratchGuard);
    return {scratch_.data(), DType::kU8, {bytes}};
  }
  void ExpectGuardUntouched() {
    std::vector<uint8_t> tail(kScratchGuard);
    Download(tail.data(), static_cast<uint8_t*>(scratch_.data()) + scratch_bytes_, kScratchGuard);
    EXPECT_EQ(tail, std::vector<uint8_t>(kScratchGuard, 0xff)) << "written past the workspace";
  }

  static bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  }

 private:
  static constexpr int64_t kScratchGuard = 4096;
  DeviceBuffer scratch_;
  int64_t scratch_bytes_ = 0;
};

}  // namespace lorad

#endif  // LORAD_TESTS_PARITY_LINEAR_PROBLEM_H_
