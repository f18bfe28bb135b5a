// Race: runs an experiment in memory until a measure of its iterate reaches a target, and keeps books on what that cost.
#ifndef CONCLAVE_TRAINER_RACE_H_
#define CONCLAVE_TRAINER_RACE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "base/status.h"
#include "comm/communicator.h"
#include "proto/experiment.pb.h"

namespace conclave {

// What a race is measured by. All are zero at a solution only.
enum class RaceMeasure {
  kDistance,  // ||z - z*||^2, for models that know their solution
  kGap,       // the duality gap, for models that can compute it
  kMapping,   // ||z - prox(z - F(z))||^2, for every model; costs an evaluation that is not booked
};

// What a race may be won by.
enum class RaceCost { kTwoWayBytes, kUplinkBytes, kEvaluations };

struct RaceOptions {
  RaceMeasure measure = RaceMeasure::kDistance;
  double target = 1e-8;                        // of the measure, relative to the starting point's
  int64_t max_evaluations = 1'000'000;         // of a worker
  RaceCost budgeted = RaceCost::kTwoWayBytes;  // what `budget` limits
  double budget = 0;                           // give up where the cost exceeds it; 0: no limit
  int64_t measure_every = 1;                   // steps
};

// Of one worker, from the book of what workers send each other (comm/ledger.h): a mean over all, whatever the ranks. Everything before the
// first step is included. Bytes are payload; what frames messages is counted beside it.
struct RaceCosts {
  double uplink_bytes = 0;   // its own messages, each once
  double two_way_bytes = 0;  // what it sends, copies to other workers and forwarded sums included
  double header_bytes = 0;
  double rounds = 0;       // vectors that it exchanged
  double evaluations = 0;  // of its operator on its full data
  double seconds = 0;      // wall clock of the steps, measuring left out
  double Of(RaceCost cost) const;
};

struct RacePoint {
  RaceCosts costs;
  double measure = 0;  // relative
};

enum class RaceEnd { kReached, kDiverged, kOutOfEvaluations, kOverBudget };
const char* NameOf(RaceEnd end);

struct RaceResult {
  RaceEnd end = RaceEnd::kOutOfEvaluations;
  int64_t steps = 0;
  RaceCosts costs;               // at the end
  double measure = 1;            // at the end, relative
  double physical_bytes = 0;     // sent between ranks, all of them together
  std::vector<RacePoint> curve;  // at most 512 points, the first and the last among them
};

// config: all defaults filled in; its trainer.steps is the length of the schedule only. Collective on `world`; the result is the same on
// every rank but for the seconds. Errors: those of Assemble; InvalidArgument where the model lacks the measure.
absl::StatusOr<RaceResult> RunRace(const Experiment& config, Communicator& world, const FileSystem& files, const RaceOptions& options);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_RACE_H_
