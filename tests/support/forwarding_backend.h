// Another backend, for a test that changes a part of it.
#ifndef LORAD_TESTS_SUPPORT_FORWARDING_BACKEND_H_
#define LORAD_TESTS_SUPPORT_FORWARDING_BACKEND_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "engine/device/backend.h"

namespace lorad {

class ForwardingBackend : public Backend {
 public:
  explicit ForwardingBackend(std::unique_ptr<Backend> base) : base_(std::move(base)) {}

  const DeviceInfo& info() const override { return base_->info(); }
  DType activation_dtype() const override { return base_->activation_dtype(); }
  DType adapter_dtype() const override { return base_->adapter_dtype(); }
  Allocator& allocator() override { return base_->allocator(); }
  absl::StatusOr<std::unique_ptr<Event>> CreateEvent() override { return base_->CreateEvent(); }
  absl::Status Copy(void* to, const void* from, int64_t bytes, Stream& stream) override {
    return base_->Copy(to, from, bytes, stream);
  }
  absl::Status Zero(void* data, int64_t bytes, Stream& stream) override {
    return base_->Zero(data, bytes, stream);
  }
  Ops& ops() override { return base_->ops(); }
  absl::StatusOr<std::unique_ptr<Graph>> Record(Stream& stream,
                                                absl::FunctionRef<absl::Status()> queue) override {
    return base_->Record(stream, queue);
  }

 protected:
  absl::StatusOr<std::unique_ptr<Stream>> MakeStream(StreamPriority priority) override {
    return base_->CreateStream(priority);
  }
  Backend& base() { return *base_; }

 private:
  const std::unique_ptr<Backend> base_;
};

}  // namespace lorad

#endif  // LORAD_TESTS_SUPPORT_FORWARDING_BACKEND_H_
