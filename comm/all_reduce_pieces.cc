// All-reduce of a long vector: each piece is added up in parts by their owners, and the sums go to all. Where the ranks can read each
// other's memory no message goes at all (comm/direct_sums.h).
#include <algorithm>
#include <array>

#include "comm/collective_way.h"
#include "comm/direct_sums.h"

namespace conclave {
namespace {

// So many pieces are on their way at a time: while one piece's sums travel the next one's parts do, so that links never wait for an
// addition or for the slowest of a phase, and what is added is still in the cache.
constexpr int kPiecesInFlight = 4;

class AllReducePieces final : public CollectiveWay {
 public:
  explicit AllReducePieces(OperationMessages* messages) : messages_(*messages) {}

  bool PostsLater() const override { return true; }

  absl::StatusOr<bool> Launch() override {
    const Collective& op = messages_.op();
    sum_ = {.vector = op.recv, .op = op.op, .members = messages_.size()};
    direct_ = messages_.DirectSumsOf(op.recv.bytes());
    if (direct_ != nullptr) {
      BookPieces();
      direct_->Begin({.vector = op.recv, .op = op.op, .members = messages_.size(), .bytes = DirectSums::kPiece}, messages_.tag());
      return Advance();
    }
    summed_ = 0;
    arrivals_ = messages_.Scratch(kPiecesInFlight * messages_.size() * sum_.stride());
    if (stages_[0].parts == nullptr) {
      for (Stage& stage : stages_) stage = {messages_.NewSet(MessageUse::kPieces), messages_.NewSet(MessageUse::kPieces)};
    }
    for (int64_t piece = 0; piece < std::min<int64_t>(sum_.count(), kPiecesInFlight); ++piece) RETURN_IF_ERROR(PostParts(piece));
    return Advance();
  }

  absl::StatusOr<bool> Advance() override {
    if (direct_ == nullptr) return TakePieces();
    ASSIGN_OR_RETURN(const bool complete, direct_->Advance());
    if (direct_->moved()) messages_.engine().NoteArrival();
    if (complete) direct_ = nullptr;
    return complete;
  }

  void Cancel() override {
    if (direct_ != nullptr) direct_->Drop();
    direct_ = nullptr;
    if (stages_[0].parts == nullptr) return;
    for (const Stage& stage : stages_) stage.parts->Cancel(), stage.sums->Cancel();
  }

 private:
  // Of the kPiecesInFlight; piece i takes number i % kPiecesInFlight.
  struct Stage {
    std::unique_ptr<MessageSet> parts, sums;
  };
  const Stage& stage(int64_t piece) const { return stages_[piece % kPiecesInFlight]; }
  std::byte* Arrivals(int64_t piece) const { return arrivals_ + piece % kPiecesInFlight * messages_.size() * sum_.stride(); }

  // What is read is booked as the messages that it stands for.
  void BookPieces() {
    const int me = messages_.rank();
    for (int64_t piece = 0; piece < sum_.count(); ++piece) {
      const auto own = static_cast<int64_t>(sum_.Part(piece, me).size());
      for (int peer = 0; peer < messages_.size(); ++peer) {
        const auto theirs = static_cast<int64_t>(sum_.Part(piece, peer).size());
        if (peer == me) continue;
        for (const int64_t bytes : {own, theirs}) {
          if (bytes > 0) messages_.BookSend(peer, bytes), messages_.BookReceive(peer, bytes);
        }
      }
    }
  }

  // All ranks post in one order, whatever arrives first: the sums of a piece, then the parts of the one kPiecesInFlight after it. Between
  // two ranks, sums of a piece therefore come just before the parts of the piece kPiecesInFlight after it, and are looked for in this
  // order.
  absl::StatusOr<bool> TakePieces() {
    const int me = messages_.rank();
    for (; summed_ < sum_.count(); ++summed_) {
      ASSIGN_OR_RETURN(const bool earlier_sums, stage(summed_).sums->TestAll());
      ASSIGN_OR_RETURN(const bool parts, stage(summed_).parts->TestAll());
      if (!earlier_sums || !parts) return false;
      sum_.Add(me, Arrivals(summed_), sum_.Part(summed_, me));
      RETURN_IF_ERROR(PostSums(summed_));
      if (summed_ + kPiecesInFlight < sum_.count()) RETURN_IF_ERROR(PostParts(summed_ + kPiecesInFlight));
    }
    for (int64_t piece = std::max<int64_t>(sum_.count() - kPiecesInFlight, 0); piece < sum_.count(); ++piece) {
      ASSIGN_OR_RETURN(const bool sums, stage(piece).sums->TestAll());
      if (!sums) return false;
    }
    return true;
  }

  absl::Status PostParts(int64_t piece) {
    const int me = messages_.rank(), size = messages_.size();
    MessageSet& parts = *stage(piece).parts;
    const size_t bytes = sum_.Part(piece, me).size();
    for (int hop = 1; hop < size; ++hop) {
      const int from = (me + size - hop) % size;
      RETURN_IF_ERROR(messages_.Receive(parts, from, {Arrivals(piece) + from * sum_.stride(), bytes}));
    }
    for (int hop = 1; hop < size; ++hop) {
      const int to = (me + hop) % size;
      RETURN_IF_ERROR(messages_.Send(parts, to, sum_.Part(piece, to)));
    }
    return absl::OkStatus();
  }

  absl::Status PostSums(int64_t piece) {
    const int me = messages_.rank(), size = messages_.size();
    MessageSet& sums = *stage(piece).sums;
    for (int hop = 1; hop < size; ++hop) {
      const int from = (me + size - hop) % size;
      RETURN_IF_ERROR(messages_.Receive(sums, from, sum_.Part(piece, from)));
    }
    for (int hop = 1; hop < size; ++hop) RETURN_IF_ERROR(messages_.Send(sums, (me + hop) % size, sum_.Part(piece, me)));
    return absl::OkStatus();
  }

  OperationMessages& messages_;
  std::array<Stage, kPiecesInFlight> stages_;  // made when the first goes by messages
  std::byte* arrivals_ = nullptr;
  SumPieces sum_;
  int64_t summed_ = 0;            // pieces
  DirectSums* direct_ = nullptr;  // null: by messages
};

}  // namespace

std::unique_ptr<CollectiveWay> NewAllReducePieces(OperationMessages* messages) { return std::make_unique<AllReducePieces>(messages); }

}  // namespace conclave
