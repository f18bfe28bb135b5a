// Collectives made of point-to-point messages: one algorithm for every transport that can post a send and a receive, so that bits and byte
// counts are equal on all of them. Sent by each of P ranks, for vectors of n bytes (per peer one message; empty messages are not sent):
//
//   all-to-all-v    what the counts say, without the part to itself           broadcast     binomial tree: P - 1 messages of n in all
//   all-gather      (P - 1) n, n the own part                                 barrier       ceil(log2 P) messages of one byte
//   reduce-scatter  n - n / P, parts added by their receiver in rank order    send, recv    n
//   all-reduce      (P - 1) n up to kSmallAllReduceBytes (everyone adds everything), else in pieces of 512 KiB, each of them reduced and
//                   gathered in parts [p i / P, p (i + 1) / P) of its p elements: about 2 n (P - 1) / P
#ifndef CONCLAVE_COMM_MESSAGE_COMMUNICATOR_H_
#define CONCLAVE_COMM_MESSAGE_COMMUNICATOR_H_

#include <array>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "comm/ledger.h"
#include "comm/progress_engine.h"

namespace conclave {

inline constexpr int64_t kSmallAllReduceBytes = 16 << 10;
// Collectives use tags below this, tag % kStreams is the stream; sends and receives those above.
inline constexpr int kCollectiveTags = 1 << 20;

// What messages are parts of: of an all-reduce that all ranks are at, of an operation in the background, or of anything else.
enum class MessageUse { kUsual, kPieces, kBackground };

// Messages in flight of one operation. Between two ranks, messages of one tag arrive in the order of their posting.
class MessageSet {
 public:
  virtual ~MessageSet() = default;
  // Of what is posted from now on; kUsual before the first call. Both ends of a message say the same.
  virtual void UseFor(MessageUse) {}
  virtual absl::Status PostSend(int peer, int tag, std::span<const std::byte> data) = 0;
  virtual absl::Status PostReceive(int peer, int tag, std::span<std::byte> data) = 0;
  virtual absl::StatusOr<bool> TestAll() = 0;  // true: all are complete; the set is empty again
  virtual void Cancel() = 0;                   // forgets what is not complete: no buffer is touched after the call
};

class DirectSums;
class MessageOperation;
class OperationMessages;

class MessageCommunicator : public Communicator {
 public:
  ~MessageCommunicator() override;
  void Reserve(int more, int streams) override;

 protected:
  MessageCommunicator(std::string name, int rank, int size, std::shared_ptr<ProgressEngine> engine);
  virtual std::unique_ptr<MessageSet> NewMessageSet() = 0;
  // Whether messages of collectives may find their receivers by order alone. A collective is then posted only when those that were started
  // before it in its stream have posted all their messages.
  virtual bool MessagesKeepOrder() const { return false; }
  // Collectives of the first so many streams are to come. With the engine's mutex.
  virtual void ReserveStreams(int) {}
  // For an all-reduce of so many bytes whose turn it is; null: it goes by messages.
  virtual DirectSums* DirectSumsOf(int, int64_t) { return nullptr; }
  absl::StatusOr<Request> StartImpl(const Collective& op, int64_t sequence) override;
  const std::shared_ptr<ProgressEngine>& engine() const { return engine_; }

 private:
  friend class MessageOperation;
  friend class OperationMessages;
  void AddOperations(int more);  // with the engine's mutex

  std::shared_ptr<ProgressEngine> engine_;
  std::vector<std::unique_ptr<MessageOperation>> operations_;
  std::vector<MessageOperation*> idle_;
  std::array<std::vector<MessageOperation*>, kStreams> turns_;  // that may still post something, in the order of starting
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_MESSAGE_COMMUNICATOR_H_
