// Collectives in phases: the messages of one, local work when all of them are through, the messages of the next.
#include <bit>
#include <cstring>

#include "base/check.h"
#include "comm/collective_way.h"
#include "comm/sums.h"

namespace conclave {
namespace {

class CollectivePhases final : public CollectiveWay {
 public:
  explicit CollectivePhases(OperationMessages* messages) : messages_(*messages), set_(messages->NewSet(MessageUse::kUsual)) {}

  bool PostsLater() const override { return op().kind == CollectiveKind::kBroadcast || op().kind == CollectiveKind::kBarrier; }

  absl::StatusOr<bool> Launch() override {
    phase_ = 0;
    return PostPhases();
  }

  absl::StatusOr<bool> Advance() override {
    ASSIGN_OR_RETURN(const bool arrived, set_->TestAll());
    return arrived ? PostPhases() : false;
  }

  void Cancel() override { set_->Cancel(); }

 private:
  const Collective& op() const { return messages_.op(); }
  absl::Status Send(int peer, std::span<const std::byte> data) { return messages_.Send(*set_, peer, data); }
  absl::Status Receive(int peer, std::span<std::byte> data) { return messages_.Receive(*set_, peer, data); }

  // Posts phases until one has messages in flight, or none is left.
  absl::StatusOr<bool> PostPhases() {
    for (;;) {
      ASSIGN_OR_RETURN(const bool more, Post(phase_++));
      if (!more) return true;
      ASSIGN_OR_RETURN(const bool arrived, set_->TestAll());
      if (!arrived) return false;
    }
  }

  // Does the local work before the phase and posts its messages; false when there is no such phase.
  absl::StatusOr<bool> Post(int phase) {
    switch (op().kind) {
      case CollectiveKind::kAllReduce:
        return PostAllReduce(phase);
      case CollectiveKind::kReduceScatter:
        return PostReduceScatter(phase);
      case CollectiveKind::kAllGather:
        return PostAllGather(phase);
      case CollectiveKind::kBroadcast:
        return PostBroadcast(phase);
      case CollectiveKind::kBarrier:
        return PostBarrier(phase);
      case CollectiveKind::kSend:
        if (phase == 0) RETURN_IF_ERROR(Send(op().peer, op().send.AsBytes()));
        return phase == 0;
      case CollectiveKind::kRecv:
        if (phase == 0) RETURN_IF_ERROR(Receive(op().peer, op().recv.AsBytes()));
        return phase == 0;
      case CollectiveKind::kAllToAllV:
        break;
    }
    return Internal("%s has no phases", NameOf(op().kind));
  }

  absl::StatusOr<bool> PostAllGather(int phase) {
    if (phase > 0) return false;
    const int me = messages_.rank(), size = messages_.size();
    const int64_t bytes = op().send.bytes();
    CHECK_EQ(op().recv.bytes(), bytes * size) << op().label;
    const std::span<std::byte> all = op().recv.AsBytes();
    for (int hop = 1; hop < size; ++hop) {
      const int from = (me + size - hop) % size;
      RETURN_IF_ERROR(Receive(from, all.subspan(from * bytes, bytes)));
    }
    for (int hop = 1; hop < size; ++hop) RETURN_IF_ERROR(Send((me + hop) % size, op().send.AsBytes()));
    messages_.CopyToSelf(op().send.AsBytes().data(), all.data() + me * bytes, bytes);
    return true;
  }

  absl::StatusOr<bool> PostReduceScatter(int phase) {
    const int me = messages_.rank(), size = messages_.size();
    const int64_t bytes = op().recv.bytes();
    CHECK_EQ(op().send.bytes(), bytes * size) << op().label;
    const std::span<std::byte> mine = op().send.AsBytes().subspan(me * bytes, bytes);
    if (phase == 0) {
      RETURN_IF_ERROR(ReceiveParts(bytes));
      for (int hop = 1; hop < size; ++hop) {
        const int to = (me + hop) % size;
        RETURN_IF_ERROR(Send(to, op().send.AsBytes().subspan(to * bytes, bytes)));
      }
      return true;
    }
    if (phase == 1) AddInRankOrder(mine.data(), op().recv.AsBytes().data(), op().recv.elements());
    return false;
  }

  // Of a short vector: everyone adds everything.
  absl::StatusOr<bool> PostAllReduce(int phase) {
    const int me = messages_.rank(), size = messages_.size();
    const std::span<std::byte> data = op().recv.AsBytes();
    if (size == 1) return false;
    if (phase == 0) {
      RETURN_IF_ERROR(ReceiveParts(static_cast<int64_t>(data.size())));
      for (int hop = 1; hop < size; ++hop) RETURN_IF_ERROR(Send((me + hop) % size, data));
      return true;
    }
    AddInRankOrder(data.data(), data.data(), op().recv.elements());
    return false;
  }

  absl::StatusOr<bool> PostBroadcast(int phase) {
    const int size = messages_.size(), root = op().peer;
    const int place = (messages_.rank() - root + size) % size;  // 0: the root
    // A place's parent clears its lowest bit; its children set one bit below that.
    const int reach = place == 0 ? static_cast<int>(std::bit_ceil(static_cast<unsigned>(size))) : place & -place;
    if (phase == 0) {
      if (place != 0) RETURN_IF_ERROR(Receive((place - reach + root) % size, op().recv.AsBytes()));
      return true;
    }
    if (phase > 1) return false;
    for (int bit = reach / 2; bit > 0; bit /= 2) {
      if (place + bit < size) RETURN_IF_ERROR(Send((place + bit + root) % size, op().recv.AsBytes()));
    }
    return true;
  }

  // Dissemination: after phase k everyone has heard of 2^(k+1) ranks.
  absl::StatusOr<bool> PostBarrier(int phase) {
    const int me = messages_.rank(), size = messages_.size();
    if (phase > 30 || (1 << phase) >= size) return false;
    const int distance = 1 << phase;
    RETURN_IF_ERROR(Receive((me + size - distance) % size, {&token_in_, 1}));
    RETURN_IF_ERROR(Send((me + distance) % size, {&token_out_, 1}));
    return true;
  }

  // Receives `bytes` from each other rank into its place of parts_.
  absl::Status ReceiveParts(int64_t bytes) {
    const int me = messages_.rank(), size = messages_.size();
    parts_ = messages_.Scratch(bytes * size);
    for (int hop = 1; hop < size; ++hop) {
      const int from = (me + size - hop) % size;
      RETURN_IF_ERROR(Receive(from, {parts_ + from * bytes, static_cast<size_t>(bytes)}));
    }
    return absl::OkStatus();
  }

  // result = part of rank 0 + part of rank 1 + ...; mine: this rank's part, may be the result; the others' are in parts_.
  void AddInRankOrder(const std::byte* mine, std::byte* result, int64_t elements) {
    const DType dtype = op().recv.dtype();
    const int64_t bytes = elements * SizeOf(dtype);
    const int me = messages_.rank(), size = messages_.size();
    if (bytes == 0) return;
    if (size == 1) {
      if (mine != result) std::memcpy(result, mine, bytes);
      return;
    }
    std::byte* const sum = parts_;
    if (me == 0) std::memcpy(sum, mine, bytes);
    for (int r = 1; r < size; ++r) ReduceInto(dtype, op().op, r == me ? mine : parts_ + r * bytes, sum, elements);
    std::memcpy(result, sum, bytes);
  }

  OperationMessages& messages_;
  std::unique_ptr<MessageSet> set_;
  int phase_ = 0;
  std::byte* parts_ = nullptr;  // what ReceiveParts receives
  std::byte token_in_{}, token_out_{};
};

}  // namespace

std::unique_ptr<CollectiveWay> NewCollectivePhases(OperationMessages* messages) { return std::make_unique<CollectivePhases>(messages); }

}  // namespace conclave
