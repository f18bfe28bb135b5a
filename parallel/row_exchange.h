// One all-to-all of rows among the members of a group.
#ifndef CONCLAVE_PARALLEL_ROW_EXCHANGE_H_
#define CONCLAVE_PARALLEL_ROW_EXCHANGE_H_

#include <cstdint>
#include <span>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "comm/communicator.h"
#include "parallel/layer_traffic.h"
#include "tensor/arena.h"

namespace conclave {

// n zeros that live in the arena.
inline std::span<int64_t> NewIntegers(Arena& arena, int64_t n) { return arena.NewZeroed({n}, DType::kI64).span<int64_t>(); }

inline int64_t BytesOfRow(const Tensor& t) { return t.dim(-1) * SizeOf(t.dtype()); }

// Rows of `row_bytes`: send_rows[g] to and recv_rows[g] from member g, in the order of members.
struct RowExchange {
  Communicator* group;
  std::string_view label;  // a string literal
  std::span<const int64_t> send_rows, recv_rows;
  int64_t row_bytes;
  RowTally* tally = nullptr;  // counts what leaves this rank; null: nobody does
  bool own_stay = false;      // what this rank sends itself is counted, but neither read nor written: the caller has it
};

// Posts it; the arena must keep what was allocated until it is complete.
absl::StatusOr<Request> StartRows(Arena& arena, const RowExchange& x, int stream, const Tensor& send, const Tensor& recv);
// And waits for it, after work for which neither is needed.
absl::Status ExchangeRows(
    Arena& arena, const RowExchange& x, const Tensor& send, const Tensor& recv, absl::FunctionRef<void()> meanwhile = [] {});

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_ROW_EXCHANGE_H_
