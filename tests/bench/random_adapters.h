// Any number of adapters with random weights, made when they are asked for: thousands of a large
// model's adapters take no disk.
#ifndef LORAD_TESTS_BENCH_RANDOM_ADAPTERS_H_
#define LORAD_TESTS_BENCH_RANDOM_ADAPTERS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/lora/adapter.h"
#include "engine/lora/store.h"
#include "engine/model/config.h"

namespace lorad::bench {

// Adapters 0, 1, 2, ... of all linears of a model, alpha twice the rank. Each is a function of
// (rank, seed, number): numbers of one block of N(0, 0.01^2), copied module by module from random
// places of it, which takes about as long as reading a file that the system holds in memory.
// Thread-safe.
class RandomAdapters {
 public:
  RandomAdapters(const ModelConfig& model, int32_t rank, uint64_t seed);

  HostAdapter Make(int64_t number) const;
  // What AdapterStore knows adapter `number` by, in place of a directory.
  static std::string Name(int64_t number);
  // Make for Name(number); kNotFound for another name. Refers to *this.
  AdapterReader Reader() const;

 private:
  void Fill(std::vector<float>& values, int64_t number, uint32_t index) const;

  const ModelConfig model_;
  const int32_t rank_;
  const uint64_t seed_;
  std::vector<float> block_;
};

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_RANDOM_ADAPTERS_H_
