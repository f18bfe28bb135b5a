#include "trainer/hf_weights.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "base/float16.h"
#include "base/strings.h"
#include "trainer/safetensors.h"

namespace conclave {
namespace {

constexpr char kHfHead[] = "lm_head.weight";
constexpr char kHfConfig[] = "config.json", kHfWeights[] = "model.safetensors", kHfIndex[] = "model.safetensors.index.json";

// Where a tensor of theirs is.
struct HfTensor {
  std::string path;
  int64_t at = 0;  // byte in the file
  SafetensorsEntry entry;
  int64_t used = 0;  // elements that blocks of ours are made of
  bool misshapen = false;
  int64_t elements() const {
    int64_t n = 1;
    for (const int64_t d : entry.shape) n *= d;
    return n;
  }
};
using HfTensors = std::map<std::string, HfTensor>;

absl::Status AddHfFile(const FileSystem& files, const std::string& path, HfTensors* tensors) {
  ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, files.OpenForRead(path));
  ASSIGN_OR_RETURN(const SafetensorsFile header, ReadSafetensorsHeader(*file, path));
  for (const SafetensorsEntry& entry : header.entries) {
    // Masks of early GPT-2 files, and rotary tables: constants that are no weights.
    if (entry.name.ends_with(".attn.bias") || entry.name.ends_with(".attn.masked_bias") || entry.name.ends_with(".rotary_emb.inv_freq"))
      continue;
    const auto [it, added] = tensors->emplace(entry.name, HfTensor{path, header.data_begin + entry.begin, entry});
    if (!added) return DataLoss("tensor '%s' is in '%s' and in '%s'", entry.name, it->second.path, path);
  }
  return absl::OkStatus();
}

absl::StatusOr<HfTensors> ListHfTensors(const FileSystem& files, const std::string& folder) {
  HfTensors tensors;
  const std::string single = JoinPath(folder, kHfWeights), index = JoinPath(folder, kHfIndex);
  if (files.Exists(single)) {
    RETURN_IF_ERROR(AddHfFile(files, single, &tensors));
    return tensors;
  }
  if (!files.Exists(index)) return NotFound("'%s' has neither %s nor %s", folder, kHfWeights, kHfIndex);
  ASSIGN_OR_RETURN(const std::string text, files.ReadAll(index));
  const auto json = ParseJson(text);
  if (!json.ok()) return Annotate(json.status(), index);
  const JsonValue* map = json->Find("weight_map");
  if (map == nullptr) return DataLoss("'%s' has no weight_map", index);
  std::set<std::string> names;
  for (const auto& [tensor, file] : map->members) names.insert(file.text);
  for (const std::string& name : names) RETURN_IF_ERROR(AddHfFile(files, JoinPath(folder, name), &tensors));
  for (const auto& [tensor, file] : map->members) {
    if (!tensors.contains(tensor)) return DataLoss("'%s' says that '%s' holds '%s', but it does not", index, file.text, tensor);
  }
  return tensors;
}

// One block's piece, found in the files.
struct FoundPiece {
  HfPiece piece;
  HfTensor* tensor = nullptr;
  int64_t first_row = 0;  // in the tensor seen as [rows, in]
};

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) absl::StrAppendFormat(&text, "%s%d", i == 0 ? "" : ", ", shape[i]);
  return text + "]";
}

struct HfAccounts {
  std::vector<std::string> missing, unused, misshapen;
};

// GPT-2 files may leave "transformer." out.
HfTensor* FindHfTensor(HfTensors& tensors, const std::string& name) {
  constexpr std::string_view kPrefix = "transformer.";
  auto it = tensors.find(name);
  if (it == tensors.end() && name.starts_with(kPrefix)) it = tensors.find(name.substr(kPrefix.size()));
  return it == tensors.end() ? nullptr : &it->second;
}

void FindPieces(const BlockSpec& spec, std::vector<HfPiece> pieces, HfTensors& tensors, std::vector<FoundPiece>* found,
                HfAccounts* accounts) {
  const bool vector = spec.shape.dims() == 1;
  const int64_t in = vector ? 1 : spec.shape[1];
  for (HfPiece& piece : pieces) {
    FoundPiece& f = found->emplace_back();
    f.tensor = FindHfTensor(tensors, piece.name);
    if (f.tensor == nullptr && !piece.other.empty()) f.tensor = FindHfTensor(tensors, piece.other);
    std::vector<int64_t> want = vector ? std::vector<int64_t>{piece.rows} : std::vector<int64_t>{piece.rows, in};
    if (piece.transposed) std::swap(want[0], want[1]);
    if (f.tensor == nullptr && !piece.fused.empty()) {
      f.tensor = FindHfTensor(tensors, piece.fused);
      if (f.tensor != nullptr && !f.tensor->entry.shape.empty()) want = {f.tensor->entry.shape[0], piece.fused_rows, in};
      f.first_row = piece.expert * piece.fused_rows + piece.skip;
    }
    if (f.tensor == nullptr) {
      accounts->missing.push_back(piece.name);
    } else if (f.tensor->entry.shape != want || (f.first_row + piece.rows) * in > f.tensor->elements()) {
      if (!f.tensor->misshapen) {
        accounts->misshapen.push_back(
            absl::StrFormat("%s: %s in the file, %s here", f.tensor->entry.name, ShapeText(f.tensor->entry.shape), ShapeText(want)));
      }
      f.tensor->misshapen = true;
    } else {
      f.tensor->used += piece.rows * in;
    }
    f.piece = std::move(piece);
  }
}

std::string SomeOf(const char* kind, const std::vector<std::string>& names) {
  constexpr size_t kShown = 5;
  if (names.empty()) return "";
  std::string text = absl::StrFormat("; %d %s: ", names.size(), kind);
  for (size_t i = 0; i < std::min(kShown, names.size()); ++i) text += (i == 0 ? "" : ", ") + names[i];
  return text + (names.size() > kShown ? ", ..." : "");
}

// Elements [first, first + count) of a tensor, widened or rounded to doubles.
absl::Status ReadHfValues(const FileSystem& files, const HfTensor& tensor, std::pair<int64_t, int64_t> range, std::vector<double>* out) {
  const auto [first, count] = range;
  const int64_t width = SafetensorsBits(tensor.entry.dtype) / 8;
  std::vector<std::byte> bytes(count * width);
  ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, files.OpenForRead(tensor.path));
  RETURN_IF_ERROR(file->Read(tensor.at + first * width, bytes));
  out->resize(count);
  const auto convert = [&](auto raw, auto widen) {
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(&raw, bytes.data() + i * width, sizeof(raw));
      (*out)[i] = widen(raw);
    }
    return absl::OkStatus();
  };
  if (tensor.entry.dtype == "F32") return convert(float{}, [](float v) { return static_cast<double>(v); });
  if (tensor.entry.dtype == "F64") return convert(double{}, [](double v) { return v; });
  if (tensor.entry.dtype == "BF16") return convert(uint16_t{}, [](uint16_t v) { return static_cast<double>(Bf16ToFloat(v)); });
  if (tensor.entry.dtype == "F16") return convert(uint16_t{}, [](uint16_t v) { return static_cast<double>(Fp16ToFloat(v)); });
  return FailedPrecondition("tensor '%s' of '%s' is %s; only F32, F64, F16 and BF16 are read", tensor.entry.name, tensor.path,
                            tensor.entry.dtype);
}

// True where the files write the embedding again as the head.
absl::StatusOr<bool> HeadIsEmbedding(const FileSystem& files, HfFamily family, HfTensors& tensors) {
  const HfTensor* head = FindHfTensor(tensors, kHfHead);
  const HfTensor* embedding = FindHfTensor(tensors, family == HfFamily::kGpt2 ? "transformer.wte.weight" : "model.embed_tokens.weight");
  if (head == nullptr || embedding == nullptr) return false;
  if (head->entry.dtype != embedding->entry.dtype || head->entry.shape != embedding->entry.shape) return false;
  ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> head_file, files.OpenForRead(head->path));
  ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> embedding_file, files.OpenForRead(embedding->path));
  const int64_t bytes = head->entry.end - head->entry.begin, most = std::min<int64_t>(bytes, 1 << 20);
  std::vector<std::byte> a(most), b(most);
  for (int64_t at = 0; at < bytes; at += most) {
    const size_t count = static_cast<size_t>(std::min(most, bytes - at));
    RETURN_IF_ERROR(head_file->Read(head->at + at, std::span(a).first(count)));
    RETURN_IF_ERROR(embedding_file->Read(embedding->at + at, std::span(b).first(count)));
    if (std::memcmp(a.data(), b.data(), count) != 0) return false;
  }
  return true;
}

absl::Status FillBlock(const FileSystem& files, const FoundPiece& found, const Tensor& block) {
  const HfPiece& piece = found.piece;
  const int64_t in = block.shape().dims() == 1 ? 1 : block.dim(1);
  std::vector<double> values;
  RETURN_IF_ERROR(ReadHfValues(files, *found.tensor, {found.first_row * in, piece.rows * in}, &values));
  DispatchFloat(block.dtype(), [&](auto t) {
    using T = decltype(t);
    T* to = block.data<T>() + piece.row * in;
    for (int64_t r = 0; r < piece.rows; ++r) {
      for (int64_t c = 0; c < in; ++c) to[r * in + c] = static_cast<T>(values[piece.transposed ? c * piece.rows + r : r * in + c]);
    }
  });
  return absl::OkStatus();
}

}  // namespace

bool IsHfFolder(const FileSystem& files, const std::string& folder) { return files.Exists(JoinPath(folder, kHfConfig)); }

absl::StatusOr<HfModel> ReadHfModel(const FileSystem& files, const std::string& folder) {
  ASSIGN_OR_RETURN(const std::string text, files.ReadAll(JoinPath(folder, kHfConfig)));
  auto model = ParseHfConfig(text);
  if (!model.ok()) return Annotate(model.status(), folder);
  ASSIGN_OR_RETURN(HfTensors tensors, ListHfTensors(files, folder));
  if (text.find("\"tie_word_embeddings\"") == std::string::npos) {
    bool tied = !tensors.contains(kHfHead);
    if (!tied && model->config.tied_head()) {
      ASSIGN_OR_RETURN(tied, HeadIsEmbedding(files, model->family, tensors));
    }
    model->config.set_tied_head(tied);
  }
  return model;
}

absl::Status LoadHfWeights(const FileSystem& files, const std::string& folder, const HfModel& model, FlatVector* point) {
  ASSIGN_OR_RETURN(HfTensors tensors, ListHfTensors(files, folder));
  const ParameterSet& parameters = point->layout().parameters();
  std::vector<std::vector<FoundPiece>> found(parameters.size());
  HfAccounts accounts;
  for (int b = 0; b < parameters.size(); ++b) {
    const BlockSpec& spec = parameters[{b}];
    std::vector<HfPiece> pieces = HfPiecesOf(model.config, model.family, spec.name, spec.shape[0]);
    if (pieces.empty()) accounts.missing.push_back(absl::StrFormat("%s (%s has no such tensor)", spec.name, NameOf(model.family)));
    FindPieces(spec, std::move(pieces), tensors, &found[b], &accounts);
  }
  bool repeated = false;  // some files write a tied head again
  if (parameters.Find("head.weight").value < 0) {
    ASSIGN_OR_RETURN(const bool same, HeadIsEmbedding(files, model.family, tensors));
    repeated = same || model.config.tied_head();
    if (!repeated && !tensors.contains(kHfHead)) accounts.missing.push_back(kHfHead);
  }
  for (const auto& [name, tensor] : tensors) {
    if (tensor.used == tensor.elements() || tensor.misshapen || (repeated && name == kHfHead)) continue;
    accounts.unused.push_back(name == kHfHead ? name + " (it is not the embedding, and model.moe_lm.tied_head is true)" : name);
  }
  if (!accounts.missing.empty() || !accounts.unused.empty() || !accounts.misshapen.empty()) {
    return FailedPrecondition("'%s' does not fit the model%s%s%s", folder, SomeOf("missing", accounts.missing),
                              SomeOf("unused", accounts.unused), SomeOf("misshapen", accounts.misshapen));
  }
  for (const BlockId id : point->layout().local_blocks()) {
    for (const FoundPiece& piece : found[id.value]) RETURN_IF_ERROR(FillBlock(files, piece, point->block(id)));
  }
  return absl::OkStatus();
}

absl::Status SaveHfModel(const FileSystem& files, const std::string& folder, const MoeLmConfig& config, const FlatVector& point) {
  ASSIGN_OR_RETURN(const HfFamily family, FamilyFor(config));
  const ParameterSet& parameters = point.layout().parameters();
  std::map<std::string, std::vector<float>> values;
  std::vector<SafetensorsEntry> entries;
  for (int b = 0; b < parameters.size(); ++b) {
    const BlockSpec& spec = parameters[{b}];
    CHECK(point.layout().is_local({b})) << spec.name;
    const Tensor block = point.block({b});
    const bool vector = spec.shape.dims() == 1;
    const int64_t in = vector ? 1 : spec.shape[1];
    for (const HfPiece& piece : HfPiecesOf(config, family, spec.name, spec.shape[0])) {
      std::vector<float>& out = values[piece.name];
      out.resize(piece.rows * in);
      DispatchFloat(block.dtype(), [&](auto t) {
        const auto* from = block.data<decltype(t)>() + piece.row * in;
        for (int64_t r = 0; r < piece.rows; ++r) {
          for (int64_t c = 0; c < in; ++c) out[piece.transposed ? c * piece.rows + r : r * in + c] = static_cast<float>(from[r * in + c]);
        }
      });
      SafetensorsEntry& entry = entries.emplace_back(SafetensorsEntry{.name = piece.name, .dtype = "F32"});
      entry.shape = vector ? std::vector<int64_t>{piece.rows} : std::vector<int64_t>{piece.rows, in};
      if (piece.transposed) std::swap(entry.shape[0], entry.shape[1]);
    }
  }
  RETURN_IF_ERROR(files.CreateDirs(folder));
  const SafetensorsFile layout = LayOutSafetensors(std::move(entries), {{"format", "pt"}});
  const std::string path = JoinPath(folder, kHfWeights), temporary = path + ".tmp";
  const auto write = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, files.OpenForWrite(temporary, WriteMode::kTruncate));
    RETURN_IF_ERROR(file->Write(SafetensorsHeader(layout)));
    for (const SafetensorsEntry& entry : layout.entries) RETURN_IF_ERROR(file->Write(std::as_bytes(std::span(values.at(entry.name)))));
    RETURN_IF_ERROR(file->Sync());
    RETURN_IF_ERROR(file->Close());
    return files.Rename(temporary, path);
  };
  if (const absl::Status written = write(); !written.ok()) {
    files.RemoveFile(temporary).IgnoreError();  // a model that stood there stays
    return written;
  }
  const int64_t vocabulary = parameters[parameters.Find("embedding.weight")].shape[0];
  return files.WriteAtomically(JoinPath(folder, kHfConfig), HfConfigJson(config, family, vocabulary));
}

}  // namespace conclave
