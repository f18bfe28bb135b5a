#include "parallel/partitioned_embedding.h"

#include <algorithm>
#include <cstring>

#include "base/trace.h"
#include "comm/part_table.h"

namespace conclave {
namespace {

// Whose tokens and whose columns meet here. Plain values in the arena: backward keeps a copy.
struct ColumnExchange {
  Communicator* group = nullptr;
  int64_t* tokens = nullptr;   // [P + 1]: where each rank's tokens begin in `ids`
  int64_t* columns = nullptr;  // [P + 1]: where each rank's columns begin
  int64_t* sizes = nullptr;    // [4 P]: scratch of a collective
  int32_t* ids = nullptr;      // of all ranks

  int ranks() const { return group->size(); }
  int me() const { return group->rank(); }
  int64_t all() const { return tokens[ranks()]; }
  int64_t mine() const { return tokens[me() + 1] - tokens[me()]; }
  int64_t held() const { return columns[me() + 1] - columns[me()]; }
  int64_t Count(int r) const { return tokens[r + 1] - tokens[r]; }
  int64_t Columns(int r) const { return columns[r + 1] - columns[r]; }

  // Rank r's share of send and of recv in bytes: send_of(r), recv_of(r), one after the other.
  template <typename SendOf, typename RecvOf>
  absl::Status Exchange(std::string_view label, const Tensor& send, const Tensor& recv, const SendOf& send_of,
                        const RecvOf& recv_of) const {
    const PartTable parts = PartTable::Over({sizes, 4 * static_cast<size_t>(ranks())});
    for (int r = 0; r < ranks(); ++r) parts.send_bytes[r] = send_of(r), parts.recv_bytes[r] = recv_of(r);
    return group->AllToAllV(parts.Exchange(label, send, recv));
  }
};

// rows: [n, row]; packed: [n, columns], begins at column `first` of rows. Copies one way or the other.
struct ColumnCopy {
  int64_t n, row_bytes, first_bytes, bytes;
  void Out(const std::byte* rows, std::byte* packed) const {
    for (int64_t i = 0; i < n; ++i) std::memcpy(packed + i * bytes, rows + i * row_bytes + first_bytes, bytes);
  }
  void In(const std::byte* packed, std::byte* rows) const {
    for (int64_t i = 0; i < n; ++i) std::memcpy(rows + i * row_bytes + first_bytes, packed + i * bytes, bytes);
  }
};

std::byte* BytesAt(const Tensor& x) { return static_cast<std::byte*>(x.raw()); }

absl::StatusOr<ColumnExchange> Meet(Arena& arena, const Mesh& mesh, const PartitionedTable& table, const Tensor& ids) {
  ColumnExchange x{.group = &mesh.dispatch()};
  const int ranks = x.ranks();
  const auto numbers = [&](int64_t n) { return arena.New({n}, DType::kI64).data<int64_t>(); };
  x.tokens = numbers(ranks + 1), x.columns = numbers(ranks + 1), x.sizes = numbers(4 * ranks);
  std::fill_n(x.columns, ranks + 1, 0);
  for (int p = 0; p < table.parts; ++p) x.columns[CoordinateOfPart(p, table.parts, ranks) + 1] += table.width / table.parts;
  for (int r = 0; r < ranks; ++r) x.columns[r + 1] += x.columns[r];
  CHECK_EQ(static_cast<int64_t>(table.local.size()) * (table.width / table.parts), x.held());
  int64_t mine = ids.elements();
  x.tokens[0] = 0;
  RETURN_IF_ERROR(x.group->AllGather("embedding counts", Tensor(&mine, {1}, DType::kI64), Tensor(x.tokens + 1, {ranks}, DType::kI64)));
  for (int r = 0; r < ranks; ++r) x.tokens[r + 1] += x.tokens[r];
  const Tensor all = arena.New({std::max<int64_t>(x.all(), 1)}, DType::kI32);
  x.ids = all.data<int32_t>();
  if (ranks == 1) {
    std::copy_n(ids.data<int32_t>(), mine, x.ids);
    return x;
  }
  const PartTable parts = PartTable::Over({x.sizes, 4 * static_cast<size_t>(ranks)});
  for (int r = 0; r < ranks; ++r) parts.recv_bytes[r] = x.Count(r) * SizeOf(DType::kI32);
  RETURN_IF_ERROR(x.group->AllToAllV(parts.ExchangeOfOne("embedding ids", ids, all)));  // the same ids to everyone
  return x;
}

// Adds rows [begin, end) of dy, [all, held columns], to the part whose columns begin at `first`.
template <typename T>
void AddToPart(const ColumnExchange& x, std::pair<int64_t, int64_t> rows, const T* dy, int64_t first, const Tensor& gradient) {
  const int64_t width = gradient.dim(1), held = x.held();
  T* const table = gradient.data<T>();
  for (int64_t i = rows.first; i < rows.second; ++i) {
    const T* const from = dy + i * held + first;
    T* const to = table + x.ids[i] * width;
    for (int64_t j = 0; j < width; ++j) to[j] += from[j];
  }
}

absl::Status SendGradients(Tape& tape, const ColumnExchange& x, Var out, std::span<const Var> local) {
  const TraceSpan span("embedding backward");
  const Tensor dy = tape.gradient(out);
  Arena& arena = tape.arena();
  const Arena::Mark mark = arena.Here();
  const int64_t size = SizeOf(dy.dtype()), width = dy.dim(1);
  const Tensor packed = arena.New({x.mine(), width}, dy.dtype()), received = arena.New({x.all(), x.held()}, dy.dtype());
  for (int r = 0; r < x.ranks(); ++r) {
    ColumnCopy{x.mine(), width * size, x.columns[r] * size, x.Columns(r) * size}.Out(BytesAt(dy),
                                                                                     BytesAt(packed) + x.mine() * x.columns[r] * size);
  }
  if (x.ranks() == 1) {
    received.CopyFrom(packed);
  } else {
    RETURN_IF_ERROR(x.Exchange(
        "embedding gradients", packed, received, [&](int r) { return x.mine() * x.Columns(r) * size; },
        [&](int r) { return x.Count(r) * x.held() * size; }));
  }
  DispatchFloat(dy.dtype(), [&](auto t) {
    using T = decltype(t);
    int64_t first = 0;
    for (const Var& part : local) {
      const bool apart = tape.lanes(part) > 1;
      for (int r = 0; r < x.ranks(); ++r) {
        AddToPart<T>(x, {x.tokens[r], x.tokens[r + 1]}, received.data<T>(), first, apart ? tape.gradient(part, r) : tape.gradient(part));
      }
      first += tape.value(part).dim(1);
    }
  });
  arena.Rewind(mark);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Var> PartitionedEmbedding(Tape& tape, const Mesh& mesh, const PartitionedTable& table, const Tensor& ids) {
  const TraceSpan span("embedding");
  Arena& arena = tape.arena();
  ASSIGN_OR_RETURN(const ColumnExchange x, Meet(arena, mesh, table, ids));
  const Tensor out = arena.New({x.mine(), table.width}, table.dtype);
  Var* const local = static_cast<Var*>(arena.Allocate(std::max<size_t>(table.local.size(), 1) * sizeof(Var)));
  std::ranges::copy(table.local, local);
  const std::span<const Var> parts(local, table.local.size());
  const Arena::Mark mark = arena.Here();
  const int64_t size = SizeOf(table.dtype), width = table.width / table.parts;
  const Tensor rows = arena.New({x.all(), x.held()}, table.dtype), received = arena.New({x.mine(), table.width}, table.dtype);
  for (int64_t i = 0; i < x.all(); ++i) {
    std::byte* to = BytesAt(rows) + i * x.held() * size;
    for (const Var& part : parts) {
      const Tensor value = tape.value(part);
      CHECK(x.ids[i] >= 0 && x.ids[i] < value.dim(0)) << "token " << x.ids[i] << " of " << value.dim(0);
      std::memcpy(to, BytesAt(value) + x.ids[i] * width * size, width * size);
      to += width * size;
    }
  }
  if (x.ranks() == 1) {
    out.CopyFrom(rows);
  } else {
    RETURN_IF_ERROR(x.Exchange(
        "embedding vectors", rows, received, [&](int r) { return x.Count(r) * x.held() * size; },
        [&](int r) { return x.mine() * x.Columns(r) * size; }));
    for (int r = 0; r < x.ranks(); ++r) {
      ColumnCopy{x.mine(), table.width * size, x.columns[r] * size, x.Columns(r) * size}.In(
          BytesAt(received) + x.mine() * x.columns[r] * size, BytesAt(out));
    }
  }
  arena.Rewind(mark);
  const Var y = tape.Record(out, parts);
  tape.OnBackward(
      y, [x, y, parts](Tape& t) { return SendGradients(t, x, y, parts); }, Tape::StepKind::kCollective);
  return y;
}

}  // namespace conclave
