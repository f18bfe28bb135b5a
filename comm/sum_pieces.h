// How an all-reduce of a long vector is cut: pieces go one after the other, and every member adds up its part of each.
#ifndef CONCLAVE_COMM_SUM_PIECES_H_
#define CONCLAVE_COMM_SUM_PIECES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "comm/communicator.h"
#include "comm/sums.h"

namespace conclave {

struct SumPieces {
  Tensor vector;
  ReduceOp op = ReduceOp::kSum;
  int members = 1;
  int64_t bytes = int64_t{512} << 10;  // of a piece

  int64_t count() const { return (vector.bytes() + bytes - 1) / bytes; }
  // The part of a piece that `owner` adds up, in bytes of the vector.
  std::span<std::byte> Part(int64_t piece, int owner) const {
    const int64_t width = SizeOf(vector.dtype()), most = bytes / width, begin = piece * most;
    const int64_t elements = std::min(most, vector.elements() - begin), first = elements * owner / members;
    return vector.AsBytes().subspan((begin + first) * width, (elements * (owner + 1) / members - first) * width);
  }
  // Bytes from where one member's contribution to a part lies to where the next one's does: whole lines of the cache.
  int64_t stride() const {
    constexpr int64_t kLine = 64;
    return (bytes / members / kLine + 2) * kLine;
  }
  // mine: this member's part, which becomes the sum in the order of members; the others' contributions lie stride() apart. What lower
  // members gave is added up first. Only this member forms this sum, so it may take its own part as the second operand.
  void Add(int me, std::byte* contributions, std::span<std::byte> mine) const {
    const DType dtype = vector.dtype();
    const int64_t elements = static_cast<int64_t>(mine.size()) / SizeOf(dtype);
    const auto of = [&](int member) { return contributions + member * stride(); };
    for (int r = 1; r < me; ++r) ReduceInto(dtype, op, of(r), of(0), elements);
    if (me > 0) ReduceInto(dtype, op, of(0), mine.data(), elements);
    for (int r = me + 1; r < members; ++r) ReduceInto(dtype, op, of(r), mine.data(), elements);
  }
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_SUM_PIECES_H_
