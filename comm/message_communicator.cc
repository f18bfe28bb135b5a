#include "comm/message_communicator.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "base/check.h"
#include "comm/direct_sums.h"
#include "comm/sums.h"

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

// So many pieces of a long all-reduce are on their way at a time: while one piece's sums travel the next one's parts do, so that links
// never wait for an addition or for the slowest of a phase, and what is added is still in the cache.
constexpr int kPiecesInFlight = 4;

}  // namespace

// One collective on its way: phases of messages, with local work between them.
class MessageOperation final : public Request::Impl, public InFlight {
 public:
  explicit MessageOperation(MessageCommunicator* comm)
      : comm_(*comm), messages_(comm->NewMessageSet(MessageUse::kWhole)), fed_(comm->NewMessageSet(MessageUse::kWhole)) {}
  ~MessageOperation() = default;

  void Begin(const Collective& op, int64_t sequence) {
    op_ = op;
    tag_ = sequence < 0 ? kCollectiveTags + op.tag : CollectiveTag(op, sequence);
    phase_ = 0, status_ = absl::OkStatus(), done_ = false;
    comm_.engine_->Add(this);
    messages_->UseInBackground(background());
    fed_->UseInBackground(background());
    in_pieces_ = op.kind == CollectiveKind::kAllReduce && comm_.size() > 1 && op.recv.bytes() > kSmallAllReduceBytes;
    in_turn_ = sequence >= 0 && comm_.MessagesKeepOrder();
    if (in_turn_) Turns().push_back(this);
    waits_ = in_turn_ && Turns().front() != this;
    if (!waits_) Launch();
  }

  // Takes the next step if all messages of the current phase arrived.
  void Advance() override {
    if (done_) return;
    if (waits_) {
      waits_ = Turns().front() != this;
      return waits_ ? void() : Launch();
    }
    if (background()) return AdvanceFed();
    if (in_pieces_) return AdvancePieces();
    const absl::StatusOr<bool> arrived = messages_->TestAll();
    if (!arrived.ok()) return Finish(arrived.status());
    if (*arrived) PostPhases();
  }

  bool done() const override { return done_; }
  bool background() const override { return op_.background; }

  absl::StatusOr<bool> Test() override {
    const std::lock_guard lock(comm_.engine_->mutex());
    if (!done_) comm_.engine_->Progress();
    if (!done_) return false;
    if (!status_.ok()) return Annotate(status_, absl::StrFormat("%s '%s' on %s", NameOf(op_.kind), std::string(op_.label), comm_.name()));
    return true;
  }
  void Pause(int tries) override { comm_.engine_->Pause(tries); }
  void Release() override {
    const std::lock_guard lock(comm_.engine_->mutex());
    if (!done_) Finish(absl::CancelledError("dropped"));
    comm_.idle_.push_back(this);
  }

 private:
  std::vector<MessageOperation*>& Turns() { return comm_.turns_[op_.stream]; }
  void LeaveTurn() {
    if (std::exchange(in_turn_, false)) std::erase(Turns(), this);
  }

  void Launch() {
    // Only these post messages after their first ones.
    const bool posts_later = in_pieces_ || op_.kind == CollectiveKind::kBroadcast || op_.kind == CollectiveKind::kBarrier;
    if (!posts_later) LeaveTurn();
    if (background()) return BeginFed();
    if (in_pieces_) return BeginPieces();
    PostPhases();
  }

  // Posts phases until one has messages in flight, or none is left.
  void PostPhases() {
    for (;;) {
      const absl::StatusOr<bool> more = Post(phase_++);
      if (!more.ok() || !*more) return Finish(more.status());
      const absl::StatusOr<bool> arrived = messages_->TestAll();
      if (!arrived.ok()) return Finish(arrived.status());
      if (!*arrived) return;
    }
  }

  void Finish(const absl::Status& status) {
    if (!status.ok()) {
      messages_->Cancel();
      fed_->Cancel();
      for (const Stage& stage : stages_) stage.parts->Cancel(), stage.sums->Cancel();
      if (direct_ != nullptr) direct_->Drop();
    }
    status_ = status;
    direct_ = nullptr;
    done_ = true;
    LeaveTurn();
    comm_.engine_->Remove(this);
  }

  // Does the local work before the phase and posts its messages; false when there is no such phase.
  absl::StatusOr<bool> Post(int phase) {
    switch (op_.kind) {
      case CollectiveKind::kAllReduce:
        return PostAllReduce(phase);
      case CollectiveKind::kReduceScatter:
        return PostReduceScatter(phase);
      case CollectiveKind::kAllGather:
        return PostAllGather(phase);
      case CollectiveKind::kAllToAllV:
        if (phase == 0) RETURN_IF_ERROR(PostAllButPortions());
        return phase == 0;
      case CollectiveKind::kBroadcast:
        return PostBroadcast(phase);
      case CollectiveKind::kBarrier:
        return PostBarrier(phase);
      case CollectiveKind::kSend:
        if (phase == 0) RETURN_IF_ERROR(Send(op_.peer, op_.send.AsBytes()));
        return phase == 0;
      case CollectiveKind::kRecv:
        if (phase == 0) RETURN_IF_ERROR(Receive(op_.peer, op_.recv.AsBytes()));
        return phase == 0;
    }
    return absl::InternalError("unknown collective");
  }

  void CheckAllToAllV() const {
    const int me = comm_.rank();
    for (const std::span<const int64_t>& list : {op_.send_bytes, op_.send_offsets, op_.recv_bytes, op_.recv_offsets}) {
      CHECK_EQ(static_cast<int>(list.size()), comm_.size()) << op_.label;
    }
    CHECK_EQ(op_.send_bytes[me], op_.recv_bytes[me]) << op_.label;
  }

  // All-to-all-v in the background: everything is posted at once, but for what goes to other nodes in portions.
  void BeginFed() {
    CHECK(op_.kind == CollectiveKind::kAllToAllV) << NameOf(op_.kind);
    hop_ = 1, fed_bytes_ = 0;
    const absl::Status posted = PostAllButPortions();
    if (!posted.ok()) return Finish(posted);
    AdvanceFed();
  }

  // Each rank starts with its right neighbour, so that no rank is everybody's first.
  absl::Status PostAllButPortions() {
    const int me = comm_.rank(), size = comm_.size();
    CheckAllToAllV();
    for (int hop = 1; hop < size; ++hop) {
      const int from = (me + size - hop) % size;
      if (op_.recv_bytes[from] == 0) continue;
      BookReceive(from, op_.recv_bytes[from]);
      for (int64_t at = 0; at < op_.recv_bytes[from]; at += Portion(from)) {
        const auto bytes = static_cast<size_t>(std::min(Portion(from), op_.recv_bytes[from] - at));
        RETURN_IF_ERROR(messages_->PostReceive(from, tag_, {op_.recv.AsBytes().data() + op_.recv_offsets[from] + at, bytes}));
      }
    }
    for (int hop = 1; hop < size; ++hop) {
      const int to = (me + hop) % size;
      if (InPortions(to)) {
        BookSend(to, op_.send_bytes[to]);
      } else if (op_.send_bytes[to] > 0) {
        RETURN_IF_ERROR(Send(to, op_.send.AsBytes().subspan(op_.send_offsets[to], op_.send_bytes[to])));
      }
    }
    CopyToSelf(op_.send.AsBytes().data() + op_.send_offsets[me], op_.recv.AsBytes().data() + op_.recv_offsets[me], op_.send_bytes[me]);
    return absl::OkStatus();
  }

  void AdvanceFed() {
    const absl::StatusOr<bool> complete = Feed();
    if (!complete.ok() || *complete) Finish(complete.status());
  }

  // Sends what may be sent; true: all is sent and has arrived.
  absl::StatusOr<bool> Feed() {
    const int me = comm_.rank(), size = comm_.size();
    for (;;) {
      ASSIGN_OR_RETURN(const bool sent, fed_->TestAll());
      if (!sent) break;
      while (hop_ < size && (!InPortions((me + hop_) % size) || fed_bytes_ == op_.send_bytes[(me + hop_) % size])) ++hop_, fed_bytes_ = 0;
      if (hop_ == size) return messages_->TestAll();
      if (!comm_.engine_->MaySendInBackground()) break;
      const int to = (me + hop_) % size;
      const int64_t bytes = std::min(Portion(to), op_.send_bytes[to] - fed_bytes_);
      RETURN_IF_ERROR(fed_->PostSend(to, tag_, op_.send.AsBytes().subspan(op_.send_offsets[to] + fed_bytes_, bytes)));
      fed_bytes_ += bytes;
    }
    RETURN_IF_ERROR(messages_->TestAll().status());
    return false;
  }

  // The longest message to or from a peer.
  int64_t Portion(int peer) const { return InOnePiece(peer) ? std::numeric_limits<int64_t>::max() : comm_.engine_->BackgroundBytes(); }
  bool InPortions(int peer) const { return op_.send_bytes[peer] > 0 && !InOnePiece(peer); }
  bool InOnePiece(int peer) const { return !background() || SharesNode(peer); }
  bool SharesNode(int peer) const { return comm_.Node(peer) == comm_.Node(comm_.rank()); }

  absl::StatusOr<bool> PostAllGather(int phase) {
    if (phase > 0) return false;
    const int me = comm_.rank(), size = comm_.size();
    const int64_t bytes = op_.send.bytes();
    CHECK_EQ(op_.recv.bytes(), bytes * size) << op_.label;
    const std::span<std::byte> all = op_.recv.AsBytes();
    for (int hop = 1; hop < size; ++hop) {
      const int from = (me + size - hop) % size;
      RETURN_IF_ERROR(Receive(from, all.subspan(from * bytes, bytes)));
    }
    for (int hop = 1; hop < size; ++hop) RETURN_IF_ERROR(Send((me + hop) % size, op_.send.AsBytes()));
    CopyToSelf(op_.send.AsBytes().data(), all.data() + me * bytes, bytes);
    return true;
  }

  absl::StatusOr<bool> PostReduceScatter(int phase) {
    const int me = comm_.rank(), size = comm_.size();
    const int64_t bytes = op_.recv.bytes();
    CHECK_EQ(op_.send.bytes(), bytes * size) << op_.label;
    const std::span<std::byte> mine = op_.send.AsBytes().subspan(me * bytes, bytes);
    if (phase == 0) {
      RETURN_IF_ERROR(ReceiveParts(bytes));
      for (int hop = 1; hop < size; ++hop) {
        const int to = (me + hop) % size;
        RETURN_IF_ERROR(Send(to, op_.send.AsBytes().subspan(to * bytes, bytes)));
      }
      return true;
    }
    if (phase == 1) AddInRankOrder(mine.data(), op_.recv.AsBytes().data(), op_.recv.elements());
    return false;
  }

  // Of a short vector: everyone adds everything.
  absl::StatusOr<bool> PostAllReduce(int phase) {
    const int me = comm_.rank(), size = comm_.size();
    const std::span<std::byte> data = op_.recv.AsBytes();
    if (size == 1) return false;
    if (phase == 0) {
      RETURN_IF_ERROR(ReceiveParts(static_cast<int64_t>(data.size())));
      for (int hop = 1; hop < size; ++hop) RETURN_IF_ERROR(Send((me + hop) % size, data));
      return true;
    }
    AddInRankOrder(data.data(), data.data(), op_.recv.elements());
    return false;
  }

  std::byte* Arrivals(int64_t piece) { return scratch_.data() + piece % kPiecesInFlight * comm_.size() * sum_.stride(); }

  void BeginPieces() {
    sum_ = {.vector = op_.recv, .op = op_.op, .members = comm_.size()};
    direct_ = comm_.DirectSumsOf(op_.stream, op_.recv.bytes());
    if (direct_ != nullptr) return BeginDirect();
    summed_ = 0;
    const int64_t most = kPiecesInFlight * comm_.size() * sum_.stride();
    if (scratch_.bytes() < most) scratch_ = Buffer(most);
    while (static_cast<int64_t>(stages_.size()) < kPiecesInFlight)
      stages_.push_back({comm_.NewMessageSet(MessageUse::kPieces), comm_.NewMessageSet(MessageUse::kPieces)});
    for (int64_t piece = 0; piece < std::min<int64_t>(sum_.count(), kPiecesInFlight); ++piece) {
      const absl::Status posted = PostParts(piece);
      if (!posted.ok()) return Finish(posted);
    }
    AdvancePieces();
  }

  // The same bytes by reading, booked as the messages they stand for.
  void BeginDirect() {
    const int me = comm_.rank();
    for (int64_t piece = 0; piece < sum_.count(); ++piece) {
      const auto own = static_cast<int64_t>(sum_.Part(piece, me).size());
      for (int peer = 0; peer < comm_.size(); ++peer) {
        const auto theirs = static_cast<int64_t>(sum_.Part(piece, peer).size());
        if (peer == me) continue;
        for (const int64_t bytes : {own, theirs}) {
          if (bytes > 0) BookSend(peer, bytes), BookReceive(peer, bytes);
        }
      }
    }
    direct_->Begin({.vector = op_.recv, .op = op_.op, .members = comm_.size(), .bytes = DirectSums::kPiece}, tag_);
    AdvancePieces();
  }

  void AdvancePieces() {
    if (direct_ != nullptr) {
      const absl::StatusOr<bool> complete = direct_->Advance();
      if (direct_->moved()) comm_.engine_->NoteArrival();
      if (!complete.ok() || *complete) Finish(complete.status());
      return;
    }
    const absl::StatusOr<bool> complete = TakePieces();
    if (!complete.ok() || *complete) Finish(complete.status());
  }

  // All ranks post in one order, whatever arrives first: the sums of a piece, then the parts of the one kPiecesInFlight after it. Between
  // two ranks, sums of a piece therefore come just before the parts of the piece kPiecesInFlight after it, and are looked for in this
  // order.
  absl::StatusOr<bool> TakePieces() {
    for (; summed_ < sum_.count(); ++summed_) {
      const Stage& stage = stages_[summed_ % kPiecesInFlight];
      ASSIGN_OR_RETURN(const bool earlier_sums, stage.sums->TestAll());
      ASSIGN_OR_RETURN(const bool parts, stage.parts->TestAll());
      if (!earlier_sums || !parts) return false;
      sum_.Add(comm_.rank(), Arrivals(summed_), sum_.Part(summed_, comm_.rank()));
      RETURN_IF_ERROR(PostSums(summed_));
      if (summed_ + kPiecesInFlight < sum_.count()) RETURN_IF_ERROR(PostParts(summed_ + kPiecesInFlight));
    }
    for (int64_t piece = std::max<int64_t>(sum_.count() - kPiecesInFlight, 0); piece < sum_.count(); ++piece) {
      ASSIGN_OR_RETURN(const bool sums, stages_[piece % kPiecesInFlight].sums->TestAll());
      if (!sums) return false;
    }
    return true;
  }

  absl::Status PostParts(int64_t piece) {
    const int me = comm_.rank(), size = comm_.size();
    MessageSet& messages = *stages_[piece % kPiecesInFlight].parts;
    const size_t bytes = sum_.Part(piece, me).size();
    for (int hop = 1; hop < size; ++hop) {
      const int from = (me + size - hop) % size;
      RETURN_IF_ERROR(Receive(messages, from, {Arrivals(piece) + from * sum_.stride(), bytes}));
    }
    for (int hop = 1; hop < size; ++hop) RETURN_IF_ERROR(Send(messages, (me + hop) % size, sum_.Part(piece, (me + hop) % size)));
    return absl::OkStatus();
  }

  absl::Status PostSums(int64_t piece) {
    const int me = comm_.rank(), size = comm_.size();
    MessageSet& messages = *stages_[piece % kPiecesInFlight].sums;
    for (int hop = 1; hop < size; ++hop) {
      const int from = (me + size - hop) % size;
      RETURN_IF_ERROR(Receive(messages, from, sum_.Part(piece, from)));
    }
    for (int hop = 1; hop < size; ++hop) RETURN_IF_ERROR(Send(messages, (me + hop) % size, sum_.Part(piece, me)));
    return absl::OkStatus();
  }

  absl::StatusOr<bool> PostBroadcast(int phase) {
    const int size = comm_.size(), root = op_.peer;
    const int place = (comm_.rank() - root + size) % size;  // 0: the root
    // A place's parent clears its lowest bit; its children set one bit below that.
    const int reach = place == 0 ? static_cast<int>(std::bit_ceil(static_cast<unsigned>(size))) : place & -place;
    if (phase == 0) {
      if (place != 0) RETURN_IF_ERROR(Receive((place - reach + root) % size, op_.recv.AsBytes()));
      return true;
    }
    if (phase > 1) return false;
    for (int bit = reach / 2; bit > 0; bit /= 2) {
      if (place + bit < size) RETURN_IF_ERROR(Send((place + bit + root) % size, op_.recv.AsBytes()));
    }
    return true;
  }

  // Dissemination: after phase k everyone has heard of 2^(k+1) ranks.
  absl::StatusOr<bool> PostBarrier(int phase) {
    const int me = comm_.rank(), size = comm_.size();
    if (phase > 30 || (1 << phase) >= size) return false;
    const int distance = 1 << phase;
    RETURN_IF_ERROR(Receive((me + size - distance) % size, {&token_in_, 1}));
    RETURN_IF_ERROR(Send((me + distance) % size, {&token_out_, 1}));
    return true;
  }

  // Receives `bytes` from each other rank into its place of the scratch memory.
  absl::Status ReceiveParts(int64_t bytes) {
    const int me = comm_.rank(), size = comm_.size();
    if (scratch_.bytes() < bytes * size) scratch_ = Buffer(bytes * size);
    for (int hop = 1; hop < size; ++hop) {
      const int from = (me + size - hop) % size;
      RETURN_IF_ERROR(Receive(from, {scratch_.data() + from * bytes, static_cast<size_t>(bytes)}));
    }
    return absl::OkStatus();
  }

  // result = part of rank 0 + part of rank 1 + ...; mine: this rank's part, may be the result; the others' are in the scratch memory.
  void AddInRankOrder(const std::byte* mine, std::byte* result, int64_t elements) {
    const DType dtype = op_.recv.dtype();
    const int64_t bytes = elements * SizeOf(dtype);
    const int me = comm_.rank(), size = comm_.size();
    if (bytes == 0) return;
    if (size == 1) {
      if (mine != result) std::memcpy(result, mine, bytes);
      return;
    }
    std::byte* const sum = scratch_.data();
    if (me == 0) std::memcpy(sum, mine, bytes);
    for (int r = 1; r < size; ++r) ReduceInto(dtype, op_.op, r == me ? mine : scratch_.data() + r * bytes, sum, elements);
    std::memcpy(result, sum, bytes);
  }

  absl::Status Send(int peer, std::span<const std::byte> data) { return Send(*messages_, peer, data); }
  absl::Status Receive(int peer, std::span<std::byte> data) { return Receive(*messages_, peer, data); }

  absl::Status Send(MessageSet& messages, int peer, std::span<const std::byte> data) {
    if (data.empty() || peer == comm_.rank()) return absl::OkStatus();
    BookSend(peer, static_cast<int64_t>(data.size()));
    return messages.PostSend(peer, tag_, data);
  }

  absl::Status Receive(MessageSet& messages, int peer, std::span<std::byte> data) {
    if (data.empty() || peer == comm_.rank()) return absl::OkStatus();
    BookReceive(peer, static_cast<int64_t>(data.size()));
    return messages.PostReceive(peer, tag_, data);
  }

  void BookSend(int peer, int64_t bytes) {
    if (comm_.ledger() != nullptr) comm_.ledger()->BookSend(op_.label, op_.kind, LinkTo(peer), bytes);
  }
  void BookReceive(int peer, int64_t bytes) {
    if (comm_.ledger() != nullptr) comm_.ledger()->BookReceive(op_.label, op_.kind, LinkTo(peer), bytes);
  }

  void CopyToSelf(const std::byte* from, std::byte* to, int64_t bytes) {
    if (bytes == 0) return;
    if (comm_.ledger() != nullptr) {
      comm_.ledger()->BookSend(op_.label, op_.kind, LinkClass::kSelf, bytes);
      comm_.ledger()->BookReceive(op_.label, op_.kind, LinkClass::kSelf, bytes);
    }
    if (from != to) std::memcpy(to, from, bytes);
  }

  LinkClass LinkTo(int peer) const { return SharesNode(peer) ? LinkClass::kIntraNode : LinkClass::kInterNode; }

  // A long all-reduce has kPiecesInFlight of them; piece i takes number i % kPiecesInFlight.
  struct Stage {
    std::unique_ptr<MessageSet> parts, sums;
  };

  MessageCommunicator& comm_;
  std::unique_ptr<MessageSet> messages_;
  // In the background: what was sent last, to whom the next goes, and how much of its part is sent.
  std::unique_ptr<MessageSet> fed_;
  int hop_ = 1;
  int64_t fed_bytes_ = 0;
  bool in_turn_ = false, waits_ = false;  // waits_: for its turn, nothing is posted yet
  bool in_pieces_ = false;
  std::vector<Stage> stages_;
  SumPieces sum_;
  int64_t summed_ = 0;            // pieces
  DirectSums* direct_ = nullptr;  // null: by messages
  Collective op_;
  int tag_ = 0;
  int phase_ = 0;
  absl::Status status_;
  bool done_ = true;
  Buffer scratch_;
  std::byte token_in_{}, token_out_{};
};

MessageCommunicator::MessageCommunicator(std::string name, int rank, int size, std::shared_ptr<ProgressEngine> engine)
    : Communicator(std::move(name), rank, size), engine_(std::move(engine)) {}

MessageCommunicator::~MessageCommunicator() = default;

void MessageCommunicator::Reserve(int more) {
  const std::lock_guard lock(engine_->mutex());
  AddOperations(more);
}

void MessageCommunicator::AddOperations(int more) {
  for (int i = 0; i < more; ++i) {
    operations_.push_back(std::make_unique<MessageOperation>(this));
    idle_.reserve(operations_.size());
    idle_.push_back(operations_.back().get());
  }
  for (std::vector<MessageOperation*>& turns : turns_) turns.reserve(operations_.size());
  engine_->Reserve(more);
}

absl::StatusOr<Request> MessageCommunicator::StartImpl(const Collective& op, int64_t sequence) {
  const std::lock_guard lock(engine_->mutex());
  if (idle_.empty()) AddOperations(1);
  MessageOperation* const operation = idle_.back();
  idle_.pop_back();
  operation->Begin(op, sequence);
  return Request(operation);
}

}  // namespace conclave
