#include "client/cli/in_order.h"

#include <algorithm>
#include <atomic>
#include <future>
#include <thread>
#include <vector>

namespace lorad::client::cli {

absl::Status RunInOrder(size_t count, size_t parallel,
                        const std::function<absl::StatusOr<std::string>(size_t)>& work,
                        const std::function<void(const std::string&)>& print,
                        const std::function<void()>& abandon) {
  std::vector<std::promise<absl::StatusOr<std::string>>> answers(count);
  std::atomic<size_t> next = 0;
  std::vector<std::thread> threads;
  for (size_t i = 0; i < std::min(count, parallel); ++i) {
    threads.emplace_back([&] {
      for (size_t mine = next++; mine < count; mine = next++) answers[mine].set_value(work(mine));
    });
  }
  absl::Status status;
  for (size_t i = 0; i < count && status.ok(); ++i) {
    const absl::StatusOr<std::string> answer = answers[i].get_future().get();
    status = answer.status();
    if (status.ok()) print(*answer);
  }
  if (!status.ok()) {
    next = count;
    abandon();
  }
  for (std::thread& thread : threads) thread.join();
  return status;
}

}  // namespace lorad::client::cli
