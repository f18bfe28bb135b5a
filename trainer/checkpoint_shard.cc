#include "trainer/checkpoint_shard.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "base/crc32c.h"
#include "base/digest.h"

namespace conclave {
namespace {

// Gathers bytes into chunks, and writes and checksums each as it is full.
class ChunkedFile {
 public:
  static absl::StatusOr<ChunkedFile> Create(const FileSystem& files, const std::string& path) {
    ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, files.OpenForWrite(path, WriteMode::kCreateNew));
    return ChunkedFile(std::move(file), BaseName(path));
  }

  absl::Status Append(std::span<const std::byte> data) {
    while (!data.empty()) {
      const size_t n = std::min(data.size(), static_cast<size_t>(kCheckpointChunkBytes) - chunk_.size());
      chunk_.insert(chunk_.end(), data.begin(), data.begin() + static_cast<std::ptrdiff_t>(n));
      data = data.subspan(n);
      if (chunk_.size() == static_cast<size_t>(kCheckpointChunkBytes)) RETURN_IF_ERROR(Flush());
    }
    return absl::OkStatus();
  }

  // Makes the content durable and says what was written.
  absl::StatusOr<SavedFile> Finish() {
    if (!chunk_.empty()) RETURN_IF_ERROR(Flush());
    RETURN_IF_ERROR(file_->Sync());
    RETURN_IF_ERROR(file_->Close());
    saved_.set_digest(digest_.Value());
    return saved_;
  }

 private:
  ChunkedFile(std::unique_ptr<WritableFile> file, const std::string& name) : file_(std::move(file)) {
    saved_.set_name(name);
    saved_.set_chunk_bytes(static_cast<uint64_t>(kCheckpointChunkBytes));
    chunk_.reserve(static_cast<size_t>(kCheckpointChunkBytes));
  }

  absl::Status Flush() {
    RETURN_IF_ERROR(file_->Write(std::span<const std::byte>(chunk_)));
    saved_.add_chunk_crc32c(Crc32c(chunk_));
    saved_.set_bytes(saved_.bytes() + chunk_.size());
    digest_.Update(std::span<const std::byte>(chunk_));
    chunk_.clear();
    return absl::OkStatus();
  }

  std::unique_ptr<WritableFile> file_;
  std::vector<std::byte> chunk_;
  SavedFile saved_;
  Digest64 digest_;
};

void DescribeTensor(const SafetensorsEntry& entry, const Tensor& data, int64_t data_begin, SavedTensor* tensor) {
  tensor->set_name(entry.name);
  tensor->set_dtype(entry.dtype);
  SavedBox* box = tensor->add_boxes();
  for (const int64_t dim : entry.shape) {
    tensor->add_shape(dim);
    box->add_offset(0);
    box->add_extent(dim);
  }
  box->set_begin(static_cast<uint64_t>(data_begin + entry.begin));
  box->set_length(static_cast<uint64_t>(entry.end - entry.begin));
  box->set_crc32c(Crc32c(data.AsBytes()));
}

}  // namespace

absl::StatusOr<ShardPlan> PlanShard(const StateDict& dict) {
  std::map<std::string, Tensor> tensors;
  std::vector<SafetensorsEntry> entries;
  for (const StateEntry& entry : dict.entries()) {
    if (!entry.canonical) continue;
    if (entry.data.device().kind != DeviceKind::kCpu) return Unimplemented("saving '%s': it is not in host memory", entry.name);
    if (!tensors.emplace(entry.name, entry.data).second) return Internal("two tensors of the train state are called '%s'", entry.name);
    std::vector<int64_t> shape;
    for (int d = 0; d < entry.data.shape().dims(); ++d) shape.push_back(entry.data.dim(d));
    entries.push_back({.name = entry.name, .dtype = SafetensorsName(entry.data.dtype()), .shape = std::move(shape)});
  }
  ShardPlan plan{.file = LayOutSafetensors(std::move(entries))};
  if (plan.file.data_begin > kMaxSafetensorsHeaderBytes) {
    return InvalidArgument("the names of %d tensors need a header of %d bytes, more than a shard may have", plan.file.entries.size(),
                           plan.file.data_begin);
  }
  for (const SafetensorsEntry& entry : plan.file.entries) plan.tensors.push_back(tensors.at(entry.name));
  for (const StateScalar& scalar : dict.scalars()) {
    if (!plan.reals.emplace(scalar.name, scalar.get()).second)
      return Internal("two values of the train state are called '%s'", scalar.name);
  }
  return plan;
}

std::string ShardName(int rank) { return absl::StrFormat("rank-%d.safetensors", rank); }

std::string ShardManifestName(int rank) { return absl::StrFormat("rank-%d.manifest.pb", rank); }

absl::StatusOr<ShardManifest> WriteShard(const FileSystem& files, const std::string& folder, int rank, const ShardPlan& plan) {
  ASSIGN_OR_RETURN(ChunkedFile file, ChunkedFile::Create(files, JoinPath(folder, ShardName(rank))));
  const std::string header = SafetensorsHeader(plan.file);
  RETURN_IF_ERROR(file.Append(std::as_bytes(std::span(header))));
  ShardManifest shard;
  shard.set_rank(static_cast<uint32_t>(rank));
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    RETURN_IF_ERROR(file.Append(plan.tensors[i].AsBytes()));
    DescribeTensor(plan.file.entries[i], plan.tensors[i], plan.file.data_begin, shard.add_tensors());
  }
  ASSIGN_OR_RETURN(*shard.mutable_file(), file.Finish());
  CHECK_EQ(static_cast<int64_t>(shard.file().bytes()), plan.file.bytes);
  for (const auto& [name, real] : plan.reals) {
    SavedValue* value = shard.add_values();
    value->set_name(name);
    value->set_real(real);
  }

  ASSIGN_OR_RETURN(const auto beside, files.OpenForWrite(JoinPath(folder, ShardManifestName(rank)), WriteMode::kCreateNew));
  const std::string bytes = shard.SerializeAsString();
  RETURN_IF_ERROR(beside->Write(bytes));
  RETURN_IF_ERROR(beside->Sync());
  RETURN_IF_ERROR(beside->Close());
  return shard;
}

absl::Status JoinShards(std::span<const ShardManifest> shards, CheckpointManifest* manifest) {
  std::map<std::string, SavedTensor> tensors;
  std::map<std::string, SavedValue> values;
  for (size_t r = 0; r < shards.size(); ++r) {
    *manifest->add_files() = shards[r].file();
    for (const SavedTensor& tensor : shards[r].tensors()) {
      const auto [it, is_new] = tensors.emplace(tensor.name(), tensor);
      if (!is_new) {
        return Internal("tensor '%s' of the train state was written by rank %d and by rank %d", tensor.name(), it->second.boxes(0).file(),
                        r);
      }
      for (SavedBox& box : *it->second.mutable_boxes()) box.set_file(static_cast<uint32_t>(r));
    }
    for (const SavedValue& value : shards[r].values()) values.emplace(value.name(), value);
  }
  for (auto& [name, value] : values) *manifest->mutable_state()->add_values() = std::move(value);
  for (auto& [name, tensor] : tensors) *manifest->add_tensors() = std::move(tensor);
  return absl::OkStatus();
}

}  // namespace conclave
