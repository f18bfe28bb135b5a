#include "trainer/checkpoint_manifest.h"

#include <cstring>
#include <optional>
#include <set>

#include "base/crc32c.h"
#include "tensor/tensor.h"
#include "trainer/checkpoint_owner.h"
#include "trainer/safetensors.h"

namespace conclave {
namespace {

constexpr char kCrcTag = (CheckpointManifest::kCrc32CFieldNumber << 3) | 5;  // protobuf: field number and wire type fixed32
constexpr size_t kCrcBytes = 5;

template <typename... Args>
absl::Status Broken(const std::string& path, const absl::FormatSpec<Args...>& format, const Args&... args) {
  return DataLoss("manifest '%s' is damaged: %s", path, absl::StrFormat(format, args...));
}

// Product of sizes times `factor`; none on overflow or a negative size.
template <typename Sizes>
std::optional<int64_t> Volume(const Sizes& sizes, int64_t factor) {
  int64_t n = factor;
  for (const int64_t size : sizes) {
    if (size < 0 || __builtin_mul_overflow(n, size, &n)) return std::nullopt;
  }
  return n;
}

absl::Status CheckFiles(const CheckpointManifest& manifest, const std::string& path) {
  std::set<std::string> names;
  for (const SavedFile& file : manifest.files()) {
    if (file.name().empty() || file.name().front() == '.' || file.name().find('/') != std::string::npos ||
        !names.insert(file.name()).second) {
      return Broken(path, "file name '%s'", file.name());
    }
    const uint64_t chunk = file.chunk_bytes();
    if (chunk == 0 || chunk > (uint64_t{1} << 30) || file.bytes() > (uint64_t{1} << 62) ||
        (file.bytes() + chunk - 1) / chunk != static_cast<uint64_t>(file.chunk_crc32c_size())) {
      return Broken(path, "file '%s': %d bytes in chunks of %d, and %d checksums", file.name(), file.bytes(), chunk,
                    file.chunk_crc32c_size());
    }
  }
  return absl::OkStatus();
}

std::span<const int64_t> Dims(const SavedTensor& tensor) { return {tensor.shape().data(), static_cast<size_t>(tensor.shape_size())}; }

std::string Region(const SavedBox& box) {
  std::string out;
  for (int d = 0; d < box.offset_size(); ++d) {
    absl::StrAppendFormat(&out, "%s%d..%d", d == 0 ? "[" : ", ", box.offset(d), box.offset(d) + box.extent(d) - 1);
  }
  return out.empty() ? "[]" : out + "]";
}

bool Overlap(const SavedBox& a, const SavedBox& b) {
  for (int d = 0; d < a.offset_size(); ++d) {
    if (a.offset(d) + a.extent(d) <= b.offset(d) || b.offset(d) + b.extent(d) <= a.offset(d)) return false;
  }
  return true;
}

absl::Status CheckBox(const CheckpointManifest& manifest, const SavedTensor& tensor, const SavedBox& box, const std::string& path) {
  bool inside = box.offset_size() == tensor.shape_size() && box.extent_size() == tensor.shape_size();
  for (int d = 0; inside && d < tensor.shape_size(); ++d) {
    inside =
        box.offset(d) >= 0 && box.extent(d) >= 0 && box.offset(d) <= tensor.shape(d) && box.extent(d) <= tensor.shape(d) - box.offset(d);
  }
  if (!inside) return Broken(path, "tensor '%s': a box lies outside of it", tensor.name());
  if (box.file() >= static_cast<uint32_t>(manifest.files_size())) return Broken(path, "tensor '%s': no file %d", tensor.name(), box.file());
  const SavedFile& file = manifest.files(static_cast<int>(box.file()));
  const auto bytes = Volume(box.extent(), SafetensorsBits(tensor.dtype()) / 8);
  if (!bytes.has_value() || static_cast<uint64_t>(*bytes) != box.length() || box.begin() > file.bytes() ||
      box.length() > file.bytes() - box.begin()) {
    return Broken(path, "tensor '%s', region %s: bytes %d + %d of '%s'", tensor.name(), Region(box), box.begin(), box.length(),
                  file.name());
  }
  return absl::OkStatus();
}

// Disjoint boxes inside a tensor tile it exactly if their volumes add up to its own.
absl::Status CheckTensor(const CheckpointManifest& manifest, const SavedTensor& tensor, const std::string& path) {
  const auto elements = Volume(tensor.shape(), 1);
  if (!DTypeOfSafetensorsName(tensor.dtype()).has_value() || tensor.shape_size() > Shape::kMaxDims || !elements.has_value()) {
    return Broken(path, "tensor '%s' is %s", tensor.name(), DescribeType(tensor.dtype(), Dims(tensor)));
  }
  int64_t covered = 0;
  for (int b = 0; b < tensor.boxes_size(); ++b) {
    const SavedBox& box = tensor.boxes(b);
    RETURN_IF_ERROR(CheckBox(manifest, tensor, box, path));
    const int64_t volume = *Volume(box.extent(), 1);
    covered += volume;
    for (int other = 0; other < b && volume > 0; ++other) {
      if (Overlap(box, tensor.boxes(other))) {
        return Broken(path, "tensor '%s': regions %s and %s overlap", tensor.name(), Region(tensor.boxes(other)), Region(box));
      }
    }
  }
  if (covered != *elements) return Broken(path, "tensor '%s': its boxes hold %d of %d elements", tensor.name(), covered, *elements);
  return absl::OkStatus();
}

}  // namespace

std::string EncodeManifest(CheckpointManifest manifest) {
  manifest.clear_crc32c();
  std::string bytes = manifest.SerializeAsString();
  const uint32_t crc = Crc32c(bytes);
  bytes.push_back(kCrcTag);
  bytes.append(reinterpret_cast<const char*>(&crc), sizeof(crc));
  return bytes;
}

absl::StatusOr<CheckpointManifest> DecodeManifest(std::string_view bytes, const std::string& path) {
  if (bytes.size() < kCrcBytes || bytes[bytes.size() - kCrcBytes] != kCrcTag) return Broken(path, "it does not end in its checksum");
  const std::string_view body = bytes.substr(0, bytes.size() - kCrcBytes);
  uint32_t stored = 0;
  std::memcpy(&stored, bytes.data() + bytes.size() - sizeof(stored), sizeof(stored));
  if (Crc32c(body) != stored) return Broken(path, "its checksum is %08x, expected %08x", Crc32c(body), stored);
  CheckpointManifest manifest;
  if (!manifest.ParseFromArray(body.data(), static_cast<int>(body.size()))) return Broken(path, "it is no CheckpointManifest");
  if (manifest.format_version() > kCheckpointFormat) {
    return Unimplemented("manifest '%s' has format version %d, this program reads up to %d; use a newer program", path,
                         manifest.format_version(), kCheckpointFormat);
  }
  if (manifest.format_version() == 0) return Broken(path, "it has no format version");
  RETURN_IF_ERROR(CheckFiles(manifest, path));
  for (int t = 0; t < manifest.tensors_size(); ++t) {
    if (t > 0 && manifest.tensors(t - 1).name() >= manifest.tensors(t).name())
      return Broken(path, "tensor '%s' is out of order", manifest.tensors(t).name());
    RETURN_IF_ERROR(CheckTensor(manifest, manifest.tensors(t), path));
  }
  return manifest;
}

absl::StatusOr<CheckpointManifest> ReadManifest(const FileSystem& files, const std::string& folder) {
  const std::string path = JoinPath(folder, kManifestName);
  ASSIGN_OR_RETURN(const std::string bytes, files.ReadAll(path));
  ASSIGN_OR_RETURN(CheckpointManifest manifest, DecodeManifest(bytes, path));
  const CheckpointFolderName named = CheckpointFolderName::Parse(BaseName(folder));
  const int64_t step = static_cast<int64_t>(manifest.state().cursor().step());
  if (named.kind == CheckpointFolderName::Kind::kStep && named.step != step) {
    return DataLoss("'%s' holds the checkpoint of step %d; give the folder its own name back", folder, step);
  }
  for (const SavedFile& file : manifest.files()) {
    const std::string name = JoinPath(folder, file.name());
    const absl::StatusOr<int64_t> size = files.FileSize(name);
    if (absl::IsNotFound(size.status())) return DataLoss("'%s' is missing, though the manifest beside it lists it", name);
    if (!size.ok()) return size.status();
    if (static_cast<uint64_t>(*size) != file.bytes()) return DataLoss("'%s' has %d bytes, its manifest says %d", name, *size, file.bytes());
  }
  return manifest;
}

std::string DescribeType(std::string_view dtype, std::span<const int64_t> shape) {
  std::string out = absl::StrFormat("%s [", dtype);
  for (size_t d = 0; d < shape.size(); ++d) absl::StrAppendFormat(&out, "%s%d", d == 0 ? "" : ", ", shape[d]);
  return out + "]";
}

}  // namespace conclave
