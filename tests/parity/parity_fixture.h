// One op on two backends: the CPU, which defines it, in fp32, and CUDA in bf16 with fp32 sums.
#ifndef LORAD_TESTS_PARITY_PARITY_FIXTURE_H_
#define LORAD_TESTS_PARITY_PARITY_FIXTURE_H_

#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/core/float16.h"
#include "engine/device/backend.h"
#include "engine/ops/ops.h"
#include "tests/parity/skip_without_gpu.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/engine/ops/op_fixture.h"

namespace lorad {

// Half the distance between neighbouring bf16 numbers at 1: one rounding errs by at most this,
// relatively.
inline constexpr double kBFloat16Roundoff = 0x1p-8;
inline constexpr double kFloatRoundoff = 0x1p-24;

// The GPU and a stream on it, one for all tests of a binary.
class ParityTest : public testing::Test {
 protected:
  static Backend* SharedCuda(absl::Status* status) {
    static const absl::StatusOr<std::unique_ptr<Backend>>* const backend =
        new absl::StatusOr<std::unique_ptr<Backend>>(CreateCudaBackend(0));
    *status = backend->status();
    return backend->ok() ? backend->value().get() : nullptr;
  }
  void SetUp() override {
    absl::Status status;
    cuda_ = SharedCuda(&status);
    SKIP_WITHOUT_GPU(status);
    cpu_ = CreateCpuBackend();
    cpu_stream_ = *cpu_->CreateStream();
    stream_ = *cuda_->CreateStream();
  }
  void TearDown() override {
    if (stream_ == nullptr) return;
    EXPECT_OK(stream_->Synchronize());
  }

  Backend& cpu() { return *cpu_; }
  Backend& cuda() { return *cuda_; }
  Stream& cpu_stream() { return *cpu_stream_; }
  Stream& stream() { return *stream_; }

  DeviceBuffer Allocate(int64_t bytes) {
    return *cuda_->allocator().Allocate(bytes, MemoryTag::kWorkspace);
  }
  DeviceBuffer Upload(const void* data, int64_t bytes) {
    DeviceBuffer buffer = Allocate(bytes);
    EXPECT_OK(cuda_->Copy(buffer.data(), data, bytes, *stream_));
    EXPECT_OK(stream_->Synchronize());
    return buffer;
  }
  void Download(void* to, const void* from, int64_t bytes) {
    ASSERT_OK(cuda_->Copy(to, from, bytes, *stream_));
    ASSERT_OK(stream_->Synchronize());
  }

  // A tensor that has the same bytes on both sides: indices, statistics, adapters, losses.
  template <typename T>
  struct Both {
    Shape shape;
    std::vector<T> host;  // the CPU backend's
    DeviceBuffer device;

    TensorView cpu() { return {host.data(), DTypeOf<T>, shape}; }
    TensorView cuda() const { return device.View(DTypeOf<T>, shape); }
  };
  template <typename T>
  Both<T> Same(const Shape& shape, std::vector<T> values) {
    DeviceBuffer device = Upload(values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
    return {shape, std::move(values), std::move(device)};
  }
  template <typename T>
  std::vector<T> Fetch(const Both<T>& both) {
    std::vector<T> values(both.host.size());
    Download(values.data(), both.device.data(), static_cast<int64_t>(values.size() * sizeof(T)));
    return values;
  }

  // Matrices or head tensors that lie side by side in each row of one buffer on the device, with
  // `spare` columns behind the last; on the CPU dense and apart. Values are exact in bf16, so both
  // sides begin alike. Guards lie before and after the buffer.
  class Slices {
   public:
    TensorView cpu(size_t i) { return {host[i].data(), DType::kF32, shapes[i]}; }
    TensorView cuda(size_t i) const {
      TensorView view = {Base() + offsets[i], DType::kBF16, shapes[i]};
      if (stride != RowElements(shapes[i])) view.row_stride = stride;
      return view;
    }
    BFloat16* Base() const { return static_cast<BFloat16*>(device.data()) + kGuard; }

    static constexpr int64_t kGuard = 512;
    std::vector<Shape> shapes;
    std::vector<std::vector<float>> host;
    std::vector<int64_t> offsets;  // of each slice in a row
    int64_t rows = 0, width = 0, stride = 0;
    DeviceBuffer device;
    std::vector<BFloat16> before;  // the device's content at the start, guards included
  };
  // Uniform in (-scale, scale).
  Slices RandomSlices(const std::vector<Shape>& shapes, int64_t spare, uint32_t seed,
                      double scale = 1) {
    std::vector<std::vector<float>> values;
    for (const Shape& shape : shapes) {
      values.push_back(Random<float>(shape, seed++, scale).data);
      for (float& value : values.back()) value = ToFloat(ToBFloat16(value));
    }
    return MakeSlices(shapes, std::move(values), spare);
  }
  // For outputs: NaN on both sides.
  Slices UnwrittenSlices(const std::vector<Shape>& shapes, int64_t spare) {
    std::vector<std::vector<float>> values;
    for (const Shape& shape : shapes) values.emplace_back(shape.num_elements(), std::nanf(""));
    return MakeSlices(shapes, std::move(values), spare);
  }
  Slices MakeSlices(const std::vector<Shape>& shapes, std::vector<std::vector<float>> values,
                    int64_t spare) {
    Slices slices;
    slices.shapes = shapes;
    slices.host = std::move(values);
    slices.rows = shapes[0][0];
    for (const Shape& shape : shapes) {
      slices.offsets.push_back(slices.width);
      slices.width += RowElements(shape);
    }
    slices.stride = slices.width + spare;
    const int64_t elements = slices.rows * slices.stride + 2 * Slices::kGuard;
    slices.before.assign(elements, BFloat16{0x4321});
    for (size_t i = 0; i < shapes.size(); ++i) {
      const int64_t row = RowElements(shapes[i]);
      for (int64_t r = 0; r < slices.rows; ++r)
        for (int64_t c = 0; c < row; ++c)
          slices.before[Slices::kGuard + r * slices.stride + slices.offsets[i] + c] =
              ToBFloat16(slices.host[i][r * row + c]);
    }
    slices.device = Upload(slices.before.data(), 2 * elements);
    return slices;
  }
  // The values of one slice on the device; and nothing outside the slices has changed, spare
  // columns excepted where the op owns them.
  std::vector<float> FetchSlice(const Slices& slices, size_t index, bool spare_is_the_ops = false) {
    std::vector<BFloat16> now(slices.before.size());
    Download(now.data(), slices.device.data(), static_cast<int64_t>(2 * now.size()));
    const int64_t row = RowElements(slices.shapes[index]);
    std::vector<float> values(slices.rows * row);
    for (int64_t i = 0; i < static_cast<int64_t>(now.size()); ++i) {
      const int64_t place = i - Slices::kGuard;
      const int64_t r = place / slices.stride, c = place % slices.stride;
      const bool inside = place >= 0 && r < slices.rows;
      if (inside && c < slices.width) {
        if (c >= slices.offsets[index] && c < slices.offsets[index] + row)
          values[r * row + c - slices.offsets[index]] = ToFloat(now[i]);
      } else if (!(inside && spare_is_the_ops) && now[i].bits != slices.before[i].bits) {
        ADD_FAILURE() << "row " << r << ", column " << c << " lies outside and was written";
        return values;
      }
    }
    return values;
  }

  // A weight on both sides.
  struct Weight {
    std::unique_ptr<TestWeight> host;
    std::vector<DeviceBuffer> parts;
    WeightView device;
    const WeightView& cpu() const { return host->view; }
    const WeightView& cuda() const { return device; }
  };
  // `arranged`: on the device as a loaded model has it; otherwise as the definition has it.
  Weight MakeParityWeight(const QuantSpec& spec, int64_t out, int64_t in, uint32_t seed,
                          bool arranged = true) {
    Weight weight{MakeWeight(spec, out, in, seed), {}, {}};
    weight.device = weight.host->view;
    for (ConstTensorView* view :
         {&weight.device.dense, &weight.device.codes, &weight.device.code_book,
          &weight.device.scales, &weight.device.scales_u8, &weight.device.nested_scales,
          &weight.device.nested_code}) {
      if (view->empty()) continue;
      weight.parts.push_back(Upload(view->data, view->size_bytes()));
      view->data = weight.parts.back().data();
    }
    const int64_t scratch_bytes = cuda().ops().ArrangeScratchBytes(weight.device);
    if (!arranged || scratch_bytes == 0) return weight;
    const DeviceBuffer scratch = Allocate(scratch_bytes);
    EXPECT_OK(cuda().ops().ArrangeWeight(
        {.weight = &weight.device, .scratch = scratch.View(DType::kU8, {scratch_bytes})},
        stream()));
    EXPECT_OK(stream().Synchronize());
    return weight;
  }

  // Scratch filled with NaN; valid until the next call.
  TensorView Workspace(int64_t bytes) {
    workspace_.push_back(Upload(std::vector<uint8_t>(bytes, 0xff).data(), bytes));
    return workspace_.back().View(DType::kU8, {bytes});
  }
  TensorView CpuWorkspace(int64_t bytes) {
    cpu_workspace_.emplace_back(bytes, uint8_t{0xff});
    return {cpu_workspace_.back().data(), DType::kU8, {bytes}};
  }

 private:
  Backend* cuda_ = nullptr;
  std::unique_ptr<Backend> cpu_;
  std::unique_ptr<Stream> cpu_stream_, stream_;
  std::vector<DeviceBuffer> workspace_;
  std::vector<std::vector<uint8_t>> cpu_workspace_;
};

}  // namespace lorad

#endif  // LORAD_TESTS_PARITY_PARITY_FIXTURE_H_
