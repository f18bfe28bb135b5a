#include "comm/region_exchange.h"

#include <algorithm>
#include <cstring>

namespace conclave {
namespace {

constexpr int64_t kLeastRuns = 64;  // bytes

// Of varying sizes: memory for the largest, of which little is used.
Buffer MemoryOfRuns(int64_t bytes, bool fixed) {
  return fixed ? Buffer(std::max(bytes, kLeastRuns)) : Buffer::Uncleared(std::max(bytes, kLeastRuns));
}

}  // namespace

Tensor AllBytes(const Buffer& buffer) { return buffer.View(0, {buffer.bytes()}, DType::kU8); }

RegionExchange::RegionExchange(Communicator* group, Plan plan) : group_(group), plan_(std::move(plan)) {
  const int size = group_->size(), me = group_->rank();
  plan_.send_most[static_cast<size_t>(me)] = plan_.recv_most[static_cast<size_t>(me)] = 0;
  send_bytes_ = plan_.send_most;
  recv_bytes_ = plan_.recv_most;
  length_send_.resize(send_bytes_.size());
  length_recv_.resize(recv_bytes_.size());
  for (int j = 0; j < size; ++j) {
    SetMost(j, send_bytes_[static_cast<size_t>(j)], recv_bytes_[static_cast<size_t>(j)]);
    length_offsets_.push_back(j * kLengthBytes);
  }
  own_lengths_ = Buffer(size * kLengthBytes);
  lengths_ = Buffer(size * kLengthBytes);
  group_->Reserve(1, /*streams=*/1);
}

void RegionExchange::SetMost(int member, int64_t send, int64_t recv) {
  if (member == group_->rank()) return;
  const auto at = static_cast<size_t>(member);
  plan_.send_most[at] = send_bytes_[at] = send;
  plan_.recv_most[at] = recv_bytes_[at] = recv;
  length_send_[at] = send > 0 ? kLengthBytes : 0;
  length_recv_[at] = recv > 0 ? kLengthBytes : 0;
}

absl::Status RegionExchange::Start() {
  if (plan_.fixed_sizes) return PostRuns();
  std::memcpy(own_lengths_.data(), send_bytes_.data(), send_bytes_.size() * sizeof(int64_t));
  ASSIGN_OR_RETURN(request_, group_->Start({.kind = CollectiveKind::kAllToAllV,
                                            .label = plan_.lengths_label,
                                            .send = AllBytes(own_lengths_),
                                            .recv = AllBytes(lengths_),
                                            .send_bytes = length_send_,
                                            .send_offsets = length_offsets_,
                                            .recv_bytes = length_recv_,
                                            .recv_offsets = length_offsets_,
                                            .background = true}));
  return absl::OkStatus();
}

absl::Status RegionExchange::Poll() { return request_.active() ? group_->Test(request_).status() : absl::OkStatus(); }

absl::Status RegionExchange::Post() {
  if (plan_.fixed_sizes) return absl::OkStatus();
  RETURN_IF_ERROR(group_->Wait(request_));
  for (int j = 0; j < group_->size(); ++j) {
    const auto at = static_cast<size_t>(j);
    if (length_recv_[at] == 0) continue;
    int64_t bytes = 0;
    std::memcpy(&bytes, lengths_.data() + length_offsets_[at], kLengthBytes);
    if (bytes < 0 || bytes > plan_.recv_most[at]) {
      return DataLoss("%s: rank %d of %s announces %d bytes, at most %d are possible", plan_.label, j, group_->name(), bytes,
                      plan_.recv_most[at]);
    }
    recv_bytes_[at] = bytes;
  }
  return PostRuns();
}

absl::Status RegionExchange::Wait() { return group_->Wait(request_); }

absl::Status RegionExchange::PostRuns() {
  ASSIGN_OR_RETURN(request_, group_->Start({.kind = CollectiveKind::kAllToAllV,
                                            .label = plan_.label,
                                            .send = plan_.send,
                                            .recv = plan_.recv,
                                            .send_bytes = send_bytes_,
                                            .send_offsets = plan_.send_offsets,
                                            .recv_bytes = recv_bytes_,
                                            .recv_offsets = plan_.recv_offsets,
                                            .background = true}));
  return absl::OkStatus();
}

ServedRuns::ServedRuns(Communicator* group, const Plan& plan) {
  const size_t size = plan.workers.size(), me = static_cast<size_t>(group->rank());
  RegionExchange::Plan to{.lengths_label = plan.lengths_label, .label = plan.up_label, .fixed_sizes = plan.fixed_up};
  RegionExchange::Plan from{.lengths_label = plan.lengths_label, .label = plan.down_label, .fixed_sizes = plan.fixed_down};
  int64_t sent_bytes = 0, received_bytes = 0, means_bytes = 0;
  for (size_t j = 0; j < size; ++j) {
    sent_start.push_back(sent_bytes), received_start.push_back(received_bytes), means_start.push_back(means_bytes);
    to.send_most.push_back((plan.workers[me].hi - plan.workers[me].lo) * plan.up_most[j]);
    to.recv_most.push_back((plan.workers[j].hi - plan.workers[j].lo) * plan.up_most[me]);
    from.send_most.push_back(plan.down_most[me]);
    from.recv_most.push_back(plan.down_most[j]);
    sent_bytes += to.send_most.back(), received_bytes += j == me ? 0 : to.recv_most.back(), means_bytes += plan.down_most[j];
  }
  sent = MemoryOfRuns(sent_bytes, plan.fixed_up);
  received = MemoryOfRuns(received_bytes, plan.fixed_up);
  means = MemoryOfRuns(means_bytes, plan.fixed_down);
  to.send_offsets = sent_start, to.recv_offsets = received_start;
  to.send = AllBytes(sent), to.recv = AllBytes(received);
  from.send_offsets.assign(size, means_start[me]), from.recv_offsets = means_start;
  from.send = from.recv = AllBytes(means);
  up = RegionExchange(group, std::move(to));
  down = RegionExchange(group, std::move(from));
}

}  // namespace conclave
