// Several requests at once, answers in the order of the questions.
#ifndef LORAD_CLIENT_CLI_IN_ORDER_H_
#define LORAD_CLIENT_CLI_IN_ORDER_H_

#include <cstddef>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorad::client::cli {

// Calls work(0), ..., work(count - 1) on at most `parallel` threads and, on the caller's thread,
// print(answer) in the order of the numbers, each as soon as it can be. The first error in that
// order ends it: no further work is begun, `abandon` is called to end what runs, and the error is
// returned.
absl::Status RunInOrder(size_t count, size_t parallel,
                        const std::function<absl::StatusOr<std::string>(size_t)>& work,
                        const std::function<void(const std::string&)>& print,
                        const std::function<void()>& abandon);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_IN_ORDER_H_
