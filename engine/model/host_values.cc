#include "engine/model/host_values.h"

#include <algorithm>
#include <cmath>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/core/check.h"
#include "engine/core/float16.h"
#include "engine/core/status_macros.h"

namespace lorad {
namespace {

float AsFloat(float value) { return value; }
float AsFloat(BFloat16 value) { return ToFloat(value); }
float AsFloat(Float16 value) { return ToFloat(value); }

template <typename T>
bool ConvertFloats(const SafetensorsEntry& entry, int64_t begin, int64_t end, float* out) {
  const T* values = static_cast<const T*>(entry.data) + begin;
  bool finite = true;  // gathered without a branch, so that the loop is vectorised
  for (int64_t i = 0; i < end - begin; ++i) {
    out[i] = AsFloat(values[i]);
    finite &= std::abs(out[i]) <= 3.402823466e38f;
  }
  return finite;
}

absl::Status NotFinite(const SafetensorsEntry& entry, int64_t begin, int64_t end,
                       const float* values) {
  const float* found =
      std::find_if(values, values + (end - begin), [](float v) { return !std::isfinite(v); });
  return absl::InvalidArgumentError(absl::StrCat("tensor ", entry.name, ": element ",
                                                 begin + (found - values), " is ", *found,
                                                 "; weights must be finite"));
}

}  // namespace

absl::Status ReadFloats(const SafetensorsEntry& entry, int64_t begin, int64_t end, float* out) {
  bool finite = false;
  switch (entry.dtype) {
    case DType::kBF16:
      finite = ConvertFloats<BFloat16>(entry, begin, end, out);
      break;
    case DType::kF16:
      finite = ConvertFloats<Float16>(entry, begin, end, out);
      break;
    default:
      finite = ConvertFloats<float>(entry, begin, end, out);
  }
  return finite ? absl::OkStatus() : NotFinite(entry, begin, end, out);
}

absl::Status ReadBFloat16s(const SafetensorsEntry& entry, int64_t begin, int64_t end,
                           BFloat16* out) {
  constexpr int64_t kRun = 4096;  // floats on the way, in the first-level cache
  float values[kRun];
  for (int64_t i = begin; i < end; i += kRun) {
    const int64_t stop = std::min(i + kRun, end);
    RETURN_IF_ERROR(ReadFloats(entry, i, stop, values));
    for (int64_t k = 0; k < stop - i; ++k) {
      const BFloat16 rounded = ToBFloat16(values[k]);
      if (!std::isfinite(ToFloat(rounded)))
        return absl::InvalidArgumentError(absl::StrCat("tensor ", entry.name, ": element ", i + k,
                                                       ", ", values[k],
                                                       ", is beyond the range of bf16"));
      out[i - begin + k] = rounded;
    }
  }
  return absl::OkStatus();
}

int MaxPiecesAtOnce() { return std::clamp<int>(std::thread::hardware_concurrency(), 1, 16); }

absl::Status ForEachPiece(int64_t num_elements,
                          const std::function<absl::Status(int, int64_t, int64_t)>& work,
                          const std::function<absl::Status(int, int64_t, int64_t)>& commit) {
  const int slots = MaxPiecesAtOnce();
  for (int64_t wave = 0; wave < num_elements; wave += slots * kPieceElements) {
    std::vector<absl::Status> statuses(slots);
    const auto run = [&](int slot) {
      const int64_t begin = wave + slot * kPieceElements;
      if (begin < num_elements)
        statuses[slot] = work(slot, begin, std::min(begin + kPieceElements, num_elements));
    };
    std::vector<std::thread> threads;
    for (int slot = 1; slot < slots && wave + slot * kPieceElements < num_elements; ++slot)
      threads.emplace_back(run, slot);
    run(0);
    for (std::thread& thread : threads) thread.join();
    for (int slot = 0; slot < slots && wave + slot * kPieceElements < num_elements; ++slot) {
      const int64_t begin = wave + slot * kPieceElements;
      RETURN_IF_ERROR(statuses[slot]);
      RETURN_IF_ERROR(commit(slot, begin, std::min(begin + kPieceElements, num_elements)));
    }
  }
  return absl::OkStatus();
}

}  // namespace lorad
