// PowerSGD (Vogels, Karimireddy, Jaggi, arXiv 1905.13727): each matrix G_m = v_m + e_m of worker m, [rows, cols], goes as one step of the
// power method on the mean, started from the Q of the step before:
//   A = mean of G_m Q   [rows, width], orthonormalised;   Q = mean of G_m^T A   [cols, width];   aggregate = A Q^T;   e_m = G_m - A Q^T
// Both means are exact sums by the reduction tree. Blocks that are no matrix, or for which 2 (rows + cols) width >= rows cols, are
// exchanged exactly. Where width is the rank of the mean the aggregate is the mean, to rounding. Memory: one matrix per worker and its
// second copy; arithmetic: 4 rows cols width a worker and exchange, twice that for the aggregate.
#include <algorithm>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/rng.h"
#include "comm/compressor.h"
#include "comm/exchanges.h"
#include "comm/ledger.h"
#include "comm/matrix_factors.h"
#include "comm/sums.h"
#include "comm/worker_memory.h"

namespace conclave {
namespace {

constexpr uint32_t kFactorDraw = 15;  // of a server's messages: none comes so late in a step

bool Pays(const MatrixSize& size, int64_t width) { return size.rows > 0 && (size.rows + size.cols) * width * 2 < size.rows * size.cols; }

// Some blocks of a layout in other sizes, on the same ranks and with the same ids.
struct FactorSpace {
  // shapes: by block id; no dimensions: left out.
  FactorSpace(const ExchangeContext& context, const std::vector<Shape>& shapes) {
    const ParameterSet& parameters = context.layout->parameters();
    std::vector<BlockHome> homes;
    for (int i = 0; i < parameters.size(); ++i) {
      BlockSpec spec = parameters[{i}];
      BlockHome home = context.layout->home({i});
      home.offset = -1;
      if (shapes[static_cast<size_t>(i)].dims() == 0) {
        home.owners.clear();
      } else {
        spec.shape = shapes[static_cast<size_t>(i)];
      }
      set.Add(std::move(spec));
      homes.push_back(std::move(home));
    }
    layout.emplace(&set, context.layout->rank(), std::move(homes));
  }

  std::unique_ptr<Exchange> MakeExact(const ExchangeContext& context) const {
    ExchangeContext own = context;
    own.layout = &*layout;
    own.world_size_invariant = true;
    return MakeExactExchange(own);
  }

  ParameterSet set;
  std::optional<Layout> layout;
};

// By block id: which blocks go as factors; the shapes of A, or of the block itself where it goes exactly; of Q, or none.
std::vector<bool> Compressed(const ExchangeContext& context, int64_t width) {
  std::vector<bool> compressed;
  for (const BlockSpec& spec : context.layout->parameters().blocks()) compressed.push_back(Pays(MatrixOf(spec.shape), width));
  return compressed;
}
std::vector<Shape> LeftShapes(const ExchangeContext& context, int64_t width) {
  std::vector<Shape> shapes;
  for (const BlockSpec& spec : context.layout->parameters().blocks()) {
    const MatrixSize size = MatrixOf(spec.shape);
    shapes.push_back(Pays(size, width) ? Shape{size.rows, width} : spec.shape);
  }
  return shapes;
}
std::vector<Shape> RightShapes(const ExchangeContext& context, int64_t width) {
  std::vector<Shape> shapes;
  for (const BlockSpec& spec : context.layout->parameters().blocks()) {
    const MatrixSize size = MatrixOf(spec.shape);
    shapes.push_back(Pays(size, width) ? Shape{size.cols, width} : Shape{});
  }
  return shapes;
}

class PowerSgdExchange final : public Exchange {
 public:
  PowerSgdExchange(int64_t width, const ExchangeContext& context)
      : width_(width),
        context_(context),
        compressed_(Compressed(context, width)),
        left_(context, LeftShapes(context, width)),
        right_(context, RightShapes(context, width)),
        left_exchange_(left_.MakeExact(context)),
        right_exchange_(right_.MakeExact(context)),
        e_m_(context, compressed_),
        q_(&*right_.layout, context.dtype),
        q_new_(&*right_.layout, context.dtype),
        a_(&*left_.layout, context.dtype),
        aggregate_(context.layout, context.dtype),
        came_(compressed_.size() * static_cast<size_t>(context.workers.workers)) {
    int64_t largest = 1;
    const std::span<const BlockId> local = context.layout->local_blocks();
    for (auto it = local.rbegin(); it != local.rend(); ++it) {
      if (!compressed_[static_cast<size_t>(it->value)]) continue;
      factored_.push_back(*it);
      largest = std::max({largest, left_.set[*it].shape.elements(), right_.set[*it].shape.elements()});
      StartFactor(*it, q_, /*all=*/true);
      const int64_t spared =
          context.layout->parameters()[*it].shape.elements() - left_.set[*it].shape.elements() - right_.set[*it].shape.elements();
      ForSources(context, *it, [&](int first, int last) { spared_bytes_ += (last - first) * spared * SizeOf(context.dtype); });
    }
    factor_ = OwnedTensor({largest}, context.dtype);
  }

  void Begin(uint32_t step, uint32_t draw) override {
    left_exchange_->Begin(step, draw);
    right_exchange_->Begin(step, draw);
    came_.assign(came_.size(), false);
  }

  absl::Status Put(WorkerId worker, BlockId block, const Tensor& span, bool folded) override {
    CHECK(!folded) << "error feedback needs each worker's own vector";
    if (!compressed_[static_cast<size_t>(block.value)]) return left_exchange_->Put(worker, block, span);
    const size_t place = Place(worker.value, block);
    if (came_[place]) return Internal("exchange: worker %d puts block %d twice", worker.value, block.value);
    came_[place] = true;
    const Tensor g = e_m_.Pending(worker, block), v = span.Flat();
    g.CopyFrom(v);
    AddInto(v.dtype(), e_m_.At(worker, block).raw(), g.raw(), v.elements());
    return absl::OkStatus();
  }

  absl::StatusOr<Aggregate> Finish() override {
    for (const BlockId block : factored_) RETURN_IF_ERROR(PutFactors(block, /*left=*/true));
    ASSIGN_OR_RETURN(const Aggregate left, left_exchange_->Finish());
    a_.CopyFrom(*left);
    for (const BlockId block : factored_) {
      Orthonormalise(a_.block(block), SizeOfBlock(block).rows, width_);
      RETURN_IF_ERROR(PutFactors(block, /*left=*/false));
    }
    ASSIGN_OR_RETURN(const Aggregate right, right_exchange_->Finish());
    q_new_.CopyFrom(*right);
    for (const BlockId block : context_.layout->local_blocks()) {
      if (compressed_[static_cast<size_t>(block.value)]) {
        Rebuild(block);
      } else {
        aggregate_.block(block).CopyFrom(a_.block(block));
      }
    }
    if (context_.world->ledger() != nullptr) context_.world->ledger()->BookLogical({.dense_bytes = spared_bytes_});
    return &aggregate_;
  }

  void Commit() override {
    e_m_.Commit();
    q_.CopyFrom(q_new_);
  }
  void Discard() override {}
  bool wants_each_worker() const override { return true; }
  void Register(StateDict& state, const std::string& part) override {
    e_m_.Register(state, part + ".e_m");
    state.Add(part + ".q", q_);
  }

 private:
  size_t Place(int worker, BlockId block) const {
    return static_cast<size_t>(worker) * compressed_.size() + static_cast<size_t>(block.value);
  }
  MatrixSize SizeOfBlock(BlockId id) const { return MatrixOf(context_.layout->parameters()[id].shape); }

  // Random columns: all, or those that are zero. (From a zero column nothing would be learnt ever again.)
  void StartFactor(BlockId block, const FlatVector& q, bool all) const {
    const RngKey key{.seed = context_.seed,
                     .site = static_cast<uint32_t>(block.value),
                     .worker = static_cast<uint32_t>(kServer.value),
                     .kind = RngKind::kCodec,
                     .draw = kFactorDraw};
    const int64_t cols = SizeOfBlock(block).cols;
    DispatchFloat(context_.dtype, [&](auto t) {
      using T = decltype(t);
      T* const values = q.block(block).template data<T>();
      for (int64_t w = 0; w < width_; ++w) {
        bool zero = true;
        for (int64_t j = 0; j < cols && !all; ++j) zero = zero && values[j * width_ + w] == 0;
        for (int64_t j = 0; j < cols && zero; ++j) {
          values[j * width_ + w] = static_cast<T>(key.Normal(static_cast<uint64_t>(j * width_ + w)));
        }
      }
    });
  }

  // Every worker's G Q, or G^T A, into its sum; the vector of a worker that never came is +0.
  absl::Status PutFactors(BlockId block, bool left) {
    const MatrixSize size = SizeOfBlock(block);
    absl::Status status;
    ForSources(context_, block, [&](int first, int last) {
      for (int worker = first; worker < last; ++worker) {
        const Tensor g = e_m_.Pending({worker}, block);
        if (left && !came_[Place(worker, block)]) g.CopyFrom(e_m_.At({worker}, block));
        const Tensor factor = factor_->Slice(0, (left ? size.rows : size.cols) * width_);
        if (left) {
          TimesFactor(g, q_.block(block), factor, size, width_);
        } else {
          TransposedTimesFactor(g, a_.block(block), factor, size, width_);
        }
        status.Update((left ? left_exchange_ : right_exchange_)->Put({worker}, block, factor));
      }
    });
    return status;
  }

  // The aggregate, and what each worker keeps of its G.
  void Rebuild(BlockId block) {
    const Tensor sum = aggregate_.block(block).Flat();
    FactorsProduct(a_.block(block), q_new_.block(block), sum, SizeOfBlock(block), width_);
    ForSources(context_, block, [&](int first, int last) {
      for (int worker = first; worker < last; ++worker) {
        const Tensor g = e_m_.Pending({worker}, block);
        Difference(g.dtype(), g.raw(), sum.raw(), g.raw(), g.elements());
      }
    });
    StartFactor(block, q_new_, /*all=*/false);
  }

  const int64_t width_;
  const ExchangeContext context_;
  const std::vector<bool> compressed_;  // by block id
  const FactorSpace left_, right_;      // A, and blocks that go exactly; Q
  const std::unique_ptr<Exchange> left_exchange_, right_exchange_;
  WorkerMemory e_m_;  // pending: G_m, then the new e_m
  FlatVector q_, q_new_, a_, aggregate_;
  std::vector<BlockId> factored_;  // local ones, descending
  OwnedTensor factor_;
  int64_t spared_bytes_ = 0;  // of a worker's vectors, by sending factors
  std::vector<bool> came_;    // [M, blocks]
};

}  // namespace

ExchangeOr MakePowerSgdExchange(const ExchangeConfig& config, const ExchangeContext& context) {
  const int64_t width = config.power_sgd().width();
  if (width < 1) return InvalidArgument("power_sgd: width must be at least 1, got %d", width);
  if (config.has_downlink()) {
    return InvalidArgument("exchange.downlink: power_sgd sums factors exactly, both ways are small already; leave it out");
  }
  return std::make_unique<PowerSgdExchange>(width, context);
}

}  // namespace conclave
