#include "trainer/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>

#include "absl/strings/str_format.h"
#include "base/log.h"
#include "base/strings.h"

namespace conclave {
namespace {

// The bar on the terminal, for the log's call-back, which carries no argument.
std::mutex shown_mutex;
Progress* shown = nullptr;

std::string Percentage(int64_t done, int64_t total) { return total > 0 ? absl::StrFormat("%3d%%", done * 100 / total) : "  ?%"; }

std::string RemainingTime(int64_t left, double rate) { return rate > 0 ? HumanDuration(static_cast<double>(left) / rate) : "?"; }

}  // namespace

ProgressOptions ProgressOptionsFor(ObserveConfig::Progress config, int rank) {
  using Style = ProgressOptions::Style;
  const bool terminal = isatty(STDERR_FILENO) == 1;
  ProgressOptions options;
  if (rank != 0 || config == ObserveConfig::NONE) {
    options.style = Style::kNone;
  } else if (config == ObserveConfig::BAR || (config == ObserveConfig::AUTO && terminal)) {
    options.style = Style::kBar;
  }
  const char* no_color = std::getenv("NO_COLOR");
  options.color = terminal && (no_color == nullptr || *no_color == '\0');
  return options;
}

Progress::Progress(const ProgressOptions& options)
    : options_(options),
      clock_(options.clock != nullptr ? *options.clock : RealClock()),
      out_(options.out != nullptr ? *options.out : std::cerr),
      start_(clock_.Seconds()),
      last_time_(start_),
      last_done_(options.first),
      done_(options.first) {
  if (options_.style != ProgressOptions::Style::kBar) return;
  {
    const std::lock_guard lock(shown_mutex);
    shown = this;
  }
  SetLogInterlude(&Progress::BeforeLogLine);
}

Progress::~Progress() {
  Finish();
  if (options_.style != ProgressOptions::Style::kBar) return;
  SetLogInterlude(nullptr);
  const std::lock_guard lock(shown_mutex);
  shown = nullptr;
}

void Progress::BeforeLogLine() {
  const std::lock_guard lock(shown_mutex);
  if (shown == nullptr) return;
  const std::lock_guard bar_lock(shown->mutex_);
  shown->Clear();
  shown->out_.flush();
}

double Progress::rate() const {
  const std::lock_guard lock(mutex_);
  return rate_;
}

void Progress::Clear() {
  if (shown_ == 0) return;
  out_ << '\r' << std::string(shown_, ' ') << '\r';
  shown_ = 0;
}

std::string Progress::Bar(int64_t done, double now) const {
  const double part = options_.total > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(options_.total), 0.0, 1.0) : 0;
  const auto full = static_cast<size_t>(part * options_.width);
  const std::string bar = std::string(full, '#') + std::string(static_cast<size_t>(options_.width) - full, '.');
  return absl::StrFormat("%s |%s| %d/%d [%s<%s, %.4g %s/s]", Percentage(done, options_.total), bar, done, options_.total,
                         HumanDuration(now - start_), RemainingTime(options_.total - done, rate_), rate_, options_.unit);
}

void Progress::Update(int64_t done, std::string_view text) {
  if (options_.style == ProgressOptions::Style::kNone) {
    const std::lock_guard lock(mutex_);
    done_ = done;
    return;
  }
  std::string line;
  {
    const std::lock_guard lock(mutex_);
    done_ = done;
    last_text_ = text;
    const double now = clock_.Seconds(), passed = now - last_time_;
    const bool bar = options_.style == ProgressOptions::Style::kBar,
               at_line_step = options_.line_steps > 0 && done % options_.line_steps == 0;
    const bool due =
        done == options_.total || (bar ? passed >= options_.bar_seconds : passed >= options_.line_seconds || (at_line_step && passed >= 1));
    if (!due && (drawn_ || done == options_.first)) return;
    if (passed > 0 && done > last_done_) {
      constexpr double kNewest = 0.3;
      const double newest = static_cast<double>(done - last_done_) / passed;
      rate_ = rate_ > 0 ? (1 - kNewest) * rate_ + kNewest * newest : newest;
    }
    last_time_ = now;
    last_done_ = done;
    drawn_ = true;
    if (bar) {
      const std::string drawing = Bar(done, now) + " " + last_text_;
      Clear();
      out_ << (options_.color ? "\033[36m" : "") << drawing << (options_.color ? "\033[0m" : "");
      out_.flush();
      shown_ = drawing.size();
      return;
    }
    line = absl::StrFormat("%s %d/%d (%s), %s, %.4g %s/s, %s left", options_.unit, done, options_.total,
                           std::string(StripWhitespace(Percentage(done, options_.total))), last_text_, rate_, options_.unit,
                           RemainingTime(options_.total - done, rate_));
  }
  LOG_INFO << line;  // without the lock: the log calls back
}

void Progress::Finish() {
  const std::lock_guard lock(mutex_);
  if (finished_ || options_.style != ProgressOptions::Style::kBar) return;
  finished_ = true;
  Clear();
  if (drawn_) out_ << Bar(done_, clock_.Seconds()) << ' ' << last_text_ << '\n';
  out_.flush();
}

}  // namespace conclave
