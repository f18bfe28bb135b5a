// A rank's part of a checkpoint: one safetensors file and its manifest.
#ifndef CONCLAVE_TRAINER_CHECKPOINT_SHARD_H_
#define CONCLAVE_TRAINER_CHECKPOINT_SHARD_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "base/status.h"
#include "proto/checkpoint.pb.h"
#include "tensor/state_dict.h"
#include "trainer/safetensors.h"

namespace conclave {

// Checksummed and written in pieces of this size.
inline constexpr int64_t kCheckpointChunkBytes = int64_t{1} << 20;

// Where each canonical entry of a rank will lie, and the values of its scalars. Refers to the dictionary's tensors.
struct ShardPlan {
  SafetensorsFile file;
  std::vector<Tensor> tensors;          // as file.entries
  std::map<std::string, double> reals;  // by name
};

// The file is a function of the entries' names, types and shapes alone. Errors: Unimplemented for a tensor that is not in host memory,
// Internal for two tensors or scalars of one name.
absl::StatusOr<ShardPlan> PlanShard(const StateDict& dict);

std::string ShardName(int rank);  // "rank-<r>.safetensors"
std::string ShardManifestName(
    int rank);  // "rank-<r>.manifest.pb": lets the commit be finished without this process; gone from committed checkpoints

// Writes and syncs both files into `folder`, which exists. The bytes of the shard are a function of the state and the plan: no time, host
// or number of ranks.
absl::StatusOr<ShardManifest> WriteShard(const FileSystem& files, const std::string& folder, int rank, const ShardPlan& plan);

// Joins the ranks' manifests (shards[r] of rank r) into `manifest`. A scalar that several ranks have is taken from the lowest: they agree.
// Errors: Internal if two ranks wrote a tensor of one name, which is our bug but must not end the run.
absl::Status JoinShards(std::span<const ShardManifest> shards, CheckpointManifest* manifest);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CHECKPOINT_SHARD_H_
