#include "client/cli/generate_batches.h"

#include <map>
#include <optional>
#include <utility>

#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

// Of one batch. The contract allows 4096 requests in a message of 8 MiB.
constexpr int kMostRequests = 4096;
constexpr size_t kMostBytes = 4 << 20;

// The answers of one batch, which begins with input `first`.
class InOrderPrinter {
 public:
  InOrderPrinter(Session& session, const std::vector<Input>& inputs, size_t first,
                 const std::function<std::string(const std::vector<Generation>&)>& lines_of)
      : session_(session), inputs_(inputs), first_(first), lines_of_(lines_of) {}

  // False: the end, for the reason of status().
  bool Add(int index, absl::StatusOr<std::vector<Generation>> answers) {
    early_.emplace(index, std::move(answers));
    for (auto it = early_.find(next_); it != early_.end(); it = early_.find(++next_)) {
      status_ = it->second.status();
      if (!status_.ok()) {
        status_ = AtInput(inputs_[first_ + next_], status_);
        return false;
      }
      session_.out() << lines_of_(*it->second) << std::endl;
      early_.erase(it);
    }
    return session_.out().good();
  }
  const absl::Status& status() const { return status_; }

 private:
  Session& session_;
  const std::vector<Input>& inputs_;
  const size_t first_;
  const std::function<std::string(const std::vector<Generation>&)>& lines_of_;
  std::map<int, absl::StatusOr<std::vector<Generation>>> early_;  // before their turn
  int next_ = 0;
  absl::Status status_;
};

}  // namespace

absl::Status GenerateInBatches(
    Session& session, const std::vector<Input>& inputs,
    const std::vector<v1::GenerateRequest>& requests,
    const std::function<std::string(const std::vector<Generation>&)>& lines_of) {
  InferenceClient client(session.connection());
  size_t end = 0;
  while (end < inputs.size()) {
    const size_t first = end;
    v1::GenerateBatchRequest batch;
    size_t bytes = 0;
    while (end < inputs.size() && batch.requests_size() < kMostRequests) {
      bytes += requests[end].ByteSizeLong();
      if (bytes > kMostBytes && batch.requests_size() > 0) break;
      *batch.add_requests() = requests[end++];
    }
    InOrderPrinter printer(session, inputs, first, lines_of);
    const absl::Status status = client.GenerateBatch(
        batch, [&](int index, absl::StatusOr<std::vector<Generation>> answers) {
          return printer.Add(index, std::move(answers));
        });
    RETURN_IF_ERROR(printer.status());
    RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

}  // namespace lorad::client::cli
