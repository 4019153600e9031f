#include "client/cli/progress.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace lorad::client::cli {
namespace {

constexpr size_t kWindow = 20;  // steps that the ETA looks back
constexpr absl::Duration kRedraw = absl::Milliseconds(100);
constexpr int kBarColumns = 24;

}  // namespace

std::string FormatBar(double share, const std::string& details, int width) {
  share = std::clamp(share, 0.0, 1.0);
  const int filled = static_cast<int>(share * kBarColumns);
  std::string bar(filled, '=');
  if (filled < kBarColumns) bar += '>';
  bar.resize(kBarColumns, ' ');
  std::string line = absl::StrFormat("[%s] %3d%%  %s", bar, static_cast<int>(share * 100), details);
  if (static_cast<int>(line.size()) > width) line.resize(std::max(0, width));
  return line;
}

void EtaEstimator::Observe(int64_t step, absl::Time time) {
  if (!window_.empty() && step <= window_.back().first) window_.clear();
  window_.emplace_back(step, time);
  if (window_.size() > kWindow) window_.pop_front();
}

double EtaEstimator::SecondsLeft(int64_t total) const {
  if (window_.size() < 2) return -1;
  const auto& [first_step, first_time] = window_.front();
  const auto& [last_step, last_time] = window_.back();
  const double seconds_per_step =
      absl::ToDoubleSeconds(last_time - first_time) / static_cast<double>(last_step - first_step);
  return std::max(0.0, seconds_per_step * static_cast<double>(total - last_step));
}

ProgressLine::ProgressLine(std::ostream& out, bool terminal, int width)
    : out_(out), terminal_(terminal), width_(width) {}

ProgressLine::~ProgressLine() { Finish(); }

void ProgressLine::Update(double share, const std::string& details) {
  if (!terminal_) return;
  // The last column stays free: a full line would wrap on some terminals.
  bar_ = FormatBar(share, details, width_ - 1);
  stale_ = true;
  if (absl::Now() - last_draw_ >= kRedraw) Draw();
}

void ProgressLine::Print(const std::string& line) {
  Erase();
  out_ << line << '\n';
  if (!bar_.empty()) Draw();
  out_.flush();
}

void ProgressLine::Finish() {
  if (stale_) Draw();
  if (drawn_) out_ << '\n' << std::flush;
  drawn_ = false;
  bar_.clear();
}

void ProgressLine::Draw() {
  out_ << "\r\x1b[K" << bar_ << std::flush;
  drawn_ = true;
  stale_ = false;
  last_draw_ = absl::Now();
}

void ProgressLine::Erase() {
  if (drawn_) out_ << "\r\x1b[K";
  drawn_ = false;
}

}  // namespace lorad::client::cli
