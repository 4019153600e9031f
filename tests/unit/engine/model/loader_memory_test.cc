// Peak memory of loading: the finished 4-bit model plus one layer, counted over both the device's
// allocator and every byte of the heap.
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <new>

#include "engine/core/arena.h"
#include "engine/device/backend.h"
#include "engine/model/weights.h"
#include "engine/quant/quant.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace {

std::atomic<int64_t> heap_bytes = 0, heap_peak = 0;

void* Count(void* block) {
  const int64_t now = heap_bytes += static_cast<int64_t>(malloc_usable_size(block));
  int64_t peak = heap_peak;
  while (now > peak && !heap_peak.compare_exchange_weak(peak, now)) {
  }
  return block;
}
void Uncount(void* block) { heap_bytes -= static_cast<int64_t>(malloc_usable_size(block)); }

}  // namespace

// Replaced for the whole binary, all forms but the aligned ones, so that a sanitizer's own forms
// never meet ours: what the standard containers take is counted. Device buffers of the CPU backend
// do not come from here.
void* operator new(std::size_t size) {
  void* block = std::malloc(size);
  if (block == nullptr) std::abort();
  return Count(block);
}
void* operator new[](std::size_t size) { return operator new(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return operator new(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return operator new(size);
}
void operator delete(void* block) noexcept {
  if (block == nullptr) return;
  Uncount(block);
  std::free(block);
}
void operator delete[](void* block) noexcept { operator delete(block); }
void operator delete(void* block, std::size_t) noexcept { operator delete(block); }
void operator delete[](void* block, std::size_t) noexcept { operator delete(block); }
void operator delete(void* block, const std::nothrow_t&) noexcept { operator delete(block); }
void operator delete[](void* block, const std::nothrow_t&) noexcept { operator delete(block); }

namespace lorad {
namespace {

TEST(LoaderMemoryTest, PeakIsTheModelPlusOneLayer) {
  TinyModelOptions options;
  options.layers = 12;
  options.hidden = 256;
  options.intermediate = 1024;
  options.head_dim = 64;
  options.vocab = 64;
  const TempDir dir;
  int64_t layer_bytes = 0;  // of one layer in 16 bits
  {
    const TinyModel tiny(options);
    tiny.Write(dir.path());
    const ModelConfig config = tiny.ParsedConfig();
    for (const Projection p : kAllProjections)
      layer_bytes += 2 * InFeatures(config, p) * OutFeatures(config, p);
  }
  const std::unique_ptr<Backend> backend = CreateCpuBackend();
  const int64_t heap_before = heap_bytes;
  heap_peak = heap_before;
  ASSERT_OK_AND_ASSIGN(const auto model, Model::Load(dir.path(), QuantSpec(), *backend));
  const int64_t host_peak = heap_peak - heap_before;
  const MemoryUsage device = backend->allocator().Usage(MemoryTag::kWeights);

  EXPECT_EQ(device.used_bytes, model->weight_bytes());
  EXPECT_EQ(device.peak_bytes, device.used_bytes) << "staging on the device";
  EXPECT_LT(host_peak, layer_bytes);
  // The test means something: the whole model in 16 bits would be far above the bound.
  EXPECT_GT(options.layers * layer_bytes, 2 * (device.used_bytes + layer_bytes));
  std::cout << "weights " << device.used_bytes << " bytes, peak on the host " << host_peak
            << ", one layer in 16 bits " << layer_bytes << "\n";
}

// The same bytes as the formula that plans memory, but for alignment.
TEST(LoaderMemoryTest, WeightsTakeWhatTheFormulaSays) {
  const TinyModelOptions options;
  const TempDir dir;
  TinyModel(options).Write(dir.path());
  const std::unique_ptr<Backend> backend = CreateCpuBackend();
  for (const QuantFormat format : {QuantFormat::kNf4, QuantFormat::kInt8, QuantFormat::kNone}) {
    QuantSpec quant;
    quant.format = format;
    ASSERT_OK_AND_ASSIGN(const auto model, Model::Load(dir.path(), quant, *backend));
    int64_t linears = 0, tensors = 6;  // shared ones
    for (int32_t layer = 0; layer < options.layers; ++layer) {
      for (const Projection p : kAllProjections) {
        linears +=
            QuantizedBytes(quant, OutFeatures(model->config(), p), InFeatures(model->config(), p));
        tensors += 3;
      }
      linears += 2 * options.hidden * 4;
      tensors += 2;
    }
    const int64_t shared = 2 * options.vocab * options.hidden * 2 + options.hidden * 4 +
                           options.head_dim / 2 * 4 +
                           (format == QuantFormat::kNone ? 0 : ((1 << CodeBits(format)) + 256) * 4);
    EXPECT_GE(model->weight_bytes(), linears + shared);
    EXPECT_LE(model->weight_bytes(), linears + shared + tensors * Arena::kAlignment);
  }
}

}  // namespace
}  // namespace lorad
