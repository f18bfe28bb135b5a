// Memory that the members of a group on one node share, and the lanes of messages in it.
#ifndef CONCLAVE_COMM_NODE_WINDOW_H_
#define CONCLAVE_COMM_NODE_WINDOW_H_

#include <mpi.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/status.h"
#include "comm/communicator.h"
#include "comm/direct_sums.h"
#include "comm/ring_lane.h"

namespace conclave {

class NodeWindow {
 public:
  // Collective over `comm`, whose members are all on this node. Null on all of them where there is no more than one, where they are so many
  // that rings would be short, or where the system keeps them from sharing memory. A member writes to rings of 1 MiB in each lane, at most
  // 256 KiB for one peer; pages that are never used cost nothing. Errors: Unavailable when MPI fails.
  static absl::StatusOr<std::unique_ptr<NodeWindow>> Open(MPI_Comm comm);
  ~NodeWindow();
  NodeWindow(const NodeWindow&) = delete;
  NodeWindow& operator=(const NodeWindow&) = delete;

  // For the collectives of a stream.
  RingLane& lane(int stream) { return *lanes_[stream]; }
  // Likewise; null where the system keeps members from reading each other's memory.
  DirectSums* direct_sums(int stream) { return direct_sums_[stream].get(); }

 private:
  NodeWindow(std::byte* memory, int64_t bytes) : memory_(memory), bytes_(bytes) {}

  std::byte* const memory_;
  const int64_t bytes_;
  std::array<std::unique_ptr<RingLane>, kStreams> lanes_;
  std::array<std::unique_ptr<DirectSums>, kStreams> direct_sums_;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_NODE_WINDOW_H_
