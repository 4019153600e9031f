#include "engine/sched/inbox.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "engine/core/status_macros.h"

namespace lorad {

absl::Status Inbox::CheckOpen() const {
  return closed_ ? absl::UnavailableError(why_closed_) : absl::OkStatus();
}

absl::Status Inbox::CheckRoom(int64_t count) const {
  if (queued_ + count <= max_queued_) return absl::OkStatus();
  if (count == 1) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%d requests are waiting and the queue holds %d; try again later", queued_, max_queued_));
  }
  return absl::ResourceExhaustedError(
      absl::StrFormat("%d requests are waiting and the queue holds %d, so %d more do not fit "
                      "together; try again later, or with fewer",
                      queued_, max_queued_, count));
}

uint64_t Inbox::Add(std::unique_ptr<Sequence> sequence) {
  ++queued_;
  pending_ = true;
  const uint64_t id = next_id_++;
  sequence->id = id;
  mail_.sequences.push_back(std::move(sequence));
  return id;
}

absl::StatusOr<uint64_t> Inbox::Put(std::unique_ptr<Sequence> sequence) {
  absl::MutexLock lock(&mu_);
  RETURN_IF_ERROR(CheckOpen());
  RETURN_IF_ERROR(CheckRoom(1));
  return Add(std::move(sequence));
}

absl::StatusOr<std::vector<uint64_t>> Inbox::PutAll(
    std::vector<std::unique_ptr<Sequence>> sequences) {
  absl::MutexLock lock(&mu_);
  RETURN_IF_ERROR(CheckOpen());
  RETURN_IF_ERROR(CheckRoom(static_cast<int64_t>(sequences.size())));
  std::vector<uint64_t> ids;
  for (auto& sequence : sequences) ids.push_back(Add(std::move(sequence)));
  return ids;
}

absl::Status Inbox::Put(AdapterTask task) {
  absl::MutexLock lock(&mu_);
  RETURN_IF_ERROR(CheckOpen());
  pending_ = true;
  mail_.adapter_tasks.push_back(std::move(task));
  return absl::OkStatus();
}

absl::Status Inbox::Put(TrainingStart start) {
  absl::MutexLock lock(&mu_);
  RETURN_IF_ERROR(CheckOpen());
  pending_ = true;
  mail_.training_starts.push_back(std::move(start));
  return absl::OkStatus();
}

void Inbox::Put(TrainingStop stop) {
  absl::MutexLock lock(&mu_);
  pending_ = true;
  mail_.training_stops.push_back(stop);
}

void Inbox::Cancel(uint64_t sequence) {
  absl::MutexLock lock(&mu_);
  pending_ = true;
  mail_.cancellations.push_back(sequence);
}

void Inbox::Wake() {
  absl::MutexLock lock(&mu_);
  pending_ = true;
}

void Inbox::Close(std::string why) {
  absl::MutexLock lock(&mu_);
  closed_ = true;
  why_closed_ = std::move(why);
  pending_ = true;
}

Mail Inbox::Take() {
  absl::MutexLock lock(&mu_);
  pending_ = false;
  return std::exchange(mail_, {});
}

void Inbox::LeftQueue(int32_t count) {
  absl::MutexLock lock(&mu_);
  queued_ -= count;
}

void Inbox::Wait(absl::Time until) {
  absl::MutexLock lock(&mu_);
  mu_.AwaitWithDeadline(absl::Condition(&pending_), until);
}

int32_t Inbox::queued() const {
  absl::MutexLock lock(&mu_);
  return queued_;
}

bool Inbox::pending() const {
  absl::MutexLock lock(&mu_);
  return pending_;
}

}  // namespace lorad
