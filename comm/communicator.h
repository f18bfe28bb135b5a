// Communicator: a group of ranks and its collectives. Loopback (ranks as threads of one process), MPI; NCCL where it is built in.
#ifndef CONCLAVE_COMM_COMMUNICATOR_H_
#define CONCLAVE_COMM_COMMUNICATOR_H_

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "tensor/tensor.h"

namespace conclave {

class Ledger;
class Watchdog;

enum class ReduceOp { kSum, kMin, kMax };

enum class CollectiveKind { kAllReduce, kReduceScatter, kAllGather, kAllToAllV, kBroadcast, kSend, kRecv, kBarrier };

// One operation. Buffers, counts and the label must stay alive, buffers untouched, until it is complete. Counts and offsets in bytes.
struct Collective {
  CollectiveKind kind = CollectiveKind::kBarrier;
  std::string_view label;  // a string literal: what it is for; shown by the watchdog and the ledger
  Tensor send;             // all-reduce: unused; broadcast: unused
  Tensor recv;  // all-reduce and broadcast: in place here. reduce-scatter: [elements of send / size]; all-gather: [size * elements of send]
  // all-to-all-v, [size] each; into send and recv. Regions of send may overlap (equal regions: an all-gather of unequal parts).
  std::span<const int64_t> send_bytes, send_offsets, recv_bytes, recv_offsets;
  ReduceOp op = ReduceOp::kSum;
  // Collectives of different streams of a communicator may be started in another order on another rank; within a stream the order counts.
  int stream = 0;
  // All-to-all-v: its messages to other nodes go a little at a time, and give way to operations that are not in the background. Alike on
  // all ranks.
  bool background = false;
  int peer = 0;  // send, recv; broadcast: the root
  int tag = 0;   // send, recv: 0 .. 2^20 - 1
};

// A running operation. Move-only. Dropping one that is not complete is right only where an error ends the job: its messages are withdrawn.
class Request {
 public:
  class Impl {
   public:
    virtual absl::StatusOr<bool> Test() = 0;  // true: complete. Makes progress on all that this rank has in flight
    virtual void Pause(int tries) = 0;        // waits a little, the longer the more `tries` came before, or until something happened
    virtual void Release() = 0;               // gives the object back to its communicator

   protected:
    ~Impl() = default;
  };

  Request() = default;
  explicit Request(Impl* impl) : impl_(impl) {}
  bool active() const { return impl_ != nullptr; }

 private:
  friend class Communicator;
  struct Releaser {
    void operator()(Impl* impl) const { impl->Release(); }
  };
  std::unique_ptr<Impl, Releaser> impl_;
  int64_t sequence_ = -1;
  std::string_view label_;
};

const char* NameOf(CollectiveKind kind);  // "all-reduce", ...

inline constexpr int kStreams = 2;

// Every rank of the group starts the same operations of a stream in the same order (send and recv apart). One thread at a time. Size 1 is
// the identity, not an error. An operation may wait for those started before it in its stream. All waits are watched: a rank that never
// arrives ends the job (comm/watchdog.h). Errors: Unavailable when the transport fails.
class Communicator {
 public:
  virtual ~Communicator() = default;
  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& name() const { return name_; }
  // Global rank (in the world) of a member; and the node it runs on (equal numbers: shared memory).
  virtual int GlobalRank(int member) const = 0;
  virtual int Node(int member) const = 0;

  // Non-blocking forms. Test and Wait make progress on all operations of this rank, on whatever communicator (Open MPI has no progress of
  // its own). After Test gave true or Wait returned, the request is no longer active; Wait on such a request returns at once.
  absl::StatusOr<Request> Start(const Collective& op);
  absl::StatusOr<bool> Test(Request& request);
  absl::Status Wait(Request& request);

  // Blocking forms. Floating-point sums of AllReduce and ReduceScatter are added in rank order: equal bits on every rank, but not across
  // group sizes (see comm/reduction_tree.h).
  absl::Status AllReduce(std::string_view label, const Tensor& data, ReduceOp op);
  absl::Status ReduceScatter(std::string_view label, const Tensor& send, const Tensor& recv, ReduceOp op);
  absl::Status AllGather(std::string_view label, const Tensor& send, const Tensor& recv);
  absl::Status AllToAllV(const Collective& op);
  absl::Status Broadcast(std::string_view label, const Tensor& data, int root);
  absl::Status Send(std::string_view label, const Tensor& data, int peer, int tag);
  absl::Status Recv(std::string_view label, const Tensor& data, int peer, int tag);
  absl::Status Barrier(std::string_view label);

  // Collective. Members with equal color form a group, ordered by (key, rank).
  virtual absl::StatusOr<std::unique_ptr<Communicator>> Split(int color, int key, std::string name) = 0;

  // From now on a thread of its own makes progress on all that this rank has in flight, over all groups, while others compute; it sleeps
  // when nothing is. For transports between processes; others ignore it.
  virtual void StartProgressThread() {}

  // Memory for `more` operations that run beside all others, so that starting them takes none from the heap; they will be of the first
  // `streams` streams.
  virtual void Reserve(int more, int streams) = 0;
  // Bytes that this rank and the others of its node share for messages, over all groups of its world: what it writes to of every stream
  // that was used or reserved. Beside the memory of tensors.
  virtual int64_t NodeMemory() const { return 0; }

  Ledger* ledger() const { return ledger_; }        // may be null
  Watchdog* watchdog() const { return watchdog_; }  // may be null

 protected:
  Communicator(std::string name, int rank, int size) : name_(std::move(name)), rank_(rank), size_(size) {}
  void Attach(Ledger* ledger, Watchdog* watchdog) { ledger_ = ledger, watchdog_ = watchdog; }
  // `sequence`: counts the collectives of the operation's stream; -1 for send and recv.
  virtual absl::StatusOr<Request> StartImpl(const Collective& op, int64_t sequence) = 0;

 private:
  absl::Status Run(const Collective& op);  // starts and waits

  std::string name_;
  int rank_, size_;
  Ledger* ledger_ = nullptr;
  Watchdog* watchdog_ = nullptr;
  std::array<int64_t, kStreams> next_sequence_{};
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_COMMUNICATOR_H_
