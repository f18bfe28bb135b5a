// How far two checkpoints of the same model are apart, whatever meshes wrote them. Usage: checkpoint_diff_program RUN_OR_CHECKPOINT OTHER
// [PREFIX] Prints "tensors N equal_bits E max_relative D worst NAME", D = max over tensors of max |a - b| / max(1, max |a|), tensors whose
// names start with PREFIX, by default "model/", only; "" takes the whole state.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "trainer/checkpoint_manifest.h"

namespace conclave {
namespace {

struct Assembled {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;  // of the whole tensor, row-major

  int64_t elements() const {
    int64_t n = 1;
    for (const int64_t extent : shape) n *= extent;
    return n;
  }
  double At(int64_t i) const {
    if (dtype == "F64") return reinterpret_cast<const double*>(bytes.data())[i];
    return reinterpret_cast<const float*>(bytes.data())[i];
  }
};

// The folder that holds MANIFEST.pb: `path` itself, or its newest checkpoint.
std::string CheckpointFolder(const std::string& path) {
  const FileSystem& files = RealFileSystem();
  if (files.Exists(JoinPath(path, "MANIFEST.pb"))) return path;
  const std::string folder = files.Exists(JoinPath(path, "checkpoints")) ? JoinPath(path, "checkpoints") : path;
  const absl::StatusOr<std::vector<std::string>> names = files.ListDir(folder);
  std::string newest;
  long long newest_step = -1;
  if (!names.ok()) return folder;
  for (const std::string& name : *names) {
    long long step = -1;
    int used = 0;
    if (std::sscanf(name.c_str(), "step-%lld%n", &step, &used) != 1 || used != static_cast<int>(name.size()) || step <= newest_step)
      continue;
    newest_step = step;
    newest = name;
  }
  return JoinPath(folder, newest);
}

// Copies a box, rows of its last dim at a time.
void Place(const SavedBox& box, const std::string& file, int64_t width, Assembled* whole) {
  const int dims = static_cast<int>(whole->shape.size());
  const int64_t run = dims == 0 ? 1 : box.extent(dims - 1);
  const int64_t rows = static_cast<int64_t>(box.length()) / (run * width);
  std::vector<int64_t> at(dims, 0);
  for (int64_t row = 0; row < rows; ++row) {
    int64_t flat = 0;
    for (int d = 0; d < dims; ++d) flat = flat * whole->shape[d] + box.offset(d) + at[d];
    std::memcpy(whole->bytes.data() + flat * width, file.data() + box.begin() + row * run * width, run * width);
    for (int d = dims - 2; d >= 0 && ++at[d] == box.extent(d); --d) at[d] = 0;
  }
}

absl::StatusOr<std::map<std::string, Assembled>> ReadTensors(const std::string& path, const std::string& prefix) {
  const std::string folder = CheckpointFolder(path);
  ASSIGN_OR_RETURN(const CheckpointManifest manifest, ReadManifest(RealFileSystem(), folder));
  std::vector<std::string> contents;
  for (const SavedFile& file : manifest.files()) {
    ASSIGN_OR_RETURN(contents.emplace_back(), RealFileSystem().ReadAll(JoinPath(folder, file.name())));
  }
  std::map<std::string, Assembled> tensors;
  for (const SavedTensor& saved : manifest.tensors()) {
    if (!saved.name().starts_with(prefix)) continue;
    if (saved.dtype() != "F32" && saved.dtype() != "F64") return InvalidArgument("%s: unexpected dtype %s", saved.name(), saved.dtype());
    Assembled& whole = tensors[saved.name()];
    whole.dtype = saved.dtype();
    whole.shape.assign(saved.shape().begin(), saved.shape().end());
    const int64_t width = saved.dtype() == "F64" ? 8 : 4;
    whole.bytes.resize(whole.elements() * width);
    for (const SavedBox& box : saved.boxes()) Place(box, contents[box.file()], width, &whole);
  }
  return tensors;
}

absl::Status Compare(const std::string& first, const std::string& second, const std::string& prefix) {
  ASSIGN_OR_RETURN(const auto a, ReadTensors(first, prefix));
  ASSIGN_OR_RETURN(const auto b, ReadTensors(second, prefix));
  if (a.empty()) return NotFound("%s holds no model", first);
  if (a.size() != b.size()) return FailedPrecondition("%d tensors in %s, %d in %s", a.size(), first, b.size(), second);
  int equal_bits = 0;
  double worst = 0;
  std::string worst_name = "none";
  for (const auto& [name, x] : a) {
    const auto found = b.find(name);
    if (found == b.end()) return FailedPrecondition("%s is not in %s", name, second);
    const Assembled& y = found->second;
    if (x.shape != y.shape || x.dtype != y.dtype) return FailedPrecondition("%s differs in shape or type", name);
    equal_bits += x.bytes == y.bytes ? 1 : 0;
    double largest = 1, difference = 0;
    for (int64_t i = 0; i < x.elements(); ++i) {
      largest = std::max(largest, std::abs(x.At(i)));
      difference = std::max(difference, std::isfinite(x.At(i)) && std::isfinite(y.At(i)) ? std::abs(x.At(i) - y.At(i)) : INFINITY);
    }
    if (difference / largest > worst) {
      worst = difference / largest;
      worst_name = name;
    }
  }
  std::printf("tensors %zu equal_bits %d max_relative %.3g worst %s\n", a.size(), equal_bits, worst, worst_name.c_str());
  return absl::OkStatus();
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) return 2;
  const absl::Status status = conclave::Compare(argv[1], argv[2], argc == 4 ? argv[3] : "model/");
  if (!status.ok()) std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
