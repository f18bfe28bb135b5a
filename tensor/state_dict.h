// StateDict: what checkpoints, migration and resharding read and write: named spans of train state.
#ifndef CONCLAVE_TENSOR_STATE_DICT_H_
#define CONCLAVE_TENSOR_STATE_DICT_H_

#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "tensor/layout.h"

namespace conclave {

// One named tensor, whole, in model-tensor space. Names are logical: "<part>/<block name>" or "<part>/worker.<m>/<block name>"; never ranks
// or slots.
struct StateEntry {
  std::string name;
  Tensor data;            // where it lives here; loading writes into it
  bool canonical = true;  // this rank writes it; other holders only read it back
};

// A small plain value (counters, flags), the same on every rank.
struct StateScalar {
  std::string name;
  std::function<double()> get;
  std::function<void(double)> set;
};

class StateDict {
 public:
  void Add(StateEntry entry) { entries_.push_back(std::move(entry)); }
  // Every local block of `vector` as "<part>/<block name>".
  void Add(const std::string& part, const FlatVector& vector);
  // An integer below 2^53 or a double, bound to a variable that outlives the dictionary.
  void AddScalar(std::string name, int64_t* value);
  void AddScalar(std::string name, double* value);

  const std::vector<StateEntry>& entries() const { return entries_; }
  const std::vector<StateScalar>& scalars() const { return scalars_; }

 private:
  std::vector<StateEntry> entries_;
  std::vector<StateScalar> scalars_;
};

}  // namespace conclave

#endif  // CONCLAVE_TENSOR_STATE_DICT_H_
