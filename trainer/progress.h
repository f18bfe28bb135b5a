// Progress on rank 0: a bar where stderr is a terminal, else a log line now and then.
#ifndef CONCLAVE_TRAINER_PROGRESS_H_
#define CONCLAVE_TRAINER_PROGRESS_H_

#include <cstdint>
#include <mutex>
#include <ostream>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "proto/telemetry.pb.h"

namespace conclave {

struct ProgressOptions {
  enum class Style { kNone, kBar, kLines };
  Style style = Style::kLines;
  bool color = false;
  std::ostream* out = nullptr;   // where the bar goes; null: std::cerr
  const Clock* clock = nullptr;  // null: RealClock()
  int64_t first = 0;             // steps already done (resumed)
  int64_t total = 0;
  std::string unit = "steps";
  int width = 24;            // characters of the bar
  double bar_seconds = 0.1;  // at most one redraw in so many
  double line_seconds = 10;  // a line at least every so many seconds
  int64_t line_steps = 0;    // and at multiples of this, at most one a second; 0: never
};

// What the config and stderr say: NONE on ranks other than 0. Colour only on a terminal and where NO_COLOR is not set (no-color.org).
ProgressOptions ProgressOptionsFor(ObserveConfig::Progress config, int rank);

// Register at most one bar at a time: it clears itself before any log line. Thread-safe.
class Progress {
 public:
  explicit Progress(const ProgressOptions& options);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` of `total` steps; `text` follows ("loss 2.310"). Cheap where nothing is due.
  void Update(int64_t done, std::string_view text);
  // Draws the last state and ends the bar's line.
  void Finish();
  // Steps a second, an exponential mean (weight 0.3 for the newest) of the rates between drawings; 0 before the second one.
  double rate() const;

 private:
  void Clear();  // with mutex_ held
  std::string Bar(int64_t done, double now) const;
  static void BeforeLogLine();

  const ProgressOptions options_;
  const Clock& clock_;
  std::ostream& out_;
  const double start_;
  mutable std::mutex mutex_;
  double last_time_;
  int64_t last_done_;
  double rate_ = 0;
  size_t shown_ = 0;  // characters on the bar's line
  std::string last_text_;
  int64_t done_;
  bool drawn_ = false, finished_ = false;
};

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_PROGRESS_H_
