// A training job as the scheduler sees it: something that is advanced slice by slice.
#ifndef LORAD_ENGINE_TRAIN_SLICED_JOB_H_
#define LORAD_ENGINE_TRAIN_SLICED_JOB_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/lora/adapter.h"
#include "engine/train/slice.h"
#include "engine/train/spec.h"

namespace lorad {

enum class TrainingState {
  kReady,     // created; holds no device memory
  kRunning,   // between two slices
  kFinished,  // OnFinish was called
  kStopped,   // OnStopped was called
  kFailed,    // OnError was called
};

// Takes a trained adapter into service from memory and returns its id. Called from any thread; the
// views are valid during the call.
using PublishAdapter = std::function<absl::StatusOr<std::string>(
    const AdapterConfig& config, absl::Span<const AdapterModuleView> modules)>;

// Slices are queued by Advance() and done by the device later, in order. The caller waits for the
// oldest where it wants the device to have fewer of them, or wants to know its time.
// Thread-compatible.
class SlicedJob {
 public:
  // Slices that are queued and not waited for, at most.
  static constexpr int64_t kMaxQueuedSlices = 16;

  virtual ~SlicedJob() = default;

  // Takes the job's one block of device memory, loads the adapter or the checkpoint to resume, and
  // calls OnStart. An error is returned and also given to OnError; the job is then kFailed.
  // `publish` is called for the finished adapter, from another thread; it may be empty.
  // REQUIRES: the job is kReady.
  virtual absl::Status Start(std::shared_ptr<TrainingSink> sink, PublishAdapter publish) = 0;

  // Queues next_slice() and returns; where Blocks(kind), it waits for the device or works on the
  // host. With kMaxQueuedSlices queued it waits for the oldest first. Errors end the job by
  // OnError. The memory is given back when the job ends. No effect unless kRunning.
  virtual TrainingState Advance() = 0;

  // Copies, files or a publication must be done before there is a next slice: Advance() queues
  // nothing and looks whether they are. It never waits for them; call it again a little later.
  virtual bool waiting() const = 0;

  // What the next Advance() queues. REQUIRES: kRunning and not waiting().
  virtual Slice next_slice() const = 0;

  // Waits until the device has done the oldest slice that was not waited for, and says how long it
  // took there; a device error ends the job by OnError. Zero, at once, unless kRunning, and of a
  // slice that failed. REQUIRES: there is such a slice, or the job is not kRunning.
  virtual absl::Duration AwaitSlice() = 0;

  virtual TrainingState state() const = 0;

  // With `checkpoint`: the running optimiser step is finished, a checkpoint is written (if the spec
  // names a directory), then OnStopped. Without: the next Advance() drops the running step. A later
  // call may turn the first kind into the second.
  virtual void RequestStop(bool checkpoint) = 0;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_SLICED_JOB_H_
