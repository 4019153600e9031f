// How far a long task is: a bar on a terminal, plain lines elsewhere.
#ifndef LORAD_CLIENT_CLI_PROGRESS_H_
#define LORAD_CLIENT_CLI_PROGRESS_H_

#include <cstdint>
#include <deque>
#include <ostream>
#include <string>
#include <utility>

#include "absl/time/time.h"

namespace lorad::client::cli {

// "[=====>    ]  52%  104/200  loss 1.234  812 tok/s  ETA 0:42", cut to `width` columns; what
// follows the percentage is `details`. `share` is cut to [0, 1].
std::string FormatBar(double share, const std::string& details, int width);

// Seconds left, from the times of the last steps. Steps that were replayed from a record bear the
// times at which they happened, so a late watcher gets the same estimate.
class EtaEstimator {
 public:
  // Steps that go back (a job that resumed from a checkpoint) start the estimate anew.
  void Observe(int64_t step, absl::Time time);
  // Negative while not known.
  double SecondsLeft(int64_t total) const;

 private:
  std::deque<std::pair<int64_t, absl::Time>> window_;
};

// Writes to one stream; nobody else writes there while a bar stands. Thread-compatible.
class ProgressLine {
 public:
  // `terminal`: a bar that is redrawn, at most ten times a second; else nothing but Print's lines.
  // `width`: columns of the terminal.
  ProgressLine(std::ostream& out, bool terminal, int width);
  ~ProgressLine();

  // Draws the bar. No effect off a terminal.
  void Update(double share, const std::string& details);
  // A whole line; the bar moves below it.
  void Print(const std::string& line);
  // Leaves the bar as it is, drawn to its last state, and ends its line.
  void Finish();

 private:
  void Draw();
  void Erase();

  std::ostream& out_;
  const bool terminal_;
  const int width_;
  std::string bar_;
  bool drawn_ = false;
  bool stale_ = false;
  absl::Time last_draw_ = absl::InfinitePast();
};

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_PROGRESS_H_
