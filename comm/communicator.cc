#include "comm/communicator.h"

#include "base/check.h"
#include "base/trace.h"
#include "comm/watchdog.h"

namespace conclave {

const char* NameOf(CollectiveKind kind) {
  switch (kind) {
    case CollectiveKind::kAllReduce:
      return "all-reduce";
    case CollectiveKind::kReduceScatter:
      return "reduce-scatter";
    case CollectiveKind::kAllGather:
      return "all-gather";
    case CollectiveKind::kAllToAllV:
      return "all-to-all-v";
    case CollectiveKind::kBroadcast:
      return "broadcast";
    case CollectiveKind::kSend:
      return "send";
    case CollectiveKind::kRecv:
      return "recv";
    case CollectiveKind::kBarrier:
      return "barrier";
  }
  return "?";
}

absl::StatusOr<Request> Communicator::Start(const Collective& op) {
  const bool everyone = op.kind != CollectiveKind::kSend && op.kind != CollectiveKind::kRecv;
  const int64_t sequence = everyone ? next_sequence_[op.stream]++ : -1;
  ASSIGN_OR_RETURN(Request request, StartImpl(op, sequence));
  request.sequence_ = sequence;
  request.label_ = op.label;
  return request;
}

absl::StatusOr<bool> Communicator::Test(Request& request) {
  if (!request.active()) return true;
  absl::StatusOr<bool> done = request.impl_->Test();
  if (!done.ok() || *done) request.impl_.reset();
  return done;
}

absl::Status Communicator::Wait(Request& request) {
  if (!request.active()) return absl::OkStatus();
  const WatchedWait watched(watchdog_, request.label_, name_, request.sequence_);
  const TraceSpan span(request.label_.data());  // labels are literals
  for (int tries = 0;; ++tries) {
    const absl::StatusOr<bool> done = request.impl_->Test();
    if (!done.ok() || *done) {
      request.impl_.reset();
      return done.status();
    }
    request.impl_->Pause(tries);
  }
}

absl::Status Communicator::Run(const Collective& op) {
  ASSIGN_OR_RETURN(Request request, Start(op));
  return Wait(request);
}

absl::Status Communicator::AllReduce(std::string_view label, const Tensor& data, ReduceOp op) {
  return Run({.kind = CollectiveKind::kAllReduce, .label = label, .recv = data, .op = op});
}

absl::Status Communicator::ReduceScatter(std::string_view label, const Tensor& send, const Tensor& recv, ReduceOp op) {
  return Run({.kind = CollectiveKind::kReduceScatter, .label = label, .send = send, .recv = recv, .op = op});
}

absl::Status Communicator::AllGather(std::string_view label, const Tensor& send, const Tensor& recv) {
  return Run({.kind = CollectiveKind::kAllGather, .label = label, .send = send, .recv = recv});
}

absl::Status Communicator::AllToAllV(const Collective& op) {
  CHECK(op.kind == CollectiveKind::kAllToAllV) << NameOf(op.kind);
  return Run(op);
}

absl::Status Communicator::Broadcast(std::string_view label, const Tensor& data, int root) {
  return Run({.kind = CollectiveKind::kBroadcast, .label = label, .recv = data, .peer = root});
}

absl::Status Communicator::Send(std::string_view label, const Tensor& data, int peer, int tag) {
  return Run({.kind = CollectiveKind::kSend, .label = label, .send = data, .peer = peer, .tag = tag});
}

absl::Status Communicator::Recv(std::string_view label, const Tensor& data, int peer, int tag) {
  return Run({.kind = CollectiveKind::kRecv, .label = label, .recv = data, .peer = peer, .tag = tag});
}

absl::Status Communicator::Barrier(std::string_view label) { return Run({.kind = CollectiveKind::kBarrier, .label = label}); }

}  // namespace conclave
