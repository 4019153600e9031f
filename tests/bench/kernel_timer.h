// Device memory and timing for benchmarks of CUDA kernels. Any error ends the process.
#ifndef LORAD_TESTS_BENCH_KERNEL_TIMER_H_
#define LORAD_TESTS_BENCH_KERNEL_TIMER_H_

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace lorad::bench {

inline void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

// Different bf16 numbers from 0.008 to 0.031, of both signs, two of which make an fp32 number of
// that size. Equal ones would flatter: what moves no bit takes less power.
inline const std::vector<uint16_t>& RandomNumbers() {
  static const std::vector<uint16_t> numbers = [] {
    std::mt19937 random(1);
    std::vector<uint16_t> values(4 << 20);
    for (uint16_t& value : values) value = static_cast<uint16_t>(0x3c00 | (random() & 0x80ff));
    return values;
  }();
  return numbers;
}

// `sets` pieces of device memory of the same size, filled with RandomNumbers().
class Memory {
 public:
  Memory(int64_t bytes, int sets) : bytes_((bytes + 255) / 256 * 256) {
    const int64_t all = bytes_ * sets;
    Check(cudaMalloc(&data_, static_cast<size_t>(all)), "cudaMalloc");
    const std::vector<uint16_t>& numbers = RandomNumbers();
    const auto block = static_cast<int64_t>(numbers.size() * sizeof(numbers[0]));
    for (int64_t begin = 0; begin < all; begin += block) {
      Check(cudaMemcpy(static_cast<char*>(data_) + begin, numbers.data(),
                       static_cast<size_t>(std::min(block, all - begin)), cudaMemcpyDefault),
            "cudaMemcpy");
    }
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { cudaFree(data_); }

  template <typename T>
  T* at(int set) const {
    return reinterpret_cast<T*>(static_cast<char*>(data_) + set * bytes_);
  }
  template <typename T>
  void Set(int set, const std::vector<T>& values) {
    Check(cudaMemcpy(at<T>(set), values.data(), values.size() * sizeof(T), cudaMemcpyDefault),
          "cudaMemcpy");
  }

 private:
  int64_t bytes_;
  void* data_ = nullptr;
};

inline std::vector<uint8_t> RandomBytes(int64_t count) {
  std::mt19937 random(1);
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

// Times kernels on a stream of its own, and prints a line of JSON for each.
class KernelTimer {
 public:
  // kGraph leaves out what the host takes to launch: for kernels of a few microseconds.
  enum class Launching { kStream, kGraph };

  explicit KernelTimer(Launching launching = Launching::kStream) : launching_(launching) {
    Check(cudaStreamCreate(&stream_), "cudaStreamCreate");
    Check(cudaEventCreate(&begin_), "cudaEventCreate");
    Check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  KernelTimer(const KernelTimer&) = delete;
  KernelTimer& operator=(const KernelTimer&) = delete;
  ~KernelTimer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
    cudaStreamDestroy(stream_);
  }
  cudaStream_t stream() const { return stream_; }

  using Launch = std::function<cudaError_t(int set)>;

  // How many sets of buffers of so many bytes are several times any L2 cache.
  static int Sets(double bytes) {
    return static_cast<int>(std::clamp(static_cast<double>(kRotatedBytes) / bytes + 1, 1.0, 64.0));
  }

  // Microseconds of a launch.
  double Time(const char* name, int sets, const Launch& launch) {
    const int launches = (kMinLaunches + sets - 1) / sets * sets;
    const auto launch_all = [&] {
      for (int l = 0; l < launches; ++l) Check(launch(l % sets), name);
    };
    const cudaGraphExec_t graph =
        launching_ == Launching::kGraph ? Capture(name, launch_all) : nullptr;
    std::vector<double> samples;
    for (int i = 0; i < kSamples + 2; ++i) {
      Check(cudaEventRecord(begin_, stream_), name);
      if (graph != nullptr)
        Check(cudaGraphLaunch(graph, stream_), name);
      else
        launch_all();
      Check(cudaEventRecord(end_, stream_), name);
      Check(cudaEventSynchronize(end_), name);
      float milliseconds = 0;
      Check(cudaEventElapsedTime(&milliseconds, begin_, end_), name);
      if (i >= 2) samples.push_back(1e3 * milliseconds / launches);  // two to warm up
    }
    if (graph != nullptr) Check(cudaGraphExecDestroy(graph), name);
    std::nth_element(samples.begin(), samples.begin() + kSamples / 2, samples.end());
    return samples[kSamples / 2];
  }
  // The first report becomes the ceiling of the others.
  void Report(const std::string& name, double bytes, int sets, const Launch& launch) {
    const double us = Time(name.c_str(), sets, launch);
    const double rate = bytes / us / 1e3;
    if (ceiling_ == 0) ceiling_ = rate;
    std::printf(
        "{\"name\": \"%s\", \"us\": %.2f, \"bytes\": %.0f, \"gb_per_s\": %.1f, \"share\": %.3f}\n",
        name.c_str(), us, bytes, rate, rate / ceiling_);
    std::fflush(stdout);
  }

 private:
  cudaGraphExec_t Capture(const char* name, const std::function<void()>& launch_all) {
    Check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), name);
    launch_all();
    cudaGraph_t graph = nullptr;
    Check(cudaStreamEndCapture(stream_, &graph), name);
    cudaGraphExec_t executable = nullptr;
    Check(cudaGraphInstantiate(&executable, graph, 0), name);
    Check(cudaGraphDestroy(graph), name);
    return executable;
  }

  static constexpr int kSamples = 20;
  static constexpr int64_t kRotatedBytes = int64_t{512} << 20;
  static constexpr int kMinLaunches = 8;  // in a sample

  const Launching launching_;
  double ceiling_ = 0;  // GB/s
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_KERNEL_TIMER_H_
