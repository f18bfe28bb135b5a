#include "trainer/checkpoint_reader.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "base/crc32c.h"
#include "base/strings.h"

namespace conclave {
namespace {

// A box of a file and the tensor it belongs into.
struct Piece {
  const SavedBox* box = nullptr;
  Tensor destination;
  int64_t begin() const { return static_cast<int64_t>(box->begin()); }
  int64_t end() const { return static_cast<int64_t>(box->begin() + box->length()); }
};

// Copies the bytes [at, at + data.size()) of a box, row-major within it, to where they belong in the whole tensor.
void CopyIntoBox(const Piece& piece, int64_t at, std::span<const std::byte> data) {
  const SavedBox& box = *piece.box;
  const Shape& shape = piece.destination.shape();
  // A run is what lies together in both: the innermost dims that the box spans whole, and one more.
  int64_t run = SizeOf(piece.destination.dtype());
  int outer = shape.dims();  // dims before the run
  while (outer > 0) {
    --outer;
    run *= box.extent(outer);
    if (box.extent(outer) != shape[outer]) break;
  }
  std::byte* const base = piece.destination.AsBytes().data();
  while (!data.empty()) {
    int64_t index = at / run;
    int64_t stride = SizeOf(piece.destination.dtype()), offset = at % run;
    for (int d = shape.dims() - 1; d >= 0; --d) {
      int64_t coordinate = box.offset(d);
      if (d < outer) {
        coordinate += index % box.extent(d);
        index /= box.extent(d);
      }
      offset += coordinate * stride;
      stride *= shape[d];
    }
    const size_t n = std::min(data.size(), static_cast<size_t>(run - at % run));
    std::memcpy(base + offset, data.data(), n);
    data = data.subspan(n);
    at += static_cast<int64_t>(n);
  }
}

// What a chunk with a wrong checksum holds: the tensors whose own checksum is wrong, or that reach beyond the chunk.
std::string Suspects(const CheckpointManifest& manifest, uint32_t file, int64_t chunk_begin, std::span<const std::byte> chunk) {
  constexpr size_t kShown = 5;
  const int64_t chunk_end = chunk_begin + static_cast<int64_t>(chunk.size());
  std::vector<std::string> names;
  for (const SavedTensor& tensor : manifest.tensors()) {
    for (const SavedBox& box : tensor.boxes()) {
      const int64_t begin = static_cast<int64_t>(box.begin()), end = begin + static_cast<int64_t>(box.length());
      if (box.file() != file || end <= chunk_begin || begin >= chunk_end) continue;
      const bool inside = begin >= chunk_begin && end <= chunk_end;
      if (inside && Crc32c(chunk.subspan(static_cast<size_t>(begin - chunk_begin), box.length())) == box.crc32c()) continue;
      names.push_back(absl::StrFormat("tensor '%s' (bytes %d..%d)", tensor.name(), begin, end - 1));
    }
  }
  if (names.empty()) return "its header";
  const size_t total = names.size();
  names.resize(std::min(kShown, total));
  return JoinStrings(names, ", ") + (total > kShown ? absl::StrFormat(" and %d more", total - kShown) : "");
}

class FileReading {
 public:
  FileReading(const FileSystem& files, const std::string& folder, const CheckpointManifest& manifest, uint32_t number)
      : files_(files),
        manifest_(manifest),
        number_(number),
        saved_(manifest.files(static_cast<int>(number))),
        path_(JoinPath(folder, saved_.name())) {
    needed_.resize(static_cast<size_t>(saved_.chunk_crc32c_size()), false);
  }

  void Want(const Piece& piece) {
    if (piece.begin() == piece.end()) return;
    pieces_.push_back(piece);
    Need(piece.begin(), piece.end());
  }

  // Everything that lies in no box.
  void WantTheRest() {
    std::vector<std::pair<int64_t, int64_t>> boxes;
    for (const SavedTensor& tensor : manifest_.tensors()) {
      for (const SavedBox& box : tensor.boxes()) {
        if (box.file() == number_) boxes.emplace_back(box.begin(), box.begin() + box.length());
      }
    }
    std::sort(boxes.begin(), boxes.end());
    int64_t covered = 0;
    for (const auto& [begin, end] : boxes) {
      if (begin > covered) Need(covered, begin);
      covered = std::max(covered, end);
    }
    Need(covered, bytes());
  }

  absl::Status Read() {
    if (std::none_of(needed_.begin(), needed_.end(), [](bool needed) { return needed; })) return absl::OkStatus();
    std::sort(pieces_.begin(), pieces_.end(), [](const Piece& a, const Piece& b) { return a.begin() < b.begin(); });
    ASSIGN_OR_RETURN(const auto file, files_.OpenForRead(path_));
    std::vector<std::byte> chunk;
    size_t first = 0;
    for (size_t c = 0; c < needed_.size(); ++c) {
      if (!needed_[c]) continue;
      const int64_t begin = static_cast<int64_t>(c) * chunk_bytes();
      chunk.resize(static_cast<size_t>(std::min(chunk_bytes(), bytes() - begin)));
      RETURN_IF_ERROR(ReadChunk(*file, c, begin, chunk));
      const int64_t end = begin + static_cast<int64_t>(chunk.size());
      while (first < pieces_.size() && pieces_[first].end() <= begin) ++first;
      for (size_t i = first; i < pieces_.size() && pieces_[i].begin() < end; ++i) {
        const int64_t from = std::max(begin, pieces_[i].begin()), to = std::min(end, pieces_[i].end());
        if (from >= to) continue;
        CopyIntoBox(pieces_[i], from - pieces_[i].begin(),
                    std::span<const std::byte>(chunk).subspan(static_cast<size_t>(from - begin), static_cast<size_t>(to - from)));
      }
    }
    return absl::OkStatus();
  }

 private:
  int64_t bytes() const { return static_cast<int64_t>(saved_.bytes()); }
  int64_t chunk_bytes() const { return static_cast<int64_t>(saved_.chunk_bytes()); }

  void Need(int64_t begin, int64_t end) {
    for (int64_t c = begin / chunk_bytes(); c * chunk_bytes() < end; ++c) needed_[static_cast<size_t>(c)] = true;
  }

  absl::Status ReadChunk(const ReadableFile& file, size_t c, int64_t begin, std::span<std::byte> chunk) const {
    absl::Status status = file.Read(begin, chunk);
    if (absl::IsOutOfRange(status)) return DataLoss("%s", std::string(status.message()));
    RETURN_IF_ERROR(status);
    const uint32_t crc = Crc32c(chunk), expected = saved_.chunk_crc32c(static_cast<int>(c));
    if (crc == expected) return absl::OkStatus();
    return DataLoss("'%s' is damaged in bytes %d..%d (checksum %08x, expected %08x): %s", path_, begin,
                    begin + static_cast<int64_t>(chunk.size()) - 1, crc, expected, Suspects(manifest_, number_, begin, chunk));
  }

  const FileSystem& files_;
  const CheckpointManifest& manifest_;
  const uint32_t number_;
  const SavedFile& saved_;
  const std::string path_;
  std::vector<Piece> pieces_;
  std::vector<bool> needed_;  // by chunk
};

}  // namespace

absl::Status ReadTensors(const FileSystem& files, const std::string& folder, const CheckpointManifest& manifest,
                         std::span<const TensorMatch> tensors, const ReadOptions& options) {
  std::vector<FileReading> readings;
  readings.reserve(static_cast<size_t>(manifest.files_size()));
  for (int f = 0; f < manifest.files_size(); ++f) {
    readings.emplace_back(files, folder, manifest, static_cast<uint32_t>(f));
    if (options.whole_files && f % options.shares == options.share) readings.back().WantTheRest();
  }
  for (const TensorMatch& tensor : tensors) {
    for (const SavedBox& box : tensor.saved->boxes()) readings[box.file()].Want({&box, tensor.destination});
  }
  for (FileReading& reading : readings) RETURN_IF_ERROR(reading.Read());
  return absl::OkStatus();
}

}  // namespace conclave
