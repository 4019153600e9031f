// What a job brings from the device to the host, and from there to disk and into service.
#ifndef LORAD_ENGINE_TRAIN_JOB_KEEPER_H_
#define LORAD_ENGINE_TRAIN_JOB_KEEPER_H_

#include <atomic>
#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/device/backend.h"
#include "engine/lora/adapter.h"
#include "engine/train/adapter_snapshot.h"
#include "engine/train/checkpoint.h"
#include "engine/train/job_setup.h"
#include "engine/train/sliced_job.h"
#include "engine/train/spec.h"
#include "engine/train/trainable_adapter.h"

namespace lorad {

// The engine thread queues copies and asks for results; hashing, converting and writing run on
// threads of their own, so that serving waits for no disk. One snapshot at a time is copied, one
// checkpoint at a time is written. Thread-compatible: engine thread.
class JobKeeper {
 public:
  // What a snapshot is taken for.
  enum class Purpose : uint8_t {
    kBest,        // the adapter with the lowest eval loss so far
    kCheckpoint,  // all that a resume needs
    kResult,      // the adapter that the job returns, where no evaluation chose one
  };

  // `setup`, `adapter` and `backend` are not owned. `publish` may be empty.
  static absl::StatusOr<std::unique_ptr<JobKeeper>> Create(const JobSetup& setup,
                                                           const TrainableAdapter& adapter,
                                                           Backend& backend,
                                                           PublishAdapter publish);
  // Waits for what is being written. REQUIRES: the stream of Begin is synchronised.
  ~JobKeeper() = default;
  JobKeeper(const JobKeeper&) = delete;
  JobKeeper& operator=(const JobKeeper&) = delete;

  // From a checkpoint.
  void RestoreBest(HostAdapter best);
  bool has_best() const { return best_.valid(); }

  // Nobody reads the last snapshot any more; for kCheckpoint, also: the last one was taken by
  // TakeCheckpoint; for kResult, the last publication by TakePublication.
  bool CanBegin(Purpose purpose) const;
  // Queues the copies. REQUIRES: CanBegin(purpose).
  absl::Status Begin(Purpose purpose, const TrainingProgress& progress, Stream& stream);
  // True once: the copies are done, and their reader has begun.
  absl::StatusOr<bool> SnapshotDone();

  // Begins to put the best adapter, which is that of `step`, into service, if there is a publisher.
  // A snapshot for kResult does that by itself. REQUIRES: has_best() and not publishing().
  void PublishBest(int64_t step);
  // Begins to write the files of the result: the best adapter if there is one, else that of
  // kResult. REQUIRES: has_best(), or a snapshot for kResult is done.
  void WriteResult();

  // What has ended since the last call, once each.
  std::optional<absl::StatusOr<CheckpointReport>> TakeCheckpoint();
  std::optional<absl::StatusOr<PublicationReport>> TakePublication();
  std::optional<absl::StatusOr<std::string>> TakeResult();  // id of the adapter in output_dir
  bool writing() const { return checkpoint_.valid(); }
  bool publishing() const { return publication_.valid(); }
  // Any of this is under way, or was not taken.
  bool busy() const;
  // Takes a snapshot whose copies are done and a result that has ended, unread.
  void DiscardEnded();

 private:
  using SharedAdapter = std::shared_future<std::shared_ptr<const HostAdapter>>;

  JobKeeper(const JobSetup& setup, PublishAdapter publish)
      : setup_(setup), publish_(std::move(publish)) {}

  template <typename Work>
  auto Read(Work work);
  absl::StatusOr<PublicationReport> Publish(absl::Span<const AdapterModuleView> modules,
                                            PublicationReport report, absl::Time began) const;
  void PublishSnapshot();

  const JobSetup& setup_;
  const PublishAdapter publish_;
  std::unique_ptr<AdapterSnapshot> snapshot_;
  std::atomic<int> readers_{0};  // of the snapshot
  bool copying_ = false;
  Purpose purpose_ = Purpose::kBest;
  TrainingProgress progress_;  // of the snapshot
  absl::Time began_;

  // Of the last snapshot that was published; what is copied of one for its files waits for it, for
  // who waits for the adapter waits for the host's cores and memory.
  std::shared_ptr<absl::Notification> published_;

  // After what their threads use: a future waits for its thread when it goes.
  SharedAdapter best_, last_;
  std::future<absl::StatusOr<CheckpointReport>> checkpoint_;
  std::future<absl::StatusOr<PublicationReport>> publication_;
  bool final_begun_ = false;  // no checkpoint is published over the job's result
  std::future<absl::StatusOr<std::string>> result_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_JOB_KEEPER_H_
