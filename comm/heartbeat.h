// Heartbeats: what each rank last said about itself, in one small file a rank that anyone may read without MPI. From them a hang gets a
// name.
#ifndef CONCLAVE_COMM_HEARTBEAT_H_
#define CONCLAVE_COMM_HEARTBEAT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace conclave {

enum class Phase : int32_t { kInit, kStep, kEvaluate, kCheckpoint };
inline constexpr int kPhases = 4;
const char* NameOf(Phase phase);

// Written as it is, with one pwrite at offset 0; texts are cut to fit and end with a zero byte.
struct Heartbeat {
  uint32_t magic = 0x54424843;  // "CHBT"
  int32_t rank = 0;
  Phase phase = Phase::kInit;
  int32_t waiting = 0;  // 1: inside a wait
  int64_t step = 0;
  int64_t sequence = -1;  // of the collective waited for; -1: a send or receive
  int64_t quiet_ns = 0;   // since the last change of phase, step or wait
  int64_t monotonic_ns = 0;
  int64_t wall_ns = 0;
  int64_t pid = 0;
  char label[48] = {};  // the operation waited for
  char communicator[32] = {};
  char host[64] = {};
};

std::string HeartbeatFile(const std::string& directory, int rank);  // <directory>/rank-<rank>.hb

// Nothing where a rank has written none, or only part of one.
std::vector<std::optional<Heartbeat>> ReadHeartbeats(const std::string& directory, int ranks);

struct Suspect {
  int rank = 0;
  std::string why;
};

// Who holds the job up, as seen by rank `me` that got no further. A silent rank comes first; then one that is busy outside any wait; then
// one that waits for an earlier operation of the same communicator, or for another one under the same number (the minority). Empty: all
// wait for the same.
struct HangView {
  int me = 0;
  int64_t wall_ns = 0;    // now
  int64_t silent_ns = 0;  // a heartbeat older than this: stopped or dead
  int64_t busy_ns = 0;    // a rank outside any wait for longer than this: stuck
};
std::vector<Suspect> FindCulprits(const std::vector<std::optional<Heartbeat>>& ranks, const HangView& view);

// One line about one rank, for the report.
std::string Describe(int rank, const std::optional<Heartbeat>& heartbeat, int64_t wall_ns);

}  // namespace conclave

#endif  // CONCLAVE_COMM_HEARTBEAT_H_
