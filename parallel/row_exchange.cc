#include "parallel/row_exchange.h"

#include "comm/ledger.h"
#include "comm/part_table.h"

namespace conclave {
namespace {

void CountLeaving(const RowExchange& x) {
  const Communicator& group = *x.group;
  for (int g = 0; g < group.size(); ++g) {
    if (g == group.rank()) continue;
    const bool inside = group.Node(g) == group.Node(group.rank());
    (inside ? x.tally->rows.inside : x.tally->rows.between) += x.send_rows[g];
    (inside ? x.tally->bytes.inside : x.tally->bytes.between) += x.send_rows[g] * x.row_bytes;
  }
}

}  // namespace

absl::StatusOr<Request> StartRows(Arena& arena, const RowExchange& x, int stream, const Tensor& send, const Tensor& recv) {
  const int members = x.group->size();
  const PartTable parts = PartTable::Over(NewIntegers(arena, 4 * members));
  for (int g = 0; g < members; ++g) {
    parts.send_bytes[g] = x.send_rows[g] * x.row_bytes;
    parts.recv_bytes[g] = x.recv_rows[g] * x.row_bytes;
  }
  if (x.tally != nullptr) CountLeaving(x);
  Collective op = parts.Exchange(x.label, send, recv);
  op.stream = stream;
  if (const int me = x.group->rank(); x.own_stay && parts.send_bytes[me] > 0) {
    if (Ledger* const ledger = x.group->ledger(); ledger != nullptr) {
      ledger->BookSend(x.label, op.kind, LinkClass::kSelf, parts.send_bytes[me]);
      ledger->BookReceive(x.label, op.kind, LinkClass::kSelf, parts.recv_bytes[me]);
    }
    parts.send_bytes[me] = parts.recv_bytes[me] = 0;
  }
  return x.group->Start(op);
}

absl::Status ExchangeRows(Arena& arena, const RowExchange& x, const Tensor& send, const Tensor& recv, absl::FunctionRef<void()> meanwhile) {
  ASSIGN_OR_RETURN(Request request, StartRows(arena, x, 0, send, recv));
  meanwhile();
  return x.group->Wait(request);
}

}  // namespace conclave
