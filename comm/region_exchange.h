// RegionExchange: every member sends every other a run of bytes. Where sizes are not fixed, each first tells the others how long its runs
// are (8 bytes each).
#ifndef CONCLAVE_COMM_REGION_EXCHANGE_H_
#define CONCLAVE_COMM_REGION_EXCHANGE_H_

#include <string_view>
#include <vector>

#include "base/status.h"
#include "comm/communicator.h"
#include "comm/reduction_tree.h"

namespace conclave {

inline constexpr int64_t kLengthBytes = sizeof(int64_t);

Tensor AllBytes(const Buffer& buffer);  // as u8: what collectives take

class RegionExchange {
 public:
  // By member; own entries are ignored. Where nothing can be sent (0 bytes at most) nothing is, no length either.
  struct Plan {
    std::string_view lengths_label, label;  // literals
    bool fixed_sizes = true;                // all runs are of the largest size
    Tensor send, recv;                      // bytes; they outlive the object
    std::vector<int64_t> send_offsets, send_most, recv_offsets, recv_most;
  };
  RegionExchange() = default;
  RegionExchange(Communicator* group, Plan plan);

  // Before Start: from now on at most so much goes to and comes from `member`, no more than was planned for at first.
  void SetMost(int member, int64_t send, int64_t recv);
  void SetBytes(int member, int64_t bytes) { send_bytes_[static_cast<size_t>(member)] = bytes; }  // before Start; not with fixed sizes
  absl::Status Start();                                                                           // posts lengths, or the runs
  absl::Status Poll();
  absl::Status Post();  // waits for lengths and posts the runs, where that was not done yet. Errors: DataLoss for a length too large
  absl::Status Wait();
  int64_t received(int member) const { return recv_bytes_[static_cast<size_t>(member)]; }  // after Post

 private:
  absl::Status PostRuns();

  Communicator* group_ = nullptr;
  Plan plan_;
  std::vector<int64_t> send_bytes_, recv_bytes_;
  std::vector<int64_t> length_send_, length_recv_, length_offsets_;
  Buffer own_lengths_, lengths_;
  Request request_;
};

// To servers and back: every member sends each server a run for its workers; each server sends all others one run.
struct ServedRuns {
  struct Plan {
    std::vector<TreeNode> workers;                         // by member
    std::vector<int64_t> up_most, down_most;               // by serving member: bytes of one worker's run to it, and of its own run back
    std::string_view lengths_label, up_label, down_label;  // literals
    bool fixed_up = true, fixed_down = true;               // see RegionExchange
  };
  ServedRuns() = default;
  ServedRuns(Communicator* group, const Plan& plan);

  Buffer sent, received, means;                                  // runs to servers, the own one too; from others; back, the own one too
  std::vector<int64_t> sent_start, received_start, means_start;  // by member: where they begin
  RegionExchange up, down;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_REGION_EXCHANGE_H_
