// When passes are recorded, and that what is launched is the pass that was asked for.
#include "engine/infer/pass_graphs.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/forwarding_backend.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

// Keeps what it is told in a list: "pass" for one that was queued piece by piece, "graph" for one
// that was launched as a whole.
class RecordingBackend final : public ForwardingBackend {
 public:
  RecordingBackend() : ForwardingBackend(CreateCpuBackend()) {}

  absl::StatusOr<std::unique_ptr<Graph>> Record(Stream&,
                                                absl::FunctionRef<absl::Status()> queue) override {
    ++records;
    if (!record_status.ok()) return record_status;
    recording_ = &recorded_;
    const absl::Status status = queue();
    recording_ = nullptr;
    if (!status.ok()) return status;
    return std::make_unique<ListGraph>(*this, std::exchange(recorded_, {}));
  }

  void Queue(const std::string& what) {
    (recording_ != nullptr ? *recording_ : done).push_back(what);
  }

  std::vector<std::string> done;
  absl::Status record_status;
  int records = 0, graphs = 0;

 private:
  class ListGraph final : public Graph {
   public:
    ListGraph(RecordingBackend& backend, std::vector<std::string> work)
        : backend_(backend), work_(std::move(work)) {
      ++backend_.graphs;
    }
    ~ListGraph() override { --backend_.graphs; }
    absl::Status Launch(Stream&) override {
      for (const std::string& what : work_) backend_.done.push_back("graph " + what);
      return absl::OkStatus();
    }

   private:
    RecordingBackend& backend_;
    const std::vector<std::string> work_;
  };

  std::vector<std::string>* recording_ = nullptr;
  std::vector<std::string> recorded_;
};

class PassGraphsTest : public testing::Test {
 protected:
  PassGraphsTest() {
    auto stream = backend_.CreateStream();
    EXPECT_OK(stream.status());
    stream_ = *std::move(stream);
    graphs_ = std::make_unique<PassGraphs>(backend_, *stream_);
  }
  // How a pass of this key was carried out.
  std::string Run(const PassKey& key) {
    backend_.done.clear();
    EXPECT_OK(graphs_->Run(key, [&] {
      backend_.Queue(std::to_string(key.sequences));
      return absl::OkStatus();
    }));
    EXPECT_EQ(backend_.done.size(), 1u) << "carried out once";
    return backend_.done.empty() ? "" : backend_.done[0];
  }

  RecordingBackend backend_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<PassGraphs> graphs_;
};

TEST_F(PassGraphsTest, WhatComesAgainIsRecorded) {
  const PassKey key = {.sequences = 3, .max_pages = 16, .top = 0, .adapters = {}};
  for (int i = 1; i < PassGraphs::kUses; ++i) EXPECT_EQ(Run(key), "3") << i;
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Run(key), "graph 3");
  EXPECT_EQ(backend_.records, 1);
}

TEST_F(PassGraphsTest, WhatChangesIsNot) {
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(Run({.sequences = 1, .max_pages = 16, .top = 0, .adapters = {}}), "1");
    EXPECT_EQ(Run({.sequences = 2, .max_pages = 16, .top = 0, .adapters = {}}), "2");
  }
  EXPECT_EQ(backend_.records, 0);
}

TEST_F(PassGraphsTest, AnyDifferenceIsAnotherPass) {
  const std::vector<PassKey> keys = {
      {.sequences = 4, .max_pages = 16, .top = 0, .adapters = {}},
      {.sequences = 5, .max_pages = 16, .top = 0, .adapters = {}},
      {.sequences = 4, .max_pages = 32, .top = 0, .adapters = {}},
      {.sequences = 4, .max_pages = 16, .top = 1, .adapters = {}},
      {.sequences = 4, .max_pages = 16, .top = 0, .adapters = {{0, 4, 7}}},
      {.sequences = 4, .max_pages = 16, .top = 0, .adapters = {{0, 4, 8}}},
      {.sequences = 4, .max_pages = 16, .top = 0, .adapters = {{1, 4, 7}}},
      {.sequences = 4, .max_pages = 16, .top = 0, .adapters = {{0, 3, 7}}},
      {.sequences = 4, .max_pages = 16, .top = 0, .adapters = {{0, 3, 7}, {3, 4, 8}}}};
  for (const PassKey& key : keys) {
    for (int i = 0; i < PassGraphs::kUses; ++i) Run(key);
  }
  EXPECT_EQ(backend_.records, static_cast<int>(keys.size()));
  for (const PassKey& key : keys) EXPECT_EQ(Run(key), "graph " + std::to_string(key.sequences));
}

TEST_F(PassGraphsTest, TheLeastRecentlyUsedGoes) {
  const auto key = [](int64_t sequences) {
    return PassKey{.sequences = sequences, .max_pages = 16, .top = 0, .adapters = {}};
  };
  for (int64_t s = 0; s <= static_cast<int64_t>(PassGraphs::kMost); ++s) {
    for (int i = 0; i < PassGraphs::kUses; ++i) Run(key(s));
    EXPECT_EQ(Run(key(0)), "graph 0");  // used all the time
  }
  EXPECT_EQ(graphs_->size(), PassGraphs::kMost);
  EXPECT_EQ(backend_.graphs, static_cast<int>(PassGraphs::kMost));
  EXPECT_EQ(Run(key(1)), "1") << "gone";
  EXPECT_EQ(Run(key(2)), "graph 2");
}

TEST_F(PassGraphsTest, ADeviceThatRecordsNothingIsAskedOnce) {
  backend_.record_status = absl::UnimplementedError("no");
  const PassKey key = {.sequences = 3, .max_pages = 16, .top = 0, .adapters = {}};
  for (int i = 0; i < 3 * PassGraphs::kUses; ++i) EXPECT_EQ(Run(key), "3");
  EXPECT_EQ(backend_.records, 1);
}

TEST_F(PassGraphsTest, AnErrorOfThePassIsReported) {
  const PassKey key = {.sequences = 3, .max_pages = 16, .top = 0, .adapters = {}};
  for (int i = 0; i < 2 * PassGraphs::kUses; ++i) {
    EXPECT_THAT(graphs_->Run(key, [] { return absl::InternalError("lost"); }),
                StatusIs(absl::StatusCode::kInternal, "lost"));
  }
  EXPECT_EQ(graphs_->size(), 0u);
}

}  // namespace
}  // namespace lorad
