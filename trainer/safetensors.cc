#include "trainer/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "trainer/json.h"

namespace conclave {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are stored as they lie in memory");

constexpr int64_t kLengthBytes = 8;
constexpr std::array<std::pair<std::string_view, int>, 22> kBits = {{
    {"BOOL", 8},    {"F4", 4},          {"F6_E2M3", 6},     {"F6_E3M2", 6}, {"U8", 8},   {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8},
    {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16}, {"F16", 16}, {"BF16", 16},   {"I32", 32},
    {"U32", 32},    {"F32", 32},        {"C64", 64},        {"F64", 64},    {"I64", 64}, {"U64", 64},
}};
constexpr std::array<std::pair<DType, const char*>, 6> kOurs = {
    {{DType::kF32, "F32"}, {DType::kBF16, "BF16"}, {DType::kF64, "F64"}, {DType::kI32, "I32"}, {DType::kI64, "I64"}, {DType::kU8, "U8"}}};

template <typename... Args>
absl::Status Broken(const std::string& path, const absl::FormatSpec<Args...>& format, const Args&... args) {
  return DataLoss("'%s' is no valid safetensors file: %s", path, absl::StrFormat(format, args...));
}

// Bytes of a tensor, or none on overflow or where they are no whole number.
std::optional<int64_t> BytesOf(const std::vector<int64_t>& shape, int bits) {
  int64_t n = bits;
  for (const int64_t dim : shape) {
    if (__builtin_mul_overflow(n, dim, &n)) return std::nullopt;
  }
  if (n % 8 != 0) return std::nullopt;
  return n / 8;
}

absl::StatusOr<std::vector<int64_t>> Integers(const JsonValue* value) {
  if (value == nullptr || value->kind != JsonValue::Kind::kArray) return InvalidArgument("expected an array");
  std::vector<int64_t> out;
  for (const JsonValue& item : value->items) {
    ASSIGN_OR_RETURN(const int64_t n, item.AsInt64());
    if (n < 0) return InvalidArgument("expected no negative number, got %d", n);
    out.push_back(n);
  }
  return out;
}

absl::Status ParseEntry(const JsonValue& value, SafetensorsEntry* entry) {
  if (value.kind != JsonValue::Kind::kObject || value.members.size() != 3)
    return InvalidArgument("expected exactly dtype, shape and data_offsets");
  const JsonValue* dtype = value.Find("dtype");
  if (dtype == nullptr || dtype->kind != JsonValue::Kind::kString) return InvalidArgument("no dtype");
  entry->dtype = dtype->text;
  const int bits = SafetensorsBits(entry->dtype);
  if (bits == 0) return InvalidArgument("unknown dtype '%s'", entry->dtype);
  auto shape = Integers(value.Find("shape"));
  if (!shape.ok()) return Annotate(shape.status(), "shape");
  entry->shape = *std::move(shape);
  auto offsets = Integers(value.Find("data_offsets"));
  if (!offsets.ok()) return Annotate(offsets.status(), "data_offsets");
  if (offsets->size() != 2 || (*offsets)[0] > (*offsets)[1]) return InvalidArgument("data_offsets are no [begin, end]");
  entry->begin = (*offsets)[0], entry->end = (*offsets)[1];
  const std::optional<int64_t> bytes = BytesOf(entry->shape, bits);
  if (!bytes.has_value()) return InvalidArgument("the shape has no size in bytes (too large, or a broken byte)");
  if (*bytes != entry->end - entry->begin) {
    return InvalidArgument("shape and dtype make %d bytes, data_offsets %d", *bytes, entry->end - entry->begin);
  }
  return absl::OkStatus();
}

absl::Status ParseMetadata(const JsonValue& value, std::map<std::string, std::string>* out) {
  if (value.kind != JsonValue::Kind::kObject) return InvalidArgument("expected an object");
  for (const auto& [key, text] : value.members) {
    if (text.kind != JsonValue::Kind::kString) return InvalidArgument("'%s' is no string", key);
    out->emplace(key, text.text);
  }
  return absl::OkStatus();
}

// `json`: the header without its length; `file`: the size of the file and data_begin are set.
absl::StatusOr<SafetensorsFile> ParseHeader(std::string_view json, const std::string& path, SafetensorsFile file) {
  if (json.empty() || json.front() != '{') return Broken(path, "its header does not begin with '{'");
  const auto header = ParseJson(json);
  if (!header.ok()) return Broken(path, "%s", std::string(header.status().message()));
  for (const auto& [name, value] : header->members) {
    absl::Status status;
    if (name == "__metadata__") {
      status = ParseMetadata(value, &file.metadata);
    } else {
      status = ParseEntry(value, &file.entries.emplace_back(SafetensorsEntry{.name = name}));
    }
    if (!status.ok()) return Broken(path, "entry '%s': %s", name, std::string(status.message()));
  }
  std::sort(file.entries.begin(), file.entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  int64_t covered = 0;
  for (const SafetensorsEntry& entry : file.entries) {
    if (entry.begin != covered) {
      return Broken(path, "tensor '%s' begins at byte %d of the data, the one before it ends at %d", entry.name, entry.begin, covered);
    }
    covered = entry.end;
  }
  if (covered != file.bytes - file.data_begin) {
    return Broken(path, "its tensors have %d bytes, the file holds %d", covered, file.bytes - file.data_begin);
  }
  return file;
}

absl::StatusOr<SafetensorsFile> CheckLength(uint64_t length, int64_t file_bytes, const std::string& path) {
  if (length < 2 || length > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes) ||
      static_cast<int64_t>(length) > file_bytes - kLengthBytes) {
    return Broken(path, "its header claims %d bytes, the file has %d; at most %d are allowed", length, file_bytes,
                  kMaxSafetensorsHeaderBytes);
  }
  return SafetensorsFile{.data_begin = kLengthBytes + static_cast<int64_t>(length), .bytes = file_bytes};
}

}  // namespace

const char* SafetensorsName(DType dtype) {
  for (const auto& [ours, name] : kOurs) {
    if (ours == dtype) return name;
  }
  CHECK(false) << NameOf(dtype);
  return "";
}

std::optional<DType> DTypeOfSafetensorsName(std::string_view name) {
  for (const auto& [ours, text] : kOurs) {
    if (text == name) return ours;
  }
  return std::nullopt;
}

int SafetensorsBits(std::string_view dtype) {
  for (const auto& [name, bits] : kBits) {
    if (name == dtype) return bits;
  }
  return 0;
}

SafetensorsFile LayOutSafetensors(std::vector<SafetensorsEntry> entries, std::map<std::string, std::string> metadata) {
  std::sort(entries.begin(), entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::pair(-SafetensorsBits(a.dtype), std::string_view(a.name)) < std::pair(-SafetensorsBits(b.dtype), std::string_view(b.name));
  });
  int64_t at = 0;
  for (SafetensorsEntry& entry : entries) {
    const std::optional<int64_t> bytes = BytesOf(entry.shape, SafetensorsBits(entry.dtype));
    CHECK(bytes.has_value()) << entry.name;
    entry.begin = at;
    entry.end = at += *bytes;
  }
  SafetensorsFile file{.entries = std::move(entries), .metadata = std::move(metadata)};
  file.data_begin = static_cast<int64_t>(SafetensorsHeader(file).size());
  file.bytes = file.data_begin + at;
  return file;
}

std::string SafetensorsHeader(const SafetensorsFile& file) {
  std::string out(kLengthBytes, '\0');
  out.push_back('{');
  const auto key = [&out](std::string_view name) {
    if (out.back() != '{') out.push_back(',');
    AppendJsonString(name, &out);
    out.push_back(':');
  };
  if (!file.metadata.empty()) {
    key("__metadata__");
    out.push_back('{');
    for (const auto& [name, value] : file.metadata) {
      key(name);
      AppendJsonString(value, &out);
    }
    out.push_back('}');
  }
  for (const SafetensorsEntry& entry : file.entries) {
    key(entry.name);
    absl::StrAppendFormat(&out, "{\"dtype\":\"%s\",\"shape\":[", entry.dtype);
    for (size_t i = 0; i < entry.shape.size(); ++i) absl::StrAppendFormat(&out, "%s%d", i == 0 ? "" : ",", entry.shape[i]);
    absl::StrAppendFormat(&out, "],\"data_offsets\":[%d,%d]}", entry.begin, entry.end);
  }
  out.push_back('}');
  while (out.size() % 8 != 0) out.push_back(' ');
  const uint64_t length = out.size() - kLengthBytes;
  std::memcpy(out.data(), &length, sizeof(length));
  return out;
}

absl::StatusOr<SafetensorsFile> ReadSafetensorsHeader(const ReadableFile& file, const std::string& path) {
  ASSIGN_OR_RETURN(const int64_t bytes, file.Size());
  if (bytes < kLengthBytes) return Broken(path, "it has %d bytes", bytes);
  uint64_t length = 0;
  RETURN_IF_ERROR(file.Read(0, std::as_writable_bytes(std::span(&length, 1))));
  ASSIGN_OR_RETURN(SafetensorsFile out, CheckLength(length, bytes, path));
  std::string json(length, '\0');
  RETURN_IF_ERROR(file.Read(kLengthBytes, std::as_writable_bytes(std::span(json))));
  return ParseHeader(json, path, std::move(out));
}

}  // namespace conclave
