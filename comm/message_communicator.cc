#include "comm/message_communicator.h"

#include <utility>

#include "base/check.h"
#include "comm/collective_way.h"

namespace conclave {

// One operation on its way: from its turn on in the way that its kind and length ask for.
class MessageOperation final : public Request::Impl, public InFlight {
 public:
  explicit MessageOperation(MessageCommunicator* comm)
      : comm_(*comm),
        messages_(comm),
        phases_(NewCollectivePhases(&messages_)),
        all_to_all_(NewAllToAllPortions(&messages_)),
        pieces_(NewAllReducePieces(&messages_)) {}
  ~MessageOperation() = default;

  void Begin(const Collective& op, int64_t sequence) {
    messages_.Begin(op, sequence);
    way_ = WayOf(op);
    status_ = absl::OkStatus(), done_ = false;
    comm_.engine_->Add(this);
    in_turn_ = sequence >= 0 && comm_.MessagesKeepOrder();
    if (in_turn_) Turns().push_back(this);
    waits_ = in_turn_ && Turns().front() != this;
    if (!waits_) Launch();
  }

  void Advance() override {
    if (done_) return;
    if (!waits_) return Take(way_->Advance());
    waits_ = Turns().front() != this;
    if (!waits_) Launch();
  }

  bool done() const override { return done_; }
  bool background() const override { return op().background; }

  absl::StatusOr<bool> Test() override {
    const std::lock_guard lock(comm_.engine_->mutex());
    if (!done_) comm_.engine_->Progress();
    if (!done_) return false;
    if (!status_.ok()) return Annotate(status_, absl::StrFormat("%s '%s' on %s", NameOf(op().kind), std::string(op().label), comm_.name()));
    return true;
  }
  void Pause(int tries) override { comm_.engine_->Pause(tries); }
  void Release() override {
    const std::lock_guard lock(comm_.engine_->mutex());
    if (!done_) Finish(absl::CancelledError("dropped"));
    comm_.idle_.push_back(this);
  }

 private:
  const Collective& op() const { return messages_.op(); }
  std::vector<MessageOperation*>& Turns() { return comm_.turns_[op().stream]; }
  void LeaveTurn() {
    if (std::exchange(in_turn_, false)) std::erase(Turns(), this);
  }

  CollectiveWay* WayOf(const Collective& op) const {
    CHECK(!op.background || op.kind == CollectiveKind::kAllToAllV) << NameOf(op.kind);
    if (op.kind == CollectiveKind::kAllToAllV) return all_to_all_.get();
    const bool is_long = op.kind == CollectiveKind::kAllReduce && comm_.size() > 1 && op.recv.bytes() > kSmallAllReduceBytes;
    return is_long ? pieces_.get() : phases_.get();
  }

  void Launch() {
    if (!way_->PostsLater()) LeaveTurn();
    Take(way_->Launch());
  }

  void Take(const absl::StatusOr<bool>& complete) {
    if (!complete.ok() || *complete) Finish(complete.status());
  }

  void Finish(const absl::Status& status) {
    if (!status.ok()) way_->Cancel();
    status_ = status;
    done_ = true;
    LeaveTurn();
    comm_.engine_->Remove(this);
  }

  MessageCommunicator& comm_;
  OperationMessages messages_;
  std::unique_ptr<CollectiveWay> phases_, all_to_all_, pieces_;
  CollectiveWay* way_ = nullptr;          // of this operation
  bool in_turn_ = false, waits_ = false;  // waits_: for its turn, nothing is posted yet
  absl::Status status_;
  bool done_ = true;
};

MessageCommunicator::MessageCommunicator(std::string name, int rank, int size, std::shared_ptr<ProgressEngine> engine)
    : Communicator(std::move(name), rank, size), engine_(std::move(engine)) {}

MessageCommunicator::~MessageCommunicator() = default;

void MessageCommunicator::Reserve(int more, int streams) {
  CHECK(streams >= 1 && streams <= kStreams) << streams;
  const std::lock_guard lock(engine_->mutex());
  ReserveStreams(streams);
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
