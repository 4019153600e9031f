// A device whose copies take as long as a test wants.
#ifndef LORAD_TESTS_SUPPORT_DEFERRED_BACKEND_H_
#define LORAD_TESTS_SUPPORT_DEFERRED_BACKEND_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/device/backend.h"
#include "tests/support/forwarding_backend.h"

namespace lorad {

// Another backend, with streams whose copies are carried out when Release() says so, in order, as a
// GPU's are at some time. Ops do not run on such streams. Thread-compatible, the allocator apart.
class DeferredBackend final : public ForwardingBackend {
 public:
  explicit DeferredBackend(std::unique_ptr<Backend> base) : ForwardingBackend(std::move(base)) {}

  // Whether streams that are created from now on are deferred.
  void DeferNewStreams(bool defer) { defer_ = defer; }
  // Carries out the next `count` copies.
  void Release(int64_t count) {
    for (; count > 0 && next_ < work_.size(); --count) work_[next_++]();
  }
  void ReleaseAll() { Release(queued() - static_cast<int64_t>(next_)); }
  // While it is set no event is done, whatever its stream.
  void HoldEvents(bool hold) { hold_events_ = hold; }
  // Copies are carried out when somebody asks for the `count`th time from now whether one that is
  // not done is.
  void ReleaseWhenAsked(int count) { asks_ = count; }
  int64_t queued() const { return static_cast<int64_t>(work_.size()); }
  int64_t waiting() const { return queued() - static_cast<int64_t>(next_); }
  // How often somebody has blocked for a deferred stream.
  int waits() const { return waits_; }

  absl::StatusOr<std::unique_ptr<Event>> CreateEvent() override {
    return std::make_unique<DeferredEvent>(*this);
  }
  absl::Status Copy(void* to, const void* from, int64_t bytes, Stream& stream) override {
    if (dynamic_cast<DeferredStream*>(&stream) == nullptr)
      return base().Copy(to, from, bytes, stream);
    work_.push_back([this, to, from, bytes, &stream] {
      (void)base().Copy(to, from, bytes, stream);  // the CPU's cannot fail
    });
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<std::unique_ptr<Stream>> MakeStream(StreamPriority priority) override {
    if (!defer_) return base().CreateStream(priority);
    return std::make_unique<DeferredStream>(*this);
  }

  class DeferredStream final : public Stream {
   public:
    explicit DeferredStream(DeferredBackend& backend) : backend_(backend) {}
    absl::Status Synchronize() override {
      ++backend_.waits_;
      backend_.ReleaseAll();
      return absl::OkStatus();
    }

   private:
    DeferredBackend& backend_;
  };

  class DeferredEvent final : public Event {
   public:
    explicit DeferredEvent(DeferredBackend& backend) : backend_(backend) {}
    absl::Status Record(Stream& stream) override {
      const bool deferred = dynamic_cast<DeferredStream*>(&stream) != nullptr;
      after_ = deferred ? backend_.queued() : 0;
      recorded_ = absl::Now();
      return absl::OkStatus();
    }
    absl::Status Synchronize() override {
      if (Reached()) return absl::OkStatus();
      ++backend_.waits_;
      backend_.Release(after_ - static_cast<int64_t>(backend_.next_));
      return absl::OkStatus();
    }
    absl::StatusOr<absl::Duration> Since(Event& earlier) override {
      return recorded_ - static_cast<DeferredEvent&>(earlier).recorded_;
    }
    absl::Status Wait(Stream&) override {
      backend_.ReleaseAll();
      return absl::OkStatus();
    }
    absl::StatusOr<bool> Done() override {
      if (!Reached() && backend_.asks_ > 0 && --backend_.asks_ == 0) backend_.ReleaseAll();
      return !backend_.hold_events_ && Reached();
    }

   private:
    bool Reached() const { return static_cast<int64_t>(backend_.next_) >= after_; }

    DeferredBackend& backend_;
    int64_t after_ = 0;  // copies that come before it
    absl::Time recorded_ = absl::InfinitePast();
  };

  bool defer_ = false;
  bool hold_events_ = false;
  int asks_ = 0;
  std::vector<std::function<void()>> work_;
  size_t next_ = 0;  // of work_ to be carried out
  int waits_ = 0;
};

}  // namespace lorad

#endif  // LORAD_TESTS_SUPPORT_DEFERRED_BACKEND_H_
