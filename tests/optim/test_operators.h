// An affine saddle-point game with closed-form facts, and the machinery to play it with any scheme on loopback ranks.
#ifndef CONCLAVE_TESTS_OPTIM_TEST_OPERATORS_H_
#define CONCLAVE_TESTS_OPTIM_TEST_OPERATORS_H_

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "comm/ledger.h"
#include "optim/operator.h"
#include "optim/scheme.h"
#include "optim/schemes.h"
#include "proto/optim.pb.h"

namespace conclave {

// min_x max_y (1/M) sum_m x^T A_m y + a_m^T x + b_m^T y + lambda / 2 (|x|^2 - |y|^2), and beside it for every expert block e the
// minimisation of mean_m (1 + lambda) / 2 |e - t_me|^2 + coupling to x. A_m = A + E_m with sum_m E_m = 0; a_m, b_m put the solution where
// it is declared.
struct GameOptions {
  int workers = 4;
  int n = 6;               // x.weight: [n, 1], y.bias: [n]
  int experts = 0;         // layer.experts.<e>.w: [3]
  double lambda = 0.5;     // mu; 0: a bilinear game
  double sigma_min = 0.2;  // A is diagonal with singular values from sigma_min to sigma_max
  double sigma_max = 1;
  double heterogeneity = 0.3;  // size of E_m
  double coupling = 0.1;       // of experts to x, as their owner sees it
  double noise = 0;            // of a sample, by key
  int poison_step = -1;        // there worker 1's y block is NaN
  double spike = 1;            // at poison_step the field is this times as long instead, where it is not 1
  DType dtype = DType::kF64;
  uint64_t seed = 5;
};

ParameterSet GameParameters(const GameOptions& options);
// The Lipschitz constant of F_m without experts: the root of lambda^2 + |A_m|^2, by 200 iterations of the power method.
double WorkerLipschitz(const GameOptions& options, int worker);

class AffineGame : public Operator {
 public:
  // workers: where they are; layout over GameParameters(options).
  AffineGame(const GameOptions& options, const WorkerMap& workers, const Layout* layout);

  const Layout& layout() const override { return *layout_; }
  DType dtype() const override { return options_.dtype; }
  absl::StatusOr<Evaluation> Evaluate(const FlatVector& point, const SampleKey& key, bool each_worker, const OnBlock& on_block) override;
  void Select(std::span<const char> workers) override { selected_ = workers; }

  void Solution(const FlatVector& z) const;
  double Sigma(int i) const;  // singular value of mode i of A
  double evaluations() const override { return static_cast<double>(evaluations_) / options_.workers; }

 private:
  // F_m of one block, noise and poison included.
  void EvaluateBlock(WorkerId worker, BlockId block, const FlatVector& point, const SampleKey& key, std::vector<double>* out) const;
  double Matrix(int worker, int row, int column) const;  // A_m
  double Offset(int worker, int i) const;                // constant term of F_m, i in [0, 2n)
  double Shift(int worker, uint32_t site, int i) const;  // random, sums to +0 over workers up to rounding
  double Target(int expert, int i) const;

  GameOptions options_;
  WorkerMap workers_;
  const Layout* layout_;
  std::vector<double> matrices_, offsets_;  // [M, n, n], [M, 2n]
  OwnedTensor out_;
  std::span<const char> selected_;  // by worker; empty: all
  int64_t evaluations_ = 0;         // of single workers
};

// `text` as a config of type OptimConfig (or one of its parts), defaults filled in as the config loader does.
template <typename Config>
Config ParseConfig(const std::string& text);
extern template OptimConfig ParseConfig(const std::string&);
extern template ScheduleConfig ParseConfig(const std::string&);
extern template GuardConfig ParseConfig(const std::string&);

// Train state by logical name: what a checkpoint holds.
struct SavedState {
  std::map<std::string, std::string> tensors;  // raw bytes
  std::map<std::string, double> scalars;

  void Add(const StateDict& state);                    // the canonical entries
  absl::Status Restore(const StateDict& state) const;  // every entry must be there
  std::vector<double> Doubles(const std::string& name) const;
  std::vector<double> All(const std::string& part) const;  // f64 entries "<part>/...", in name order
  bool operator==(const SavedState&) const = default;
};
std::string FirstDifference(const SavedState& a, const SavedState& b);  // "" where equal

struct Play {
  OptimConfig config;
  GameOptions game;
  int ranks = 1;
  int expert_axis = 1;
  bool invariant = true;               // WORLD_SIZE_INVARIANT
  int64_t first = 0, steps = 20;       // the cursor runs from first to first + steps
  const SavedState* resume = nullptr;  // null: a fresh start
  bool from_solution = false;
  uint64_t seed = 11;
};

struct Outcome {
  SavedState state;
  std::vector<StepReport> reports;
  std::vector<double> distances;    // ||z - z*|| before the first step and after every step
  std::vector<double> evaluations;  // by step
  std::vector<WireReport> wires;    // by rank: of all steps and the start
};

// Plays on loopback ranks. Fails where ranks disagree about a report or a replica.
absl::StatusOr<Outcome> PlayGame(const Play& play);

// One rank's surroundings of a game.
struct Stage {
  Stage(Communicator& world, const Play& play);
  absl::Status Open();  // splits communicators

  const Play& play;
  Communicator& world;
  ParameterSet parameters;
  std::unique_ptr<Layout> layout;
  std::unique_ptr<Communicator> data;
  SchemeContext context;
  std::unique_ptr<AffineGame> game;
};

}  // namespace conclave

#endif  // CONCLAVE_TESTS_OPTIM_TEST_OPERATORS_H_
