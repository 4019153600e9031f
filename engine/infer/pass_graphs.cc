#include "engine/infer/pass_graphs.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/status/statusor.h"

namespace lorad {

absl::Status PassGraphs::Run(const PassKey& key, absl::FunctionRef<absl::Status()> queue) {
  uses_ = key == last_ ? uses_ + 1 : 1;
  if (uses_ == 1) last_ = key;
  ++clock_;
  if (const auto found = graphs_.find(key); found != graphs_.end()) {
    found->second.last_use = clock_;
    return found->second.graph->Launch(stream_);
  }
  Graph* const graph = uses_ >= kUses && !cannot_record_ ? Record(key, queue) : nullptr;
  return graph != nullptr ? graph->Launch(stream_) : queue();
}

Graph* PassGraphs::Record(const PassKey& key, absl::FunctionRef<absl::Status()> queue) {
  absl::StatusOr<std::unique_ptr<Graph>> graph = backend_.Record(stream_, queue);
  if (!graph.ok()) {
    cannot_record_ = true;  // nor can the next one be
    if (!absl::IsUnimplemented(graph.status())) {
      std::fprintf(stderr, "decoding goes on without graphs: %s\n",
                   graph.status().ToString().c_str());
    }
    return nullptr;
  }
  if (graphs_.size() == kMost) {
    graphs_.erase(std::min_element(
        graphs_.begin(), graphs_.end(),
        [](const auto& a, const auto& b) { return a.second.last_use < b.second.last_use; }));
  }
  Recorded& recorded = graphs_[key];
  recorded = {*std::move(graph), clock_};
  return recorded.graph.get();
}

}  // namespace lorad
