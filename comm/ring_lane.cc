#include "comm/ring_lane.h"

#include <algorithm>
#include <memory>
#include <new>

#include "base/check.h"

namespace conclave {
namespace {

constexpr int64_t kChunkBytes = int64_t{32} << 10;  // after so many the other side may see them
constexpr size_t kUsualMessages = 64;

// All counts first, [from][to], then the rings in the same order.
int64_t CountsBytes(int members) { return int64_t{members} * members * static_cast<int64_t>(sizeof(RingCounts)); }

}  // namespace

template <typename Byte>
void RingLane::Queue<Byte>::Add(const Message<Byte>& message) {
  ++*message.unfinished;
  if (messages.size() == messages.capacity()) {  // room that was used is used again
    messages.erase(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(first));
    first = 0;
  }
  messages.push_back(message);
}

template <typename Byte>
void RingLane::Queue<Byte>::Pop() {
  --*messages[first].unfinished;
  if (++first < messages.size()) return;
  messages.clear();
  first = 0;
}

template <typename Byte>
void RingLane::Queue<Byte>::Drop(const int64_t* unfinished) {
  messages.erase(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(first));
  first = 0;
  std::erase_if(messages, [&](const Message<Byte>& message) { return message.unfinished == unfinished; });
}

int64_t RingLane::Bytes(int members, int64_t capacity) { return CountsBytes(members) + int64_t{members} * members * capacity; }

void RingLane::Prepare(std::byte* memory, int members) {
  for (int64_t i = 0; i < int64_t{members} * members; ++i) new (memory + i * static_cast<int64_t>(sizeof(RingCounts))) RingCounts;
}

RingLane::RingLane(std::byte* memory, int member, int members, int64_t capacity) : member_(member) {
  CHECK_EQ(capacity % kRingLine, 0);
  const auto counts = [&](int64_t index) {
    return std::launder(reinterpret_cast<RingCounts*>(memory + index * static_cast<int64_t>(sizeof(RingCounts))));
  };
  const auto data = [&](int64_t index) { return memory + CountsBytes(members) + index * capacity; };
  peers_.reserve(static_cast<size_t>(members));
  for (int64_t peer = 0; peer < members; ++peer) {
    const int64_t out = int64_t{member} * members + peer, in = peer * members + member;
    peers_.push_back({RingWriter(counts(out), data(out), capacity), RingReader(counts(in), data(in), capacity), {}, {}});
    peers_.back().sends.messages.reserve(kUsualMessages);
    peers_.back().receives.messages.reserve(kUsualMessages);
  }
}

void RingLane::Send(int peer, int tag, std::span<const std::byte> data, int64_t* unfinished) {
  CHECK(peer != member_ && !data.empty()) << peer;
  peers_[peer].sends.Add(
      {.frame = {.tag = tag, .bytes = static_cast<int64_t>(data.size())}, .data = data.data(), .unfinished = unfinished});
}

void RingLane::Receive(int peer, int tag, std::span<std::byte> data, int64_t* unfinished) {
  CHECK(peer != member_ && !data.empty()) << peer;
  peers_[peer].receives.Add(
      {.frame = {.tag = tag, .bytes = static_cast<int64_t>(data.size())}, .data = data.data(), .unfinished = unfinished});
}

absl::StatusOr<bool> RingLane::Move() {
  if (broken_) return false;
  const int members = static_cast<int>(peers_.size());
  bool moved = false;
  for (int hop = 1; hop < members; ++hop) {
    moved |= Push(peers_[(member_ + hop) % members]);
    ASSIGN_OR_RETURN(const bool pulled, Pull((member_ + members - hop) % members));
    moved |= pulled;
  }
  return moved;
}

bool RingLane::Push(Peer& peer) {
  if (peer.sends.empty()) return false;
  Message<const std::byte>& message = peer.sends.messages[peer.sends.first];
  int64_t room = peer.out.Room(kRingLine + std::min(message.frame.bytes - message.moved, kChunkBytes));
  if (room == 0) return false;
  if (!message.framed) {
    peer.out.Put(&message.frame, sizeof(Frame));
    peer.out.Align();
    message.framed = true;
    room -= kRingLine;
  }
  const int64_t bytes = std::min({message.frame.bytes - message.moved, kChunkBytes, room});
  peer.out.Put(message.data + message.moved, bytes);
  message.moved += bytes;
  if (message.moved == message.frame.bytes) peer.out.Align();
  peer.out.Publish();
  if (message.moved == message.frame.bytes) peer.sends.Pop();
  return true;
}

absl::StatusOr<bool> RingLane::Pull(int index) {
  Peer& peer = peers_[index];
  if (peer.receives.empty()) return false;
  Message<std::byte>& message = peer.receives.messages[peer.receives.first];
  int64_t ready = peer.in.Ready(kRingLine + std::min(message.frame.bytes - message.moved, kChunkBytes));
  if (ready == 0) return false;
  if (!message.framed) {
    Frame frame;
    peer.in.Peek(&frame, sizeof(Frame));
    if (frame.tag != message.frame.tag) return false;
    if (frame.bytes != message.frame.bytes) {
      return Internal("message of member %d to member %d: expected %d bytes, got %d", index, member_, message.frame.bytes, frame.bytes);
    }
    peer.in.Take(&frame, sizeof(Frame));
    peer.in.Align();
    message.framed = true;
    ready -= kRingLine;
  }
  const int64_t bytes = std::min({message.frame.bytes - message.moved, kChunkBytes, ready});
  peer.in.Take(message.data + message.moved, bytes);
  message.moved += bytes;
  if (message.moved == message.frame.bytes) peer.in.Align();
  peer.in.Release();
  if (message.moved == message.frame.bytes) peer.receives.Pop();
  return true;
}

void RingLane::Drop(int64_t* unfinished) {
  if (*unfinished == 0) return;
  for (Peer& peer : peers_) {
    peer.sends.Drop(unfinished);
    peer.receives.Drop(unfinished);
  }
  broken_ = true;
  *unfinished = 0;
}

}  // namespace conclave
