#include "parallel/trace_files.h"

#include <charconv>
#include <limits>
#include <map>
#include <utility>

#include "base/strings.h"
#include "parallel/npy.h"

namespace conclave {
namespace {

// Header lines as far as they were given.
class HeaderReader {
 public:
  // line: "# key value", without its end.
  absl::Status Add(std::string_view line, int64_t number) {
    line = StripWhitespace(line.substr(1));
    const size_t space = line.find(' ');
    const std::string key(line.substr(0, space));
    const std::string value(space == std::string_view::npos ? std::string_view() : StripWhitespace(line.substr(space)));
    if (!values_.emplace(key, value).second) return InvalidArgument("line %d: header '%s' is given twice", number, key);
    if (std::string* const text = Text(key); text != nullptr) {
      *text = value;
      return absl::OkStatus();
    }
    if (key == "dtype") return value == "int32" ? absl::OkStatus() : InvalidArgument("line %d: dtype '%s'; known: int32", number, value);
    const std::map<std::string, int64_t> least = {{"version", 1}, {"experts", 1}, {"layers", 1}, {"top_k", 1}, {"step", 0}, {"seed", 0}};
    const auto known = least.find(key);
    if (known == least.end())
      return InvalidArgument(
          "line %d: unknown header '%s'; known: version, experts, layers, top_k, dtype, corpus, step, seed, checkpoint, "
          "batches",
          number, key);
    if (key == "seed") return ParseSeed(value, number);
    const absl::StatusOr<int64_t> parsed = ParseInt64(value);
    const int64_t most = key == "step" ? std::numeric_limits<int64_t>::max() : std::numeric_limits<int>::max();
    if (!parsed.ok() || *parsed < known->second || *parsed > most)
      return InvalidArgument("line %d: header '%s': expected an integer from %d on, got '%s'", number, key, known->second, value);
    return Set(key, *parsed, number);
  }

  bool empty() const { return values_.empty(); }
  bool Has(const std::string& key) const { return values_.contains(key); }

  // With the sizes that the data showed. experts: as the caller knows them, 0 if not.
  absl::StatusOr<TraceHeader> Finish(int layers, int top_k, int experts) {
    if (Has("layers") && header_.layers != layers)
      return InvalidArgument("the header says %d layers, the data has %d", header_.layers, layers);
    if (Has("top_k") && header_.top_k != top_k)
      return InvalidArgument("the header says %d experts a token (top_k), the data has %d", header_.top_k, top_k);
    if (Has("experts") && experts > 0 && experts != header_.experts)
      return InvalidArgument("the header says %d experts, %d are expected", header_.experts, experts);
    if (!Has("experts") && experts == 0) return InvalidArgument("no header says how many experts there are; give --experts");
    if (!Has("experts")) header_.experts = experts;
    header_.layers = layers;
    header_.top_k = top_k;
    return header_;
  }

 private:
  // Where the text of a key goes; null: it is no text.
  std::string* Text(std::string_view key) {
    return key == "corpus" ? &header_.corpus : key == "checkpoint" ? &header_.checkpoint : key == "batches" ? &header_.batches : nullptr;
  }
  absl::Status ParseSeed(const std::string& value, int64_t number) {
    const char* const end = value.data() + value.size();
    const auto [stop, error] = std::from_chars(value.data(), end, header_.seed);
    if (error != std::errc() || stop != end || value.empty())
      return InvalidArgument("line %d: header 'seed': expected an integer of 64 bits, got '%s'", number, value);
    return absl::OkStatus();
  }
  absl::Status Set(const std::string& key, int64_t value, int64_t number) {
    if (key == "version" && value != kTraceVersion) return InvalidArgument("line %d: version %d; known: %d", number, value, kTraceVersion);
    if (key == "experts") header_.experts = static_cast<int>(value);
    if (key == "layers") header_.layers = static_cast<int>(value);
    if (key == "top_k") header_.top_k = static_cast<int>(value);
    if (key == "step") header_.step = value;
    return absl::OkStatus();
  }

  TraceHeader header_;
  std::map<std::string, std::string> values_;
};

// Takes the first line off `text`, without its end.
std::string_view TakeLine(std::string_view& text) {
  const size_t end = text.find('\n');
  std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

// Appends the ids of a line; returns how many.
absl::StatusOr<int64_t> ParseRow(std::string_view line, int64_t number, std::vector<int32_t>* ids) {
  int64_t cells = 0;
  for (;;) {
    const size_t comma = line.find(',');
    const std::string_view cell = StripWhitespace(line.substr(0, comma));
    int32_t id = 0;
    const auto [stop, error] = std::from_chars(cell.data(), cell.data() + cell.size(), id);
    if (error != std::errc() || stop != cell.data() + cell.size())
      return InvalidArgument("line %d, column %d: expected an expert's number, got '%s'", number, cells + 1, std::string(cell));
    ids->push_back(id);
    ++cells;
    if (comma == std::string_view::npos) return cells;
    line.remove_prefix(comma + 1);
  }
}

absl::StatusOr<RoutingTrace> ReadNpy(const FileSystem& files, const std::string& path, int experts) {
  HeaderReader reader;
  if (files.Exists(path + ".header")) {
    ASSIGN_OR_RETURN(const std::string lines, files.ReadAll(path + ".header"));
    int64_t number = 0;
    for (std::string_view rest = lines; !rest.empty();) {
      const std::string_view line = TakeLine(rest);
      ++number;
      if (!line.starts_with('#')) return InvalidArgument("'%s.header', line %d: expected '# key value'", path, number);
      RETURN_IF_ERROR(reader.Add(line, number));
    }
  }
  ASSIGN_OR_RETURN(const std::string bytes, files.ReadAll(path));
  ASSIGN_OR_RETURN(IntegerArray array, ParseNpy(bytes));
  if (array.shape.size() != 2 && array.shape.size() != 3)
    return InvalidArgument("expected an array [tokens, layers] or [tokens, layers, top_k], got %d dimensions", array.shape.size());
  const int64_t top_k = array.shape.size() == 3 ? array.shape[2] : 1;
  if (array.values.empty()) return InvalidArgument("trace: it holds no token");
  if (array.shape[1] > std::numeric_limits<int>::max() || top_k > std::numeric_limits<int>::max())
    return InvalidArgument("more layers or experts a token than any model has");
  ASSIGN_OR_RETURN(TraceHeader header, reader.Finish(static_cast<int>(array.shape[1]), static_cast<int>(top_k), experts));
  return RoutingTrace::Make(std::move(header), std::move(array.values));
}

absl::Status UnknownEnding(const std::string& path) {
  return InvalidArgument("trace '%s': expected a name that ends in .csv or .npy", path);
}

}  // namespace

std::string RenderTraceHeader(const TraceHeader& header) {
  return absl::StrFormat(
      "# version %d\n# experts %d\n# layers %d\n# top_k %d\n# dtype int32\n# corpus %s\n# step %d\n# seed %d\n# checkpoint %s\n# batches "
      "%s\n",
      kTraceVersion, header.experts, header.layers, header.top_k, header.corpus, header.step, header.seed, header.checkpoint,
      header.batches);
}

absl::StatusOr<std::string> RenderTraceCsv(const RoutingTrace& trace) {
  if (trace.top_k() != 1)
    return InvalidArgument("a token has %d experts a layer, .csv holds one: write .npy, or the first slot alone", trace.top_k());
  std::string text = RenderTraceHeader(trace.header());
  char digits[16];
  for (int64_t t = 0; t < trace.tokens(); ++t) {
    for (int j = 0; j < trace.layers(); ++j) {
      if (j > 0) text += ',';
      text.append(digits, std::to_chars(digits, digits + sizeof(digits), trace.expert(t, j)).ptr);
    }
    text += '\n';
  }
  return text;
}

absl::StatusOr<RoutingTrace> ParseTraceCsv(std::string_view text, int experts) {
  HeaderReader reader;
  std::vector<int32_t> ids;
  int64_t number = 0, layers = 0;
  while (!text.empty()) {
    const std::string_view line = TakeLine(text);
    ++number;
    if (line.starts_with('#')) {
      if (layers > 0) return InvalidArgument("line %d: header lines must come first", number);
      RETURN_IF_ERROR(reader.Add(line, number));
      continue;
    }
    ASSIGN_OR_RETURN(const int64_t cells, ParseRow(line, number, &ids));
    if (layers == 0) layers = cells;
    if (cells != layers) return InvalidArgument("line %d: %d ids, the lines before have %d", number, cells, layers);
  }
  if (layers == 0) return InvalidArgument("trace: it holds no token");
  ASSIGN_OR_RETURN(TraceHeader header, reader.Finish(static_cast<int>(layers), 1, experts));
  return RoutingTrace::Make(std::move(header), std::move(ids));
}

absl::StatusOr<RoutingTrace> ReadTrace(const FileSystem& files, const std::string& path, int experts) {
  if (!path.ends_with(".csv") && !path.ends_with(".npy")) return UnknownEnding(path);
  absl::StatusOr<RoutingTrace> trace = absl::UnknownError("");
  if (path.ends_with(".npy")) {
    trace = ReadNpy(files, path, experts);
  } else {
    ASSIGN_OR_RETURN(const std::string text, files.ReadAll(path));
    trace = ParseTraceCsv(text, experts);
  }
  if (!trace.ok()) return Annotate(trace.status(), absl::StrFormat("'%s'", path));
  return trace;
}

absl::Status WriteTrace(const FileSystem& files, const std::string& path, const RoutingTrace& trace) {
  if (path.ends_with(".csv")) {
    ASSIGN_OR_RETURN(const std::string text, RenderTraceCsv(trace));
    return files.WriteAtomically(path, text);
  }
  if (!path.ends_with(".npy")) return UnknownEnding(path);
  std::vector<int64_t> shape{trace.tokens(), trace.layers()};
  if (trace.top_k() > 1) shape.push_back(trace.top_k());
  // The larger file first: where the disk is full, what stood there stays.
  RETURN_IF_ERROR(files.WriteAtomically(path, RenderNpy(shape, trace.ids())));
  return files.WriteAtomically(path + ".header", RenderTraceHeader(trace.header()));
}

}  // namespace conclave
