#include "engine/lora/adapter_image.h"

#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include "engine/core/float16.h"
#include "engine/device/backend.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_model.h"

namespace lorad {
namespace {

ModelConfig Llama8B() {
  ModelConfig config;
  config.num_layers = 32;
  config.hidden_size = 4096;
  config.intermediate_size = 14336;
  config.num_heads = 32;
  config.num_kv_heads = 8;
  config.head_dim = 128;
  return config;
}

// Views whose values are never looked at: only sizes matter for a layout.
std::vector<AdapterModuleView> AllLinears(const ModelConfig& config, int32_t rank) {
  static const float value = 0;
  std::vector<AdapterModuleView> modules;
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    for (const Projection p : kAllProjections) {
      modules.push_back({{layer, p},
                         rank,
                         1,
                         {&value, static_cast<size_t>(rank * InFeatures(config, p))},
                         {&value, static_cast<size_t>(rank * OutFeatures(config, p))}});
    }
  }
  return modules;
}

TEST(LayOutAdapterTest, SixtyAdaptersOfRank8Of8BTakeLessThan2Point8GB) {
  // Pages of 64 tokens of that model in bf16.
  const int64_t page_bytes = int64_t{2} * 32 * 64 * 8 * 128 * 2;
  const AdapterLayout layout = LayOutAdapter(AllLinears(Llama8B(), 8), DType::kBF16, page_bytes);
  EXPECT_EQ(layout.num_pages(), 5);  // 21.0 M parameters fill them to the last byte
  EXPECT_LE(60 * layout.size_bytes(), int64_t{2'800'000'000});
  EXPECT_EQ(LayOutAdapter(AllLinears(Llama8B(), 16), DType::kBF16, page_bytes).num_pages(), 10);
}

TEST(LayOutAdapterTest, MatricesDoNotOverlapNorCrossRuns) {
  const ModelConfig config = TinyModel().ParsedConfig();
  for (const int64_t page_bytes : {272, 1024, 4096, 1 << 20}) {
    for (const int32_t rank : {1, 3, 16}) {
      const std::vector<AdapterModuleView> modules = AllLinears(config, rank);
      const AdapterLayout layout = LayOutAdapter(modules, DType::kF32, page_bytes);
      std::vector<int64_t> run_of_page;
      for (size_t run = 0; run < layout.runs.size(); ++run) {
        if (run > 0) {
          EXPECT_LE(layout.runs[run], layout.runs[run - 1]);
        }
        run_of_page.insert(run_of_page.end(), layout.runs[run], static_cast<int64_t>(run));
      }
      ASSERT_EQ(static_cast<int64_t>(run_of_page.size()), layout.num_pages());
      std::set<std::pair<int64_t, int64_t>> ranges;
      for (size_t i = 0; i < modules.size(); ++i) {
        const int64_t bytes_a = static_cast<int64_t>(modules[i].a.size() * sizeof(float));
        const int64_t bytes_b = static_cast<int64_t>(modules[i].b.size() * sizeof(float));
        ranges.emplace(layout.modules[i].a, layout.modules[i].a + bytes_a);
        ranges.emplace(layout.modules[i].b, layout.modules[i].b + bytes_b);
      }
      ASSERT_EQ(ranges.size(), 2 * modules.size());
      int64_t end_before = 0;
      for (const auto& [begin, end] : ranges) {
        EXPECT_GE(begin, end_before);
        const int64_t first = begin / page_bytes, last = (end - 1) / page_bytes;
        ASSERT_LT(last, layout.num_pages());
        EXPECT_EQ(run_of_page[first], run_of_page[last]);
        EXPECT_EQ(begin % page_bytes % 256, 0);
        EXPECT_LE(end - last * page_bytes, layout.used[last]) << "would not be copied";
        if (last > first) {
          EXPECT_EQ(begin % page_bytes, 0);
        }
        end_before = end;
      }
    }
  }
}

TEST(AdapterImageTest, RoundsToNearestEvenOnce) {
  const ModelConfig config = TinyModel().ParsedConfig();
  const HostAdapter adapter = RandomAdapter(config, {4, 2, 5}, 1);
  const std::unique_ptr<Backend> backend = CreateCpuBackend();
  PinnedPages pages(backend->allocator(), 1024, 0);
  ASSERT_OK_AND_ASSIGN(const auto image,
                       AdapterImage::Create("id", Views(adapter), DType::kBF16, pages));
  EXPECT_EQ(image->id(), "id");
  EXPECT_EQ(image->size_bytes(), image->layout().num_pages() * 1024);
  EXPECT_EQ(backend->allocator().Usage(MemoryTag::kPinned).used_bytes, image->size_bytes());
  for (size_t i = 0; i < adapter.modules.size(); ++i) {
    const auto check = [&](const std::vector<float>& values, int64_t offset) {
      for (const float value : values) {
        BFloat16 stored;
        std::memcpy(&stored, static_cast<const char*>(image->page(offset / 1024)) + offset % 1024,
                    2);
        ASSERT_EQ(stored.bits, ToBFloat16(value).bits);
        offset += 2;
      }
    };
    check(adapter.modules[i].a, image->layout().modules[i].a);
    check(adapter.modules[i].b, image->layout().modules[i].b);
  }
}

TEST(PinnedPagesTest, KeepsWhatTheLimitAllows) {
  const std::unique_ptr<Backend> backend = CreateCpuBackend();
  const auto used = [&] { return backend->allocator().Usage(MemoryTag::kPinned).used_bytes; };
  {
    PinnedPages pages(backend->allocator(), 1024, 2048);
    std::vector<DeviceBuffer> taken;
    for (int i = 0; i < 4; ++i) {
      ASSERT_OK_AND_ASSIGN(DeviceBuffer page, pages.Take());
      taken.push_back(std::move(page));
    }
    EXPECT_EQ(used(), 4096);  // the limit bounds what is kept, not what is taken
    void* const last = taken.back().data();
    for (DeviceBuffer& page : taken) pages.Return(std::move(page));
    EXPECT_EQ(used(), 2048);
    ASSERT_OK_AND_ASSIGN(DeviceBuffer again, pages.Take());
    EXPECT_EQ(again.data(), last);
    EXPECT_EQ(used(), 2048);
    pages.Return(std::move(again));
  }
  EXPECT_EQ(used(), 0);
}

TEST(PinnedPagesTest, WarmsWithinTheLimit) {
  const std::unique_ptr<Backend> backend = CreateCpuBackend();
  const auto used = [&] { return backend->allocator().Usage(MemoryTag::kPinned).used_bytes; };
  PinnedPages pages(backend->allocator(), 1024, 3000);
  ASSERT_OK(pages.Warm(1 << 20));
  EXPECT_EQ(used(), 2048);
  ASSERT_OK_AND_ASSIGN(DeviceBuffer page, pages.Take());
  EXPECT_EQ(used(), 2048);
  pages.Return(std::move(page));
  backend->allocator().SetLimit(MemoryTag::kPinned, 2000);
  PinnedPages others(backend->allocator(), 1024, 3000);
  EXPECT_THAT(others.Warm(2048), StatusIs(absl::StatusCode::kResourceExhausted, "pinned"));
}

TEST(PinnedPagesTest, WantOfMemoryIsAnErrorAndCountsNothing) {
  const std::unique_ptr<Backend> backend = CreateCpuBackend();
  PinnedPages pages(backend->allocator(), 1024, 1 << 20);
  backend->allocator().SetLimit(MemoryTag::kPinned, 1000);
  EXPECT_THAT(pages.Take(), StatusIs(absl::StatusCode::kResourceExhausted, "pinned"));
  backend->allocator().SetLimit(MemoryTag::kPinned, 0);
  EXPECT_OK(pages.Take());
}

}  // namespace
}  // namespace lorad
