// PartTable: how many bytes go to and come from each member of a group in one all-to-all, the parts one after the other.
#ifndef CONCLAVE_COMM_PART_TABLE_H_
#define CONCLAVE_COMM_PART_TABLE_H_

#include <cstdint>
#include <span>
#include <string_view>

#include "comm/communicator.h"

namespace conclave {

// A view of four rows of integers, by member. The caller fills in the bytes; offsets follow from them.
struct PartTable {
  std::span<int64_t> send_bytes, send_offsets, recv_bytes, recv_offsets;  // [members]

  // memory: [4 members]; what it holds is kept.
  static PartTable Over(std::span<int64_t> memory);

  // The all-to-all of these parts, in the order of members in `send` and in `recv`. The table must live as long as the operation runs.
  Collective Exchange(std::string_view label, const Tensor& send, const Tensor& recv) const;
  // The same where all members get one part, the whole of `send`: send_bytes are filled in.
  Collective ExchangeOfOne(std::string_view label, const Tensor& send, const Tensor& recv) const;

  int64_t sent() const;      // bytes in all
  int64_t received() const;  // bytes in all
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_PART_TABLE_H_
