#include <cstring>

#include "comm/collective_way.h"

namespace conclave {
namespace {

// Number and kind of a collective in one tag: what ranks out of step send each other never matches, so that they wait and the watchdog
// names them, instead of adding up what does not belong together.
int CollectiveTag(const Collective& op, int64_t sequence) {
  constexpr int kNumbers = 1 << 12, kKinds = kCollectiveTags / kNumbers / kStreams;
  uint32_t kind = 2166136261u + static_cast<uint32_t>(op.kind);  // FNV-1a
  for (const char c : op.label) kind = (kind ^ static_cast<unsigned char>(c)) * 16777619u;
  kind ^= kind >> 16;
  return (static_cast<int>(sequence % kNumbers) + kNumbers * static_cast<int>(kind % kKinds)) * kStreams + op.stream;
}

}  // namespace

void OperationMessages::Begin(const Collective& op, int64_t sequence) {
  op_ = op;
  tag_ = sequence < 0 ? kCollectiveTags + op.tag : CollectiveTag(op, sequence);
}

std::unique_ptr<MessageSet> OperationMessages::NewSet(MessageUse use) const {
  std::unique_ptr<MessageSet> set = comm_.NewMessageSet();
  set->UseFor(use);
  return set;
}

absl::Status OperationMessages::Send(MessageSet& messages, int peer, std::span<const std::byte> data) {
  if (data.empty() || peer == rank()) return absl::OkStatus();
  BookSend(peer, static_cast<int64_t>(data.size()));
  return messages.PostSend(peer, tag_, data);
}

absl::Status OperationMessages::Receive(MessageSet& messages, int peer, std::span<std::byte> data) {
  if (data.empty() || peer == rank()) return absl::OkStatus();
  BookReceive(peer, static_cast<int64_t>(data.size()));
  return messages.PostReceive(peer, tag_, data);
}

void OperationMessages::CopyToSelf(const std::byte* from, std::byte* to, int64_t bytes) {
  if (bytes == 0) return;
  BookSend(LinkClass::kSelf, bytes);
  BookReceive(LinkClass::kSelf, bytes);
  if (from != to) std::memcpy(to, from, bytes);
}

std::byte* OperationMessages::Scratch(int64_t bytes) {
  if (scratch_.bytes() < bytes) scratch_ = Buffer(bytes);
  return scratch_.data();
}

void OperationMessages::BookSend(LinkClass link, int64_t bytes) {
  if (comm_.ledger() != nullptr) comm_.ledger()->BookSend(op_.label, op_.kind, link, bytes);
}

void OperationMessages::BookReceive(LinkClass link, int64_t bytes) {
  if (comm_.ledger() != nullptr) comm_.ledger()->BookReceive(op_.label, op_.kind, link, bytes);
}

}  // namespace conclave
