// All-to-all-v. In the background, what goes to other nodes goes in portions, each of them when the engine allows it and the one before has
// left: no more than one stands between an operation in front and its connection.
#include <algorithm>
#include <limits>

#include "base/check.h"
#include "comm/collective_way.h"

namespace conclave {
namespace {

class AllToAllPortions final : public CollectiveWay {
 public:
  explicit AllToAllPortions(OperationMessages* messages)
      : messages_(*messages), at_once_(messages->NewSet(MessageUse::kUsual)), fed_(messages->NewSet(MessageUse::kUsual)) {}

  bool PostsLater() const override { return false; }

  absl::StatusOr<bool> Launch() override {
    for (MessageSet* set : {at_once_.get(), fed_.get()}) set->UseFor(op().background ? MessageUse::kBackground : MessageUse::kUsual);
    hop_ = 1, fed_bytes_ = 0;
    RETURN_IF_ERROR(PostAllButPortions());
    return Advance();
  }

  // Sends what may be sent.
  absl::StatusOr<bool> Advance() override {
    const int me = messages_.rank(), size = messages_.size();
    for (;;) {
      ASSIGN_OR_RETURN(const bool sent, fed_->TestAll());
      if (!sent) break;
      while (hop_ < size && (!InPortions((me + hop_) % size) || fed_bytes_ == op().send_bytes[(me + hop_) % size])) ++hop_, fed_bytes_ = 0;
      if (hop_ == size) return at_once_->TestAll();
      if (!messages_.engine().MaySendInBackground()) break;
      const int to = (me + hop_) % size;
      const int64_t bytes = std::min(Portion(to), op().send_bytes[to] - fed_bytes_);
      RETURN_IF_ERROR(fed_->PostSend(to, messages_.tag(), op().send.AsBytes().subspan(op().send_offsets[to] + fed_bytes_, bytes)));
      fed_bytes_ += bytes;
    }
    RETURN_IF_ERROR(at_once_->TestAll().status());
    return false;
  }

  void Cancel() override {
    at_once_->Cancel();
    fed_->Cancel();
  }

 private:
  const Collective& op() const { return messages_.op(); }

  // Each rank starts with its right neighbour, so that no rank is everybody's first.
  absl::Status PostAllButPortions() {
    const int me = messages_.rank(), size = messages_.size();
    CheckCounts();
    const std::span<std::byte> send = op().send.AsBytes(), recv = op().recv.AsBytes();
    for (int hop = 1; hop < size; ++hop) {
      const int from = (me + size - hop) % size;
      if (op().recv_bytes[from] == 0) continue;
      messages_.BookReceive(from, op().recv_bytes[from]);
      for (int64_t at = 0; at < op().recv_bytes[from]; at += Portion(from)) {
        const auto bytes = static_cast<size_t>(std::min(Portion(from), op().recv_bytes[from] - at));
        RETURN_IF_ERROR(at_once_->PostReceive(from, messages_.tag(), recv.subspan(op().recv_offsets[from] + at, bytes)));
      }
    }
    for (int hop = 1; hop < size; ++hop) {
      const int to = (me + hop) % size;
      if (InPortions(to)) {
        messages_.BookSend(to, op().send_bytes[to]);
      } else if (op().send_bytes[to] > 0) {
        RETURN_IF_ERROR(messages_.Send(*at_once_, to, send.subspan(op().send_offsets[to], op().send_bytes[to])));
      }
    }
    messages_.CopyToSelf(send.data() + op().send_offsets[me], recv.data() + op().recv_offsets[me], op().send_bytes[me]);
    return absl::OkStatus();
  }

  void CheckCounts() const {
    const int me = messages_.rank();
    for (const std::span<const int64_t>& list : {op().send_bytes, op().send_offsets, op().recv_bytes, op().recv_offsets}) {
      CHECK_EQ(static_cast<int>(list.size()), messages_.size()) << op().label;
    }
    CHECK_EQ(op().send_bytes[me], op().recv_bytes[me]) << op().label;
  }

  // The longest message to or from a peer.
  int64_t Portion(int peer) const { return InOnePiece(peer) ? std::numeric_limits<int64_t>::max() : messages_.engine().BackgroundBytes(); }
  bool InPortions(int peer) const { return op().send_bytes[peer] > 0 && !InOnePiece(peer); }
  bool InOnePiece(int peer) const { return !op().background || messages_.SharesNode(peer); }

  OperationMessages& messages_;
  std::unique_ptr<MessageSet> at_once_;
  // What was sent last, to whom the next goes, and how much of its part is sent.
  std::unique_ptr<MessageSet> fed_;
  int hop_ = 1;
  int64_t fed_bytes_ = 0;
};

}  // namespace

std::unique_ptr<CollectiveWay> NewAllToAllPortions(OperationMessages* messages) { return std::make_unique<AllToAllPortions>(messages); }

}  // namespace conclave
