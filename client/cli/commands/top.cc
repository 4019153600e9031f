#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "client/admin.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/session.h"
#include "client/cli/table.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

double SecondsBetween(const v1::ServerStats& before, const v1::ServerStats& now) {
  return static_cast<double>(now.time().seconds() - before.time().seconds()) +
         1e-9 * (now.time().nanos() - before.time().nanos());
}

std::string Rate(int64_t before, int64_t now, double seconds) {
  if (seconds <= 0) return "-";
  return absl::StrFormat("%.1f/s", static_cast<double>(now - before) / seconds);
}

std::string Requests(const v1::ServerStats& stats) {
  return absl::StrCat(stats.running_requests(), " running, ", stats.queued_requests(), " waiting");
}

// One sample on a screen of its own. `before` is the sample before it, for rates.
std::string Screen(const v1::ServerStats& before, const v1::ServerStats& now) {
  const double seconds = SecondsBetween(before, now);
  std::string job = now.running_job_id().empty() ? "none" : now.running_job_id();
  if (now.queued_jobs() > 0) absl::StrAppend(&job, ", ", now.queued_jobs(), " waiting");
  std::string out = KeyValues({
      {"requests", absl::StrCat(Requests(now), ", ", now.requests_total(), " in all")},
      {"prompt tokens", Rate(before.prompt_tokens_total(), now.prompt_tokens_total(), seconds)},
      {"generated tokens",
       Rate(before.generated_tokens_total(), now.generated_tokens_total(), seconds)},
      {"trained tokens", Rate(before.trained_tokens_total(), now.trained_tokens_total(), seconds)},
      {"job", job},
      {"kv cache", absl::StrCat(now.kv_pages_used(), " of ", now.kv_pages(), " pages of ",
                                now.kv_page_tokens(), " tokens")},
      {"adapters", absl::StrCat(now.adapters_device(), " on the device, ", now.adapters_host(),
                                " in host memory, ", now.adapters_disk(), " on disk")},
  });
  Table memory({"MEMORY", "USED", "PEAK", "LIMIT"});
  for (const v1::MemoryUse& use : now.memory()) {
    memory.Row({use.tag(), FormatBytes(use.used_bytes()), FormatBytes(use.peak_bytes()),
                use.limit_bytes() > 0 ? FormatBytes(use.limit_bytes()) : ""});
  }
  return absl::StrCat(out, "\n", memory.Text());
}

std::string PlainLine(const v1::ServerStats& before, const v1::ServerStats& now) {
  const double seconds = SecondsBetween(before, now);
  return absl::StrCat("requests ", Requests(now), "; generated ",
                      Rate(before.generated_tokens_total(), now.generated_tokens_total(), seconds),
                      "; trained ",
                      Rate(before.trained_tokens_total(), now.trained_tokens_total(), seconds),
                      "; job ", now.running_job_id().empty() ? "none" : now.running_job_id(),
                      "; kv ", now.kv_pages_used(), "/", now.kv_pages());
}

absl::StatusOr<int> RunTop(Session& session, const Arguments& arguments) {
  const int64_t count = arguments.Int("count");
  int64_t seen = 0;
  v1::ServerStats before;
  const absl::Status status =
      AdminClient(session.connection())
          .StreamStats(arguments.Duration("interval", absl::Seconds(1)),
                       [&](const v1::ServerStats& now) {
                         if (seen == 0) before = now;
                         if (session.json()) {
                           session.PrintJson(now);
                         } else if (session.terminal()) {
                           session.out() << "\x1b[H\x1b[2J" << Screen(before, now) << std::flush;
                         } else {
                           session.out() << PlainLine(before, now) << std::endl;
                         }
                         before = now;
                         return session.out().good() && (count == 0 || ++seen < count);
                       });
  if (session.interrupted()) return 0;  // how one leaves it
  RETURN_IF_ERROR(status);
  return 0;
}

}  // namespace

Command TopCommand() {
  return {
      .path = "top",
      .summary = "Shows requests, tokens per second, memory and the running job, live",
      .options = {{"interval", OptionType::kDuration, "TIME", "between samples, 0.1 s to 1 h",
                   "1s"},
                  {"count", OptionType::kInt, "N", "end after so many samples; 0: never", "0"}},
      .examples = {{"loractl top", "Ctrl-C ends it"}, {"loractl top --count=1 --output=json", ""}},
      .run = RunTop};
}

}  // namespace lorad::client::cli
