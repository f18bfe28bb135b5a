// Measuring: medians and spread over repeated runs, and how results are printed.
#ifndef CONCLAVE_BENCH_MEASURE_H_
#define CONCLAVE_BENCH_MEASURE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace conclave {

// Seconds of one call. `low` and `high` are the quartiles of the samples.
struct Timing {
  double median = 0, low = 0, high = 0;
  int samples = 0;
};

// Quartiles by linear interpolation between order statistics. `seconds` must not be empty.
Timing TimingOf(std::vector<double> seconds);

struct MeasureOptions {
  int samples = 9;
  double sample_seconds = 0.02;  // a sample repeats the call until it takes about so long
};

// Both clocks: what waiting for other processes of the machine costs is in `wall` alone.
struct Moment {
  double wall = 0;  // seconds, monotonic
  double cpu = 0;   // seconds that this thread has run
  static Moment Now();
  Moment operator-(const Moment& earlier) const { return {wall - earlier.wall, cpu - earlier.cpu}; }
  Moment& operator+=(const Moment& more) {
    wall += more.wall;
    cpu += more.cpu;
    return *this;
  }
};

// Calls `body` once to warm up, once to find how often a sample repeats it, then samples it.
Timing Measure(const std::function<void()>& body, const MeasureOptions& options = {});

struct BenchResult {
  std::string name;
  std::string unit;  // of the rate: "GFLOP/s", "GB/s", "tokens/s"
  double work = 0;   // what one call does, in the rate's unit times seconds
  Timing seconds;
  std::vector<std::pair<std::string, double>> facts;  // further numbers, by name

  double Rate() const { return work / seconds.median; }
};

// memcpy between two buffers of `bytes` each, read and written bytes both counted, in GB/s: what memory-bound work is compared with.
BenchResult MeasureCopy(int64_t bytes);

struct BenchReport {
  std::string bench;  // "kernels"
  int ranks = 1;
  std::vector<BenchResult> results;
};

// A table: name, median rate, quartiles of the rate, median time, facts.
std::string RenderTable(const BenchReport& report);
// One JSON object on one line; rates as in the table, seconds as measured.
std::string RenderJson(const BenchReport& report);

}  // namespace conclave

#endif  // CONCLAVE_BENCH_MEASURE_H_
