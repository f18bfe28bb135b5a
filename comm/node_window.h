// Memory that the members of a group on one node share, and the lanes of messages in it.
#ifndef CONCLAVE_COMM_NODE_WINDOW_H_
#define CONCLAVE_COMM_NODE_WINDOW_H_

#include <mpi.h>

#include <algorithm>
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
  RingLane& lane(int stream) {
    expected_[stream] = true;
    return *lanes_[stream];
  }
  // The lanes of the first so many streams will be asked for.
  void Expect(int streams) { std::fill_n(expected_.begin(), streams, true); }
  // What this member writes to in lanes that were or will be asked for, once every ring has gone round.
  int64_t expected_bytes() const { return bytes_of_lane_ * std::count(expected_.begin(), expected_.end(), true); }
  // Likewise; null where the system keeps members from reading each other's memory.
  DirectSums* direct_sums(int stream) { return direct_sums_[stream].get(); }

 private:
  NodeWindow(std::byte* memory, int members);

  std::byte* const memory_;
  const int64_t bytes_, bytes_of_lane_;  // bytes_of_lane_: one member's rings
  std::array<bool, kStreams> expected_{};
  std::array<std::unique_ptr<RingLane>, kStreams> lanes_;
  std::array<std::unique_ptr<DirectSums>, kStreams> direct_sums_;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_NODE_WINDOW_H_
