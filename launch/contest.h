// Contest: races of several experiments over the same seeds, each tuned on a grid of its own.
#ifndef CONCLAVE_LAUNCH_CONTEST_H_
#define CONCLAVE_LAUNCH_CONTEST_H_

#include <string>
#include <string_view>
#include <vector>

#include "trainer/race.h"

namespace conclave {

// One setting with the values it may take: "PATH=V1,V2,...". In a path, `*` stands for the member that a oneof has set
// (optim.*.gamma: of whatever scheme the config names). Commas inside braces, brackets and quotes do not separate. A value LOW..HIGH/N
// stands for N values from LOW to HIGH in equal ratios.
struct GridAxis {
  std::string path;
  std::vector<std::string> values;
};
absl::StatusOr<GridAxis> ParseGridAxis(std::string_view text);

// `path` with its `*` resolved; "" where the config has no such field.
std::string ResolvePath(const Experiment& config, std::string_view path);

struct Entrant {
  std::string name;
  std::string config_path;
  std::vector<std::string> overrides;
};

struct ContestOptions {
  RaceOptions race;
  std::vector<GridAxis> tuned;  // axes that a config lacks are left out for it
  int seeds = 5;                // 1, 2, ...: of problem and method
  int tuning_seeds = 5;         // the first so many decide on the settings
  int ranks = 1;                // threads
};

struct EntrantResult {
  std::string name;
  std::vector<std::string> settings;  // the chosen ones: "path=value"
  bool at_edge = false;               // one of them is the first or the last of its axis
  int candidates = 1;                 // grid points tried
  std::vector<RaceResult> races;      // by seed
  bool exact = false;                 // nothing lossy travels: a baseline
  bool alone = false;                 // every worker had a rank of its own, so that seconds and bytes are of the same one
  int reached() const;
  // Median over seeds; infinite where fewer than half of them reached the target.
  double Median(double RaceCosts::*cost) const;
  double MedianTime() const;  // seconds
};

// Every grid point races on the tuning seeds, and is given up once it costs more in sum than the best so far; the cheapest by
// `options.race.budgeted` then races on all seeds. A point that misses the target on one of its seeds is never chosen, unless all do.
// Errors: those of the configs and of RunRace.
absl::StatusOr<EntrantResult> RunEntrant(const Entrant& entrant, const ContestOptions& options);

// Median over seeds of baseline cost / entrant cost, seed by seed; 0 where too few of either reached the target.
double MedianGain(const EntrantResult& baseline, const EntrantResult& entrant, double RaceCosts::*cost);

}  // namespace conclave

#endif  // CONCLAVE_LAUNCH_CONTEST_H_
