// Ranks as threads of one process: for tests, and for programs that need no launcher.
#ifndef CONCLAVE_COMM_LOOPBACK_H_
#define CONCLAVE_COMM_LOOPBACK_H_

#include <atomic>
#include <functional>
#include <optional>
#include <vector>

#include "base/status.h"
#include "comm/communicator.h"
#include "comm/watchdog.h"

namespace conclave {

struct LoopbackOptions {
  std::vector<int> nodes;  // the node each rank pretends to run on; empty: all on one
  // Bytes a second that a rank can send to, and as many that it can receive from, ranks of other nodes: a message is there when its last
  // byte has passed both links. 0, or null: at once. It may change while ranks run: what is sent later obeys.
  const std::atomic<double>* link_rate = nullptr;
  int64_t background_bytes = 0;             // how much an operation in the background sends to another node at a time; 0: all
  std::optional<WatchdogOptions> watchdog;  // each rank's; its rank and ranks are filled in. None: no watchdog
};

// Runs fn on `ranks` threads, each with its communicator "world" (with a ledger of its own) and one compute thread. Returns when all are
// done. If one returns an error, the others' operations end with Unavailable and the first error is returned. A rank that waits for one
// which has already returned gets Unavailable too, so a forgotten collective ends a test instead of hanging it. Waiting costs no CPU.
absl::Status RunRanks(int ranks, const std::function<absl::Status(Communicator& world)>& fn, const LoopbackOptions& options = {});

}  // namespace conclave

#endif  // CONCLAVE_COMM_LOOPBACK_H_
