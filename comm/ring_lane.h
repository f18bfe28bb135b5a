// Messages among the members of a group that share memory: a ring for each pair and direction, in which messages follow each other in the
// order of posting. Two copies a message and no call of the system; in a ring that stays in the cache this beats one copy by the kernel.
#ifndef CONCLAVE_COMM_RING_LANE_H_
#define CONCLAVE_COMM_RING_LANE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "comm/message_ring.h"

namespace conclave {

// One member's ends of all rings. Not matched by tag: between two members, messages must be received in the order in which they are sent;
// one whose tag is not the expected one stays where it is, and all behind it. One thread at a time.
class RingLane {
 public:
  // The memory of `members` members, rings of `capacity` bytes (a multiple of kRingLine); on a line of the cache.
  static int64_t Bytes(int members, int64_t capacity);
  // Makes the counts. Once for all members, before any is constructed.
  static void Prepare(std::byte* memory, int members);
  RingLane(std::byte* memory, int member, int members, int64_t capacity);

  // Queues a message of one byte or more. *unfinished counts the caller's messages that are not through: one more now, one less when `data`
  // is free again (sent) or filled (received). Both must stay until then.
  void Send(int peer, int tag, std::span<const std::byte> data, int64_t* unfinished);
  void Receive(int peer, int tag, std::span<std::byte> data, int64_t* unfinished);

  // Moves some of every message whose turn it is. True: something moved. Errors: Internal for a message of another length than expected.
  absl::StatusOr<bool> Move();

  // Drops the caller's messages; *unfinished is 0. What has been sent in part cannot be taken back: where something was dropped, nothing
  // moves in this lane any more.
  void Drop(int64_t* unfinished);

 private:
  // What stands before a message, on a line of its own: then the bytes, up to the end of a line.
  struct Frame {
    int64_t tag = 0, bytes = 0;
  };
  template <typename Byte>
  struct Message {
    Frame frame;
    Byte* data = nullptr;
    int64_t moved = 0;    // bytes of data
    bool framed = false;  // the frame is through
    int64_t* unfinished = nullptr;
  };
  template <typename Byte>
  struct Queue {
    std::vector<Message<Byte>> messages;
    size_t first = 0;  // those before it are through
    bool empty() const { return first == messages.size(); }
    void Add(const Message<Byte>& message);
    void Pop();
    void Drop(const int64_t* unfinished);
  };
  struct Peer {
    RingWriter out;
    RingReader in;
    Queue<const std::byte> sends;
    Queue<std::byte> receives;
  };

  static bool Push(Peer& peer);
  absl::StatusOr<bool> Pull(int index);

  const int member_;
  bool broken_ = false;
  std::vector<Peer> peers_;  // of all members; the own one is idle
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_RING_LANE_H_
