// WorkerVectors: one vector of the parameter space per worker, as far as this rank sees that worker.
#ifndef CONCLAVE_OPTIM_WORKER_VECTORS_H_
#define CONCLAVE_OPTIM_WORKER_VECTORS_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/exchange.h"
#include "tensor/layout.h"
#include "tensor/state_dict.h"

namespace conclave {

// Replicated blocks are kept for the rank's own workers; expert blocks for every worker of its data column, whose tokens meet here. So each
// (block, worker) is kept by one rank, whatever the mesh. Memory: own workers * replicated bytes + column workers * local expert bytes.
class WorkerVectors {
 public:
  WorkerVectors(const Layout* layout, const WorkerMap& workers, DType dtype);  // zeros; the layout must outlive the object

  Tensor At(WorkerId worker, BlockId block) const;
  // Every worker in ascending order, each with its blocks: the order in which an exchange may take them.
  absl::Status ForEach(const std::function<absl::Status(WorkerId, BlockId, const Tensor&)>& visit) const;
  void CopyFrom(const WorkerVectors& source);                                        // of the same layout and map, as those of Combine
  void CopyFrom(const FlatVector& source);                                           // to every worker
  void Combine(double a, const WorkerVectors& x, double b, const WorkerVectors& y);  // this_m = a x_m + b y_m; aliases allowed
  void Register(StateDict& state, const std::string& part) const;                    // "<part>/worker.<m>/<block>"

 private:
  int first_;                        // lowest worker seen here
  std::unique_ptr<Layout> all_;      // replicated and expert blocks: own workers
  std::unique_ptr<Layout> experts_;  // expert blocks only: other workers of the column
  std::vector<FlatVector> vectors_;  // by worker - first_
};

// Elements of the largest local block.
int64_t LargestBlock(const Layout& layout);

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_WORKER_VECTORS_H_
