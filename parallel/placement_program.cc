#include "parallel/placement_program.h"

#include "base/strings.h"

namespace conclave {
namespace {

// visit(layer, i, k, tokens) for every transition with tokens.
template <typename Visit>
void ForTransitions(const RoutingCounts& counts, Visit&& visit) {
  for (int j = 0; j + 1 < counts.layers(); ++j) {
    for (int i = 0; i < counts.experts(); ++i) {
      for (int k = 0; k < counts.experts(); ++k) {
        const int64_t tokens = counts.transitions(j)[i * counts.experts() + k];
        if (tokens > 0) visit(j, i, k, tokens);
      }
    }
  }
}

void AppendAssignment(const RoutingCounts& counts, int ranks, std::string* text) {
  for (int j = 0; j < counts.layers(); ++j) {
    for (int i = 0; i < counts.experts(); ++i) {
      for (int p = 0; p < ranks; ++p) absl::StrAppendFormat(text, "%s x_%d_%d_%d", p == 0 ? "" : " +", j, i, p);
      *text += " = 1\n";
    }
    for (int p = 0; p < ranks; ++p) {
      for (int i = 0; i < counts.experts(); ++i) absl::StrAppendFormat(text, "%s x_%d_%d_%d", i == 0 ? "" : " +", j, i, p);
      absl::StrAppendFormat(text, " = %d\n", counts.experts() / ranks);
    }
  }
}

}  // namespace

std::string RenderLinearProgram(const PlacementProblem& problem) {
  const RoutingCounts& counts = *problem.counts;
  const Topology& topology = problem.topology;
  const int64_t of_rank = topology.intra_cost, of_node = topology.inter_cost - topology.intra_cost;
  const int q = topology.ranks_per_node();
  std::string text = "\\ chain objective: tokens that change rank and node between adjacent layers\nMinimize\n obj:";
  ForTransitions(counts, [&](int j, int i, int k, int64_t tokens) {
    absl::StrAppendFormat(&text, "\n + %d y_%d_%d_%d + %d z_%d_%d_%d", of_rank * tokens, j, i, k, of_node * tokens, j, i, k);
  });
  text += "\nSubject To\n x_0_0_0 = 1\n";
  AppendAssignment(counts, topology.ranks, &text);
  ForTransitions(counts, [&](int j, int i, int k, int64_t) {
    for (int p = 0; p < topology.ranks; ++p)
      absl::StrAppendFormat(&text, " y_%d_%d_%d - x_%d_%d_%d + x_%d_%d_%d >= 0\n", j, i, k, j, i, p, j + 1, k, p);
    for (int n = 0; n < topology.nodes; ++n) {
      absl::StrAppendFormat(&text, " z_%d_%d_%d", j, i, k);
      for (int p = n * q; p < (n + 1) * q; ++p) absl::StrAppendFormat(&text, " - x_%d_%d_%d + x_%d_%d_%d", j, i, p, j + 1, k, p);
      text += " >= 0\n";
    }
  });
  text += "Binary\n";
  for (int j = 0; j < counts.layers(); ++j) {
    for (int i = 0; i < counts.experts(); ++i) {
      for (int p = 0; p < topology.ranks; ++p) absl::StrAppendFormat(&text, " x_%d_%d_%d", j, i, p);
      text += '\n';
    }
  }
  return text + "End\n";
}

}  // namespace conclave
