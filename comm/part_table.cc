#include "comm/part_table.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace conclave {
namespace {

Collective AllToAllOf(const PartTable& table, std::string_view label, const Tensor& send, const Tensor& recv) {
  return {.kind = CollectiveKind::kAllToAllV,
          .label = label,
          .send = send,
          .recv = recv,
          .send_bytes = table.send_bytes,
          .send_offsets = table.send_offsets,
          .recv_bytes = table.recv_bytes,
          .recv_offsets = table.recv_offsets};
}

void LayOut(std::span<const int64_t> bytes, std::span<int64_t> offsets) {
  std::exclusive_scan(bytes.begin(), bytes.end(), offsets.begin(), int64_t{0});
}

}  // namespace

PartTable PartTable::Over(std::span<int64_t> memory) {
  CHECK_EQ(memory.size() % 4, 0u);
  const size_t members = memory.size() / 4;
  const auto row = [&](size_t i) { return memory.subspan(i * members, members); };
  return {.send_bytes = row(0), .send_offsets = row(1), .recv_bytes = row(2), .recv_offsets = row(3)};
}

Collective PartTable::Exchange(std::string_view label, const Tensor& send, const Tensor& recv) const {
  LayOut(send_bytes, send_offsets);
  LayOut(recv_bytes, recv_offsets);
  return AllToAllOf(*this, label, send, recv);
}

Collective PartTable::ExchangeOfOne(std::string_view label, const Tensor& send, const Tensor& recv) const {
  std::ranges::fill(send_bytes, send.bytes());
  std::ranges::fill(send_offsets, 0);
  LayOut(recv_bytes, recv_offsets);
  return AllToAllOf(*this, label, send, recv);
}

int64_t PartTable::sent() const { return std::accumulate(send_bytes.begin(), send_bytes.end(), int64_t{0}); }
int64_t PartTable::received() const { return std::accumulate(recv_bytes.begin(), recv_bytes.end(), int64_t{0}); }

}  // namespace conclave
