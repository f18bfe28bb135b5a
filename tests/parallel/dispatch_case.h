// A mixture layer reduced to its bones: dispatch, one matrix per expert, combine; run on loopback ranks, and token by token as the oracle.
#ifndef CONCLAVE_TESTS_PARALLEL_DISPATCH_CASE_H_
#define CONCLAVE_TESTS_PARALLEL_DISPATCH_CASE_H_

#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "comm/ledger.h"
#include "parallel/layer_traffic.h"
#include "proto/parallel.pb.h"
#include "tensor/tensor.h"

namespace conclave {

struct DispatchCase {
  std::string name;
  int data = 1, expert = 1;  // the mesh
  int experts = 1, top_k = 1;
  std::vector<int64_t> tokens;  // by rank
  int only_expert = -1;         // every token goes there (top_k 1); -1: random distinct experts
  std::vector<int> table;       // coordinate by expert; empty: contiguous
  bool delays = false;          // ranks sleep for unequal times between operations
  DispatchConfig::Route route = DispatchConfig::FLAT;
  bool pre_reduce = false;
  DispatchConfig::Wire wire = DispatchConfig::EXACT;  // of all four flows
  std::vector<int> nodes;                             // by rank; empty: all on one
  bool holes = false;                                 // every third slot is empty
  bool lanes = false;                                 // expert gradients kept apart by source rank
  int64_t width = 3;
  int64_t most_rows = 0;
  bool fold = false;

  int ranks() const { return data * expert; }
  int Home(int e) const { return table.empty() ? e / (experts / expert) : table[e]; }
  // The data: the same for any mesh and placement with the same tokens by rank.
  std::vector<int32_t> Ids(int rank) const;       // [tokens, top_k]
  std::vector<double> Tokens(int rank) const;     // [tokens, width]
  std::vector<double> Weights(int rank) const;    // [tokens, top_k]
  std::vector<double> Cotangent(int rank) const;  // [tokens, width]: gradient of the output
  std::vector<double> Expert(int e) const;        // [width, width]
};

// What a run leaves behind. y[t] = sum_s w[t, s] W[ids[t, s]] x[t] and the gradients of sum <cotangent, y>.
struct DispatchOutcome {
  struct Rank {
    std::vector<double> y, dx, dweights;
    WireReport forward, backward;  // between ranks
    LayerTraffic traffic;          // of both
  };
  std::vector<Rank> ranks;
  // dW by (data coordinate, expert); with lanes one [width, width] after the other.
  std::map<std::pair<int, int>, std::vector<double>> dexpert;
};

// f32 results are widened to double, which keeps their bits.
absl::StatusOr<DispatchOutcome> RunDispatch(const DispatchCase& c, DType dtype);
DispatchOutcome Oracle(const DispatchCase& c);

// Four ranks on two nodes, which need not hold consecutive ranks: ranks without tokens, empty slots, all to one, two data columns.
std::vector<DispatchCase> CasesOfTwoNodes();
// Every byte of the ledger that is of a dispatch is the layer's.
void ExpectTrafficOfTheLedger(const DispatchOutcome& outcome);
void ExpectSameBits(const DispatchOutcome& a, const DispatchOutcome& b);

}  // namespace conclave

#endif  // CONCLAVE_TESTS_PARALLEL_DISPATCH_CASE_H_
