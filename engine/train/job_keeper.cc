#include "engine/train/job_keeper.h"

#include <chrono>
#include <cmath>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/core/check.h"
#include "engine/core/status_macros.h"
#include "engine/train/output.h"

namespace lorad {
namespace {

template <typename Future>
bool IsReady(const Future& future) {
  return future.valid() && future.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

template <typename T>
std::optional<T> Take(std::future<T>& future) {
  if (!IsReady(future)) return std::nullopt;
  return future.get();
}

}  // namespace

absl::StatusOr<std::unique_ptr<JobKeeper>> JobKeeper::Create(const JobSetup& setup,
                                                             const TrainableAdapter& adapter,
                                                             Backend& backend,
                                                             PublishAdapter publish) {
  auto keeper = absl::WrapUnique(new JobKeeper(setup, std::move(publish)));
  ASSIGN_OR_RETURN(keeper->snapshot_, AdapterSnapshot::Create(adapter, backend));
  return keeper;
}

void JobKeeper::RestoreBest(HostAdapter best) {
  std::promise<std::shared_ptr<const HostAdapter>> ready;
  ready.set_value(std::make_shared<const HostAdapter>(std::move(best)));
  best_ = ready.get_future().share();
}

bool JobKeeper::CanBegin(Purpose purpose) const {
  if (copying_ || readers_ > 0) return false;
  if (purpose == Purpose::kCheckpoint) return !checkpoint_.valid();
  return purpose != Purpose::kResult || !publication_.valid();
}

absl::Status JobKeeper::Begin(Purpose purpose, const TrainingProgress& progress, Stream& stream) {
  LORAD_CHECK(CanBegin(purpose));
  purpose_ = purpose;
  progress_ = progress;
  began_ = absl::Now();
  RETURN_IF_ERROR(snapshot_->Begin(purpose == Purpose::kCheckpoint, stream));
  copying_ = true;
  return absl::OkStatus();
}

// Runs `work` on a thread of its own; it counts as a reader of the snapshot until it calls what it
// is given, or ends.
template <typename Work>
auto JobKeeper::Read(Work work) {
  ++readers_;
  return std::async(std::launch::async, [this, work = std::move(work)] {
    absl::Cleanup release = [this] { --readers_; };
    return work([&] { std::move(release).Invoke(); });
  });
}

absl::StatusOr<bool> JobKeeper::SnapshotDone() {
  if (!copying_) return false;
  ASSIGN_OR_RETURN(const bool done, snapshot_->Done());
  if (!done) return false;
  copying_ = false;
  if (purpose_ == Purpose::kResult) PublishSnapshot();
  if (purpose_ == Purpose::kCheckpoint) {
    if (setup_.spec.serve_checkpoints && !final_begun_ && !publication_.valid()) PublishSnapshot();
    checkpoint_ = Read([this, progress = progress_, best = best_](const auto& release) {
      TrainingSnapshot state{.progress = progress,
                             .adapter = snapshot_->ToHost(setup_.initial),
                             .moments = snapshot_->Moments(),
                             .best = std::nullopt};
      release();
      if (best.valid()) state.best = *best.get();
      return WriteCheckpoint(setup_.spec.checkpoint_dir, setup_.identity, state);
    });
    return true;
  }
  SharedAdapter& adapter = purpose_ == Purpose::kBest ? best_ : last_;
  adapter = Read([this, published = published_](const auto&) {
              if (published != nullptr) published->WaitForNotification();
              return std::make_shared<const HostAdapter>(snapshot_->ToHost(setup_.initial));
            }).share();
  return true;
}

void JobKeeper::PublishSnapshot() {
  if (publish_ == nullptr) return;
  PublicationReport report;
  report.step = progress_.step;
  report.final = purpose_ == Purpose::kResult;
  if (report.final) final_begun_ = true;
  published_ = std::make_shared<absl::Notification>();
  publication_ = Read([this, report, began = began_, published = published_](const auto&) {
    const absl::Cleanup notify = [&] { published->Notify(); };
    return Publish(snapshot_->Views(setup_.initial), report, began);
  });
}

void JobKeeper::PublishBest(int64_t step) {
  LORAD_CHECK(!publication_.valid());
  final_begun_ = true;
  if (publish_ == nullptr) return;
  PublicationReport report;
  report.step = step;
  report.final = true;
  publication_ = std::async(std::launch::async, [this, report, best = best_, began = absl::Now()] {
    return Publish(Views(*best.get()), report, began);
  });
}

absl::StatusOr<PublicationReport> JobKeeper::Publish(absl::Span<const AdapterModuleView> modules,
                                                     PublicationReport report,
                                                     absl::Time began) const {
  RETURN_IF_ERROR(CheckFinite(modules));
  ASSIGN_OR_RETURN(report.adapter_id, publish_(setup_.initial.config, modules));
  report.seconds = absl::ToDoubleSeconds(absl::Now() - began);
  return report;
}

void JobKeeper::WriteResult() {
  LORAD_CHECK(best_.valid() || last_.valid());
  const SharedAdapter chosen = best_.valid() ? best_ : last_;
  result_ = std::async(std::launch::async, [this, chosen]() -> absl::StatusOr<std::string> {
    const HostAdapter& adapter = *chosen.get();
    RETURN_IF_ERROR(WriteOutput(adapter, setup_.model->config(), setup_.spec.output_dir));
    return AdapterDigest(adapter);
  });
}

std::optional<absl::StatusOr<CheckpointReport>> JobKeeper::TakeCheckpoint() {
  return Take(checkpoint_);
}
std::optional<absl::StatusOr<PublicationReport>> JobKeeper::TakePublication() {
  return Take(publication_);
}
std::optional<absl::StatusOr<std::string>> JobKeeper::TakeResult() { return Take(result_); }

bool JobKeeper::busy() const {
  return copying_ || readers_ > 0 || checkpoint_.valid() || publication_.valid() || result_.valid();
}

void JobKeeper::DiscardEnded() {
  const absl::StatusOr<bool> copied = snapshot_->Done();
  if (!copied.ok() || *copied) copying_ = false;
  (void)TakeResult();
}

}  // namespace lorad
