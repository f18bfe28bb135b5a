// TokenRoute: the way of rows from tokens to experts, in one or two hops, and back.
#ifndef CONCLAVE_PARALLEL_TOKEN_ROUTE_H_
#define CONCLAVE_PARALLEL_TOKEN_ROUTE_H_

#include <span>
#include <string_view>

#include "parallel/dispatch_grid.h"
#include "parallel/dispatch_route.h"
#include "parallel/expert_placement.h"
#include "parallel/layer_traffic.h"
#include "parallel/row_codec.h"
#include "parallel/row_moves.h"
#include "tensor/arena.h"
#include "tensor/ops/ops.h"

namespace conclave {

// One exchange among the members of a group. What travels are *copies*, one for each (token, slot), in an order that the sender knows; and
// *rows*, of which several copies may share one. Spans live in the arena of the tape.
struct RouteHop {
  Communicator* group = nullptr;
  std::span<int64_t> send_copies, recv_copies;  // [members] to and from each
  std::span<int64_t> copy_source;               // [copies sent] place among the copies before the hop; first hop: token * k + slot
  std::span<int64_t> send_rows, recv_rows;      // [members]
  std::span<int64_t> row_source;                // [rows sent] place among the rows before the hop; first hop: token
  int64_t copies_received = 0, rows_received = 0;
  std::span<int64_t> sent_row, received_row;  // by copy: the row that it is a copy of, among those sent and received; empty: as copies
  // First hop of a route that folds. Items come home: of every token the sum of its slots 0, 1, .. as far as one member has them, and all
  // other copies as they are.
  std::span<int64_t> send_items, recv_items;  // [members] to those whose tokens they are; from those who have the experts
  std::span<int64_t> slot, token;             // [copies received] slot, and row
  std::span<int64_t> by_slot;                 // [rows received * k] copies; -1: not here
};

// Where every row of one dispatch goes. P = expert axis, S = experts per rank, n tokens here, k slots, m rows received here. Expert order:
// by (local expert, source, token, slot).
struct DispatchPlan {
  int64_t tokens = 0, top_k = 0, received = 0;
  int layer = 0;
  int pieces = 0;            // that it travels in; 0: as a whole
  bool bounded = false;      // each of them is forgotten when the next one comes
  bool by_lane = false;      // gradients of experts are kept apart by source rank
  bool shares_rows = false;  // one row for several copies
  RouteHop hops[2];
  int hop_count = 1;
  int64_t items = 0;                // that come home to this rank where the route folds
  std::span<int64_t> item;          // [n * k]: and which of them (token, slot) is; -1: part of an earlier one, or empty
  std::span<int64_t> position;      // [n * k]: place of (token, slot) among the copies of the first hop; -1: the slot is empty
  std::span<int64_t> wire_of;       // [m]: place of a row of expert order among the copies of the last hop
  std::span<int64_t> row_of;        // [m]: and among its rows
  std::span<int64_t> own_row;       // one hop: [copies for experts of this rank], in the order of `position`: their rows in expert order
  RowGroups groups;                 // experts = S, lanes = P
  LayerTraffic* traffic = nullptr;  // where its exchanges are counted, set before MakePlan; null: nowhere

  RowTally* Count(TokenWay way, int64_t row_bytes) const { return traffic == nullptr ? nullptr : traffic->Begin(way, tokens, row_bytes); }
  RowTally* rest() const { return traffic == nullptr ? nullptr : &traffic->rest; }
};

// The kinds of route (see DispatchConfig). Immutable; all must outlive it. Every rank enters every collective, whatever its counts.
class TokenRoute {
 public:
  // grid: needed by the two-level kinds. kind: not AUTO. folds: plans are made for ReturnFolded too; with kinds that send once only.
  TokenRoute(const Mesh* mesh, const DispatchGrid* grid, DispatchConfig::Route kind, bool folds = false);

  bool deduplicates() const { return SendsOnce(kind_); }

  // What tokens ask for. ids: i32 [n, k] logical experts of `layer`, -1: empty; leaf: its turn, see ExpertPlacement::PlaceOf.
  struct Choice {
    Tensor ids;
    int layer = 0;
    int64_t leaf = -1;
  };
  // Collective. Cost a hop: one all-to-all of counts; where it deduplicates, also one of 4 bytes a copy.
  absl::Status MakePlan(Arena& arena, const ExpertPlacement& placement, const Choice& choice, DispatchPlan* plan) const;

  // What an exchange is called in the ledger and by the watchdog (a string literal), and how its rows are written; null: as they are.
  struct Wire {
    std::string_view label;
    const RowCodec* codec = nullptr;
    bool rest = false;      // of copies, beside tokens and results: counted apart (LayerTraffic)
    bool own_stay = false;  // of copies: those for experts of this rank are left out in the order of `position`; one hop, no codec
  };
  // These copies, as rows of a tensor in expert order; none with two hops.
  static RowsElsewhere OwnCopies(const DispatchPlan& plan, const Tensor& rows);
  // x: [n, w] -> [m, w] in expert order: each row once over every hop, written once. Collective.
  absl::Status SendRows(Arena& arena, const DispatchPlan& plan, const Tensor& x, const Tensor& rows, const Wire& wire) const;
  // x: [>= copies, w] in the order of `position` -> [m, w] in expert order. Collective.
  absl::Status SendCopies(Arena& arena, const DispatchPlan& plan, const Tensor& x, const Tensor& rows, const Wire& wire) const;
  // The way back of SendCopies: rows [m, w] in expert order -> [n k, w] in the order of `position`. Collective.
  absl::Status ReturnCopies(Arena& arena, const DispatchPlan& plan, const Tensor& rows, const Tensor& home, const Wire& wire) const;
  // The same with sums of a token's first slots formed where they are: rows [m, w] f32 or f64 -> [plan.items, w] in the order of plan.item,
  // whose sum over a token's items in the order of slots has the bits of the sum over its slots. Only for routes that fold. Collective.
  absl::Status ReturnFolded(Arena& arena, const DispatchPlan& plan, const Tensor& rows, const Tensor& items, std::string_view label) const;
  // The adjoint of SendRows: rows [m, w] f32 or f64 in expert order -> y [n, w], y[t] = the sum of its copies, added up and written anew at
  // every hop on the way; tokens without copies give 0. Collective.
  absl::Status ReturnSums(Arena& arena, const DispatchPlan& plan, const Tensor& rows, const Tensor& y, const Wire& wire) const;

 private:
  struct CopyList;
  struct HopTables;
  static void FoldAtHome(Arena& arena, const CopyList& before, DispatchPlan* plan);
  static void FoldThere(Arena& arena, std::span<const int32_t> arrived, std::span<const int64_t> rows, int64_t top_k, RouteHop* hop);
  absl::Status MakeHop(Arena& arena, const CopyList& before, RowTally* tally, RouteHop* hop, CopyList* after) const;
  static void ShareRows(Arena& arena, const CopyList& before, HopTables* tables, RouteHop* hop);
  static void FindOwn(Arena& arena, DispatchPlan* plan);
  static void MakeGroups(Arena& arena, const CopyList& arrived, std::pair<int64_t, int64_t> slots_and_ranks, DispatchPlan* plan);

  const Mesh* mesh_;
  const DispatchGrid* grid_;
  DispatchConfig::Route kind_;
  bool folds_;
};

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_TOKEN_ROUTE_H_
