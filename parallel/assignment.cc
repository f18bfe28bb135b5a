#include "parallel/assignment.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/check.h"

namespace conclave {
namespace {

constexpr int64_t kFar = std::numeric_limits<int64_t>::max() / 4;

// Assigns one more row by a shortest augmenting path. Index 0 of the columns stands for the new row; potentials keep reduced costs >= 0.
struct Hungarian {
  std::span<const int64_t> cost;  // [n, n]
  int n;
  std::vector<int64_t> u, v;
  std::vector<int> row_of;  // of column 1..n; 0: free

  Hungarian(std::span<const int64_t> matrix, int size) : cost(matrix), n(size), u(size + 1), v(size + 1), row_of(size + 1) {}

  void Add(int row) {
    std::vector<int64_t> distance(n + 1, kFar);
    std::vector<int> before(n + 1);
    std::vector<char> done(n + 1);
    row_of[0] = row;
    int column = 0;
    while (row_of[column] != 0 || column == 0) {
      done[column] = 1;
      const int i = row_of[column];
      int64_t least = kFar;
      int next = 0;
      for (int j = 1; j <= n; ++j) {
        if (done[j]) continue;
        const int64_t reduced = cost[(i - 1) * n + j - 1] - u[i] - v[j];
        if (reduced < distance[j]) distance[j] = reduced, before[j] = column;
        if (distance[j] < least) least = distance[j], next = j;
      }
      for (int j = 0; j <= n; ++j) {
        if (done[j]) {
          u[row_of[j]] += least;
          v[j] -= least;
        } else {
          distance[j] -= least;
        }
      }
      column = next;
    }
    for (; column != 0; column = before[column]) row_of[column] = row_of[before[column]];
  }
};

// For every pair of ranks: the most one item of `from` gains by moving to `to`, and which (the lowest of equals).
struct Moves {
  int ranks;
  std::vector<int64_t> gain;
  std::vector<int> item;

  Moves(std::span<const int64_t> gains, int count, const std::vector<int>& at)
      : ranks(count), gain(static_cast<size_t>(count) * count, -kFar), item(gain.size(), -1) {
    const int items = static_cast<int>(at.size());
    for (int q = 0; q < ranks; ++q) {
      for (int i = 0; i < items; ++i) {
        const int p = at[i];
        const int64_t won = gains[q * items + i] - gains[p * items + i];
        if (p != q && won > gain[p * ranks + q]) gain[p * ranks + q] = won, item[p * ranks + q] = i;
      }
    }
  }
};

// A cycle of ranks along which moves gain in sum, found by Bellman-Ford from everywhere; empty: none. cycle[k] moves to cycle[k + 1].
std::vector<int> GainingCycle(const Moves& moves) {
  const int n = moves.ranks;
  std::vector<int64_t> won(n, 0);
  std::vector<int> before(n, -1);
  int last = -1;
  for (int round = 0; round < n; ++round) {
    last = -1;
    for (int p = 0; p < n; ++p) {
      for (int q = 0; q < n; ++q) {
        if (moves.item[p * n + q] < 0 || won[p] + moves.gain[p * n + q] <= won[q]) continue;
        won[q] = won[p] + moves.gain[p * n + q];
        before[q] = p;
        last = q;
      }
    }
    if (last < 0) return {};
  }
  for (int k = 0; k < n; ++k) last = before[last];  // now surely on the cycle
  std::vector<int> cycle{last};
  for (int p = before[last]; p != last; p = before[p]) cycle.push_back(p);
  std::reverse(cycle.begin(), cycle.end());
  return cycle;
}

}  // namespace

std::vector<int> BestPermutation(std::span<const int64_t> gain, int n) {
  std::vector<int64_t> cost(gain.size());
  // Staying in place breaks ties: worth 1 where a unit of gain is worth n + 1.
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) cost[i * n + j] = -(gain[i * n + j] * (n + 1) + (i == j));
  }
  Hungarian hungarian(cost, n);
  for (int row = 1; row <= n; ++row) hungarian.Add(row);
  std::vector<int> to(n);
  for (int j = 1; j <= n; ++j) to[hungarian.row_of[j] - 1] = j - 1;
  return to;
}

std::vector<int> BestRenaming(std::span<const int64_t> gain, const Topology& topology) {
  const int q = topology.ranks_per_node(), nodes = topology.nodes;
  std::vector<int64_t> node_gain(static_cast<size_t>(nodes) * nodes);
  std::vector<std::vector<int>> inside(node_gain.size());
  std::vector<int64_t> block(static_cast<size_t>(q) * q);
  for (int a = 0; a < nodes; ++a) {
    for (int b = 0; b < nodes; ++b) {
      for (int i = 0; i < q; ++i) {
        for (int j = 0; j < q; ++j) block[i * q + j] = gain[(a * q + i) * topology.ranks + b * q + j];
      }
      std::vector<int>& to = inside[a * nodes + b] = BestPermutation(block, q);
      for (int i = 0; i < q; ++i) node_gain[a * nodes + b] += block[i * q + to[i]];
    }
  }
  const std::vector<int> node_to = BestPermutation(node_gain, nodes);
  std::vector<int> to(topology.ranks);
  for (int r = 0; r < topology.ranks; ++r) {
    const int a = r / q, b = node_to[a];
    to[r] = b * q + inside[a * nodes + b][r % q];
  }
  return to;
}

bool BestBalanced(std::span<const int64_t> gain, int ranks, std::vector<int>& to) {
  bool moved = false;
  for (;;) {
    const Moves moves(gain, ranks, to);
    const std::vector<int> cycle = GainingCycle(moves);
    if (cycle.empty()) return moved;
    for (size_t k = 0; k < cycle.size(); ++k) {
      const int p = cycle[k], q = cycle[(k + 1) % cycle.size()];
      to[moves.item[p * ranks + q]] = q;
    }
    moved = true;
  }
}

}  // namespace conclave
