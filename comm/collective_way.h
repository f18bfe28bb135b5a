// The ways of carrying out a collective by messages, and what they share. For comm/message_communicator.cc.
#ifndef CONCLAVE_COMM_COLLECTIVE_WAY_H_
#define CONCLAVE_COMM_COLLECTIVE_WAY_H_

#include <memory>
#include <span>

#include "comm/message_communicator.h"

namespace conclave {

// What a rank's messages of one operation have in common: where they go, their tag, and the books.
class OperationMessages {
 public:
  explicit OperationMessages(MessageCommunicator* comm) : comm_(*comm) {}
  // sequence: number of a collective of all; negative: a send or receive.
  void Begin(const Collective& op, int64_t sequence);

  const Collective& op() const { return op_; }
  int rank() const { return comm_.rank(); }
  int size() const { return comm_.size(); }
  int tag() const { return tag_; }
  bool SharesNode(int peer) const { return comm_.Node(peer) == comm_.Node(rank()); }
  ProgressEngine& engine() const { return *comm_.engine_; }
  std::unique_ptr<MessageSet> NewSet(MessageUse use) const;
  DirectSums* DirectSumsOf(int64_t bytes) const { return comm_.DirectSumsOf(op_.stream, bytes); }

  // Post and book one message; nothing where it is empty or to itself.
  absl::Status Send(MessageSet& messages, int peer, std::span<const std::byte> data);
  absl::Status Receive(MessageSet& messages, int peer, std::span<std::byte> data);
  void BookSend(int peer, int64_t bytes) { BookSend(LinkTo(peer), bytes); }
  void BookReceive(int peer, int64_t bytes) { BookReceive(LinkTo(peer), bytes); }
  // The own part: booked as a message, copied where the places differ.
  void CopyToSelf(const std::byte* from, std::byte* to, int64_t bytes);

  // Memory of the operation, at least so many bytes; what is in it is lost where it has to grow.
  std::byte* Scratch(int64_t bytes);

 private:
  LinkClass LinkTo(int peer) const { return SharesNode(peer) ? LinkClass::kIntraNode : LinkClass::kInterNode; }
  void BookSend(LinkClass link, int64_t bytes);
  void BookReceive(LinkClass link, int64_t bytes);

  MessageCommunicator& comm_;
  Collective op_;
  int tag_ = 0;
  Buffer scratch_;
};

// Carries out one operation at a time.
class CollectiveWay {
 public:
  virtual ~CollectiveWay() = default;
  // Whether Advance may post messages, or Launch posts all that others of the stream could be confused with.
  virtual bool PostsLater() const = 0;
  // Launch posts the operation's first messages, Advance does what can be done since. True: the operation is complete.
  virtual absl::StatusOr<bool> Launch() = 0;
  virtual absl::StatusOr<bool> Advance() = 0;
  virtual void Cancel() = 0;  // forgets all messages, those of a complete operation as well
};

// In phases of messages with local work between them: everything but the next two.
std::unique_ptr<CollectiveWay> NewCollectivePhases(OperationMessages* messages);
// All-to-all-v: posted at once, but for what in the background goes to other nodes; that goes in portions.
std::unique_ptr<CollectiveWay> NewAllToAllPortions(OperationMessages* messages);
// All-reduce of a long vector.
std::unique_ptr<CollectiveWay> NewAllReducePieces(OperationMessages* messages);

}  // namespace conclave

#endif  // CONCLAVE_COMM_COLLECTIVE_WAY_H_
