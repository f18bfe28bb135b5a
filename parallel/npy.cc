#include "parallel/npy.h"

#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/strings.h"

namespace conclave {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::string_view kMagic("\x93NUMPY", 6);

// The Python literal {'descr': '<i4', 'fortran_order': False, 'shape': (3, 4), }.
struct Dictionary {
  std::string descr;
  bool fortran_order = false;
  std::vector<int64_t> shape;
};

class DictionaryReader {
 public:
  explicit DictionaryReader(std::string_view text) : text_(text) {}

  absl::StatusOr<Dictionary> Read() {
    Dictionary result;
    RETURN_IF_ERROR(Expect("{"));
    int found = 0;
    while (!Accept("}")) {
      if (Accept("'descr'")) {
        RETURN_IF_ERROR(Expect(":"));
        ASSIGN_OR_RETURN(result.descr, Quoted());
      } else if (Accept("'fortran_order'")) {
        RETURN_IF_ERROR(Expect(":"));
        result.fortran_order = Accept("True");
        if (!result.fortran_order) RETURN_IF_ERROR(Expect("False"));
      } else if (Accept("'shape'")) {
        RETURN_IF_ERROR(Expect(":"));
        ASSIGN_OR_RETURN(result.shape, Tuple());
      } else {
        return Wrong("one of 'descr', 'fortran_order', 'shape'");
      }
      ++found;
      if (!Accept(",")) {
        RETURN_IF_ERROR(Expect("}"));
        break;
      }
    }
    if (found != 3) return InvalidArgument("npy header: expected the keys descr, fortran_order and shape once each, got %d keys", found);
    return result;
  }

 private:
  absl::Status Wrong(const char* expected) const {
    return InvalidArgument("npy header: expected %s at '%s'", expected, std::string(text_.substr(0, 20)));
  }
  bool Accept(std::string_view token) {
    while (!text_.empty() && text_[0] == ' ') text_.remove_prefix(1);
    if (!text_.starts_with(token)) return false;
    text_.remove_prefix(token.size());
    return true;
  }
  absl::Status Expect(const char* token) { return Accept(token) ? absl::OkStatus() : Wrong(token); }
  absl::StatusOr<std::string> Quoted() {
    RETURN_IF_ERROR(Expect("'"));
    const size_t end = text_.find('\'');
    if (end == std::string_view::npos) return Wrong("a closing quote");
    const std::string value(text_.substr(0, end));
    text_.remove_prefix(end + 1);
    return value;
  }
  absl::StatusOr<std::vector<int64_t>> Tuple() {
    RETURN_IF_ERROR(Expect("("));
    std::vector<int64_t> values;
    while (!Accept(")")) {
      const size_t end = text_.find_first_of(",)");
      if (end == std::string_view::npos) return Wrong("a closing parenthesis");
      const absl::StatusOr<int64_t> value = ParseInt64(StripWhitespace(text_.substr(0, end)));
      if (!value.ok() || *value < 0) return Wrong("a size");
      values.push_back(*value);
      text_.remove_prefix(end);
      Accept(",");
    }
    return values;
  }

  std::string_view text_;
};

// Values of T, widened. Errors: a value that does not fit int32.
template <typename T>
absl::Status Widen(std::string_view data, std::vector<int32_t>* out) {
  for (size_t i = 0; i < out->size(); ++i) {
    T value;
    std::memcpy(&value, data.data() + i * sizeof(T), sizeof(T));
    if (!std::in_range<int32_t>(value)) return InvalidArgument("npy: value %d does not fit 32 bits", value);
    (*out)[i] = static_cast<int32_t>(value);
  }
  return absl::OkStatus();
}

absl::Status WidenAny(const std::string& descr, std::string_view data, std::vector<int32_t>* out) {
  const char kind = descr[1], size = descr[2];
  if (kind == 'i') {
    if (size == '1') return Widen<int8_t>(data, out);
    if (size == '2') return Widen<int16_t>(data, out);
    return size == '4' ? Widen<int32_t>(data, out) : Widen<int64_t>(data, out);
  }
  if (size == '1') return Widen<uint8_t>(data, out);
  if (size == '2') return Widen<uint16_t>(data, out);
  return size == '4' ? Widen<uint32_t>(data, out) : Widen<uint64_t>(data, out);
}

}  // namespace

absl::StatusOr<IntegerArray> ParseNpy(std::string_view bytes) {
  if (bytes.size() < 10 || !bytes.starts_with(kMagic)) return InvalidArgument("npy: it does not begin with NumPy's magic bytes");
  const int version = static_cast<unsigned char>(bytes[6]);
  if (version < 1 || version > 3) return InvalidArgument("npy: version %d; known: 1 to 3", version);
  const size_t length_bytes = version == 1 ? 2 : 4, start = 8 + length_bytes;
  uint32_t length = 0;
  if (bytes.size() < start) return InvalidArgument("npy: it ends inside its header");
  std::memcpy(&length, bytes.data() + 8, length_bytes);
  if (bytes.size() - start < length) return InvalidArgument("npy: it ends inside its header");
  ASSIGN_OR_RETURN(const Dictionary header, DictionaryReader(bytes.substr(start, length)).Read());
  const std::string& descr = header.descr;
  const bool integers = descr.size() == 3 && (descr[0] == '<' || (descr[0] == '|' && descr[2] == '1')) &&
                        std::string_view("iu").find(descr[1]) != std::string_view::npos &&
                        std::string_view("1248").find(descr[2]) != std::string_view::npos;
  if (!integers) return InvalidArgument("npy: dtype '%s'; expected little-endian integers such as <i4 or <u2", descr);
  if (header.fortran_order) return InvalidArgument("npy: the array is in Fortran order; save numpy.ascontiguousarray(x)");
  const std::string_view data = bytes.substr(start + length);
  const int64_t width = descr[2] - '0';
  int64_t count = 1;
  for (const int64_t size : header.shape) {
    // No product of sizes beyond the data is needed to refuse it.
    if (size > 0 && count > static_cast<int64_t>(data.size()) / size)
      return InvalidArgument("npy: the data is cut off: %d bytes", data.size());
    count *= size;
  }
  if (count * width != static_cast<int64_t>(data.size()))
    return InvalidArgument("npy: %d values of %d bytes expected after the header, got %d bytes", count, width, data.size());
  IntegerArray array{.shape = header.shape, .values = std::vector<int32_t>(static_cast<size_t>(count))};
  RETURN_IF_ERROR(WidenAny(descr, data, &array.values));
  return array;
}

std::string RenderNpy(std::span<const int64_t> shape, std::span<const int32_t> values) {
  std::string sizes;
  int64_t count = 1;
  for (const int64_t size : shape) {
    sizes += absl::StrFormat(sizes.empty() ? "%d" : ", %d", size);
    count *= size;
  }
  CHECK_EQ(count, static_cast<int64_t>(values.size()));
  std::string header = absl::StrFormat("{'descr': '<i4', 'fortran_order': False, 'shape': (%s%s), }", sizes, shape.size() == 1 ? "," : "");
  header.append(63 - (kMagic.size() + 4 + header.size()) % 64, ' ');  // data begin at a multiple of 64 bytes
  header += '\n';
  const auto length = static_cast<uint16_t>(header.size());
  std::string bytes(kMagic);
  bytes.append({1, 0, static_cast<char>(length & 0xFF), static_cast<char>(length >> 8)});
  bytes += header;
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  return bytes;
}

}  // namespace conclave
