#include "bench/metis_partition.h"

#include <metis.h>

#include <limits>

#include "base/rng.h"

namespace conclave {
namespace {

// Both directions of every transition that some token takes, as METIS reads a graph.
struct Graph {
  std::vector<idx_t> begin{0}, neighbours, weights;
};

// number[v]: what METIS calls vertex v, expert v % E of layer v / E.
Graph GraphOf(const RoutingCounts& counts, const IndexPermutation& number) {
  const int experts = counts.experts(), vertices = counts.layers() * experts;
  std::vector<int> vertex_of(vertices);
  for (int v = 0; v < vertices; ++v) vertex_of[number(v)] = v;
  Graph graph;
  const auto add = [&](int vertex, int64_t weight) {
    if (weight == 0) return;
    graph.neighbours.push_back(static_cast<idx_t>(number(vertex)));
    graph.weights.push_back(static_cast<idx_t>(weight));
  };
  for (const int v : vertex_of) {
    const int j = v / experts, x = v % experts;
    for (int y = 0; j > 0 && y < experts; ++y) add((j - 1) * experts + y, counts.transitions(j - 1)[y * experts + x]);
    for (int y = 0; j + 1 < counts.layers() && y < experts; ++y) add((j + 1) * experts + y, counts.transitions(j)[x * experts + y]);
    graph.begin.push_back(static_cast<idx_t>(graph.neighbours.size()));
  }
  return graph;
}

// Tokens of expert x of layer j that meet rank p in a neighbouring layer.
int64_t Kept(const RoutingCounts& counts, const PlacementTable& table, int j, int x, int p) {
  int64_t kept = 0;
  const int experts = counts.experts();
  for (int y = 0; y < experts; ++y) {
    if (j > 0 && table[j - 1][y] == p) kept += counts.transitions(j - 1)[y * experts + x];
    if (j + 1 < counts.layers() && table[j + 1][y] == p) kept += counts.transitions(j)[x * experts + y];
  }
  return kept;
}

void Repair(const RoutingCounts& counts, int ranks, PlacementTable& table) {
  const int slots = counts.experts() / ranks;
  for (int j = 0; j < counts.layers(); ++j) {
    std::vector<int> used(ranks);
    for (const int rank : table[j]) ++used[rank];
    for (;;) {
      int64_t least = std::numeric_limits<int64_t>::max();
      int best_x = -1, best_q = -1;
      for (int x = 0; x < counts.experts(); ++x) {
        if (used[table[j][x]] <= slots) continue;
        const int64_t now = Kept(counts, table, j, x, table[j][x]);
        for (int q = 0; q < ranks; ++q) {
          if (used[q] >= slots) continue;
          const int64_t lost = now - Kept(counts, table, j, x, q);
          if (lost < least) least = lost, best_x = x, best_q = q;
        }
      }
      if (best_x < 0) break;
      --used[table[j][best_x]];
      ++used[best_q];
      table[j][best_x] = best_q;
    }
  }
}

}  // namespace

bool HasMetis() { return true; }

absl::StatusOr<PlacementTable> MetisPartition(const PlacementProblem& problem, int seed) {
  RETURN_IF_ERROR(CheckPlacementProblem(problem));
  const RoutingCounts& counts = *problem.counts;
  // Constraints of one vertex a part leave METIS nothing to coarsen, and its seed then changes nothing; the order of the vertices does.
  const IndexPermutation number({.seed = static_cast<uint64_t>(seed), .kind = RngKind::kProblem},
                                static_cast<uint64_t>(counts.layers()) * counts.experts());
  Graph graph = GraphOf(counts, number);
  idx_t vertices = counts.layers() * counts.experts(), constraints = counts.layers(), parts = problem.topology.ranks, cut = 0;
  std::vector<idx_t> vertex_weights(static_cast<size_t>(vertices) * constraints), part(vertices);
  for (idx_t v = 0; v < vertices; ++v) vertex_weights[number(v) * constraints + v / counts.experts()] = 1;
  std::vector<real_t> imbalance(constraints, 1.001f);
  idx_t options[METIS_NOPTIONS];
  METIS_SetDefaultOptions(options);
  options[METIS_OPTION_SEED] = seed;
  const int result = METIS_PartGraphKway(&vertices, &constraints, graph.begin.data(), graph.neighbours.data(), vertex_weights.data(),
                                         nullptr, graph.weights.data(), &parts, nullptr, imbalance.data(), options, &cut, part.data());
  if (result != METIS_OK) return Internal("METIS_PartGraphKway: error %d", result);
  PlacementTable table(counts.layers(), std::vector<int>(counts.experts()));
  for (idx_t v = 0; v < vertices; ++v) table[v / counts.experts()][v % counts.experts()] = static_cast<int>(part[number(v)]);
  Repair(counts, problem.topology.ranks, table);
  return table;
}

}  // namespace conclave
