#include "comm/region_exchange.h"

#include <cstring>

#include "base/check.h"

namespace conclave {

RegionExchange::RegionExchange(Communicator* group, Plan plan) : group_(group), plan_(std::move(plan)) {
  const int size = group_->size(), me = group_->rank();
  plan_.send_most[static_cast<size_t>(me)] = plan_.recv_most[static_cast<size_t>(me)] = 0;
  send_bytes_ = plan_.send_most;
  recv_bytes_ = plan_.recv_most;
  for (int j = 0; j < size; ++j) {
    length_send_.push_back(send_bytes_[static_cast<size_t>(j)] > 0 ? kLengthBytes : 0);
    length_recv_.push_back(recv_bytes_[static_cast<size_t>(j)] > 0 ? kLengthBytes : 0);
    length_offsets_.push_back(j * kLengthBytes);
  }
  own_lengths_ = Buffer(size * kLengthBytes);
  lengths_ = Buffer(size * kLengthBytes);
}

absl::Status RegionExchange::Start() {
  if (plan_.fixed_sizes) return PostRuns();
  std::memcpy(own_lengths_.data(), send_bytes_.data(), send_bytes_.size() * sizeof(int64_t));
  ASSIGN_OR_RETURN(request_, group_->Start({.kind = CollectiveKind::kAllToAllV,
                                            .label = plan_.lengths_label,
                                            .send = Tensor(own_lengths_.data(), {own_lengths_.bytes()}, DType::kU8),
                                            .recv = Tensor(lengths_.data(), {lengths_.bytes()}, DType::kU8),
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

}  // namespace conclave
