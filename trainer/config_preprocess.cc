#include "trainer/config_preprocess.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/strings.h"
#include "trainer/config_lexer.h"

namespace conclave {
namespace {

constexpr size_t kMaxFiles = 64;  // far beyond any real config; stops files that include each other twice at every level

struct IncludeLine {
  int64_t path_offset = 0;
  std::string path;
};

class LayerReader {
 public:
  LayerReader(const FileReader& read, std::vector<ConfigSource>* sources, ConfigDiagnostics* diagnostics)
      : read_(read), sources_(sources), diagnostics_(diagnostics) {}

  // Adds the layers of a file whose content is at hand.
  void AddFile(const std::string& path, std::string text);
  std::vector<ConfigLayer> Take() { return std::move(layers_); }

 private:
  void AddInclude(const std::string& from, int source, const IncludeLine& line);

  const FileReader& read_;
  std::vector<ConfigSource>* const sources_;
  ConfigDiagnostics* const diagnostics_;
  std::vector<std::string> open_;  // the chain of files being read
  std::vector<ConfigLayer> layers_;
};

// Takes the includes out of the text.
std::vector<IncludeLine> CutIncludes(int source, std::string* text, ConfigDiagnostics* diagnostics) {
  const std::string original = *text;
  const LexedText lexed = LexConfig(original);
  std::vector<IncludeLine> includes;
  int depth = 0;
  for (size_t i = 0; i < lexed.tokens.size(); ++i) {
    const ConfigToken& token = lexed.tokens[i];
    if (token.Is("{") || token.Is("[") || token.Is("<")) ++depth;
    if (token.Is("}") || token.Is("]") || token.Is(">")) --depth;
    if (depth != 0 || token.kind != TokenKind::kIdentifier || token.text != "include") continue;
    const bool colon = lexed.tokens[i + 1].Is(":");
    const size_t last = i + (colon ? 1 : 0) + (lexed.tokens[i + (colon ? 2 : 1)].kind == TokenKind::kString ? 1 : 0);
    const std::string_view value = lexed.tokens[last].text;
    if (last == i + 2 && value.size() >= 2 && value.back() == value.front()) {
      includes.push_back({lexed.tokens[last].offset, std::string(value.substr(1, value.size() - 2))});
    } else {
      diagnostics->Add({source, token.offset}, "an include is written as include: \"FILE\"");
    }
    const int64_t end = lexed.tokens[last].offset + static_cast<int64_t>(value.size());
    for (int64_t at = token.offset; at < end; ++at) (*text)[static_cast<size_t>(at)] = ' ';
    i = last;
  }
  return includes;
}

void LayerReader::AddFile(const std::string& path, std::string text) {
  const int source = static_cast<int>(sources_->size());
  sources_->push_back({.name = path, .text = text});
  open_.push_back(std::filesystem::path(path).lexically_normal().string());
  for (const IncludeLine& line : CutIncludes(source, &text, diagnostics_)) AddInclude(path, source, line);
  open_.pop_back();
  layers_.push_back({source, std::move(text)});
}

void LayerReader::AddInclude(const std::string& from, int source, const IncludeLine& line) {
  const ConfigPlace place{source, line.path_offset};
  const std::filesystem::path target = std::filesystem::path(from).parent_path() / line.path;
  const std::string name = target.lexically_normal().string();
  if (line.path.empty()) return diagnostics_->Add(place, "an include names no file");
  const auto seen = std::find(open_.begin(), open_.end(), name);
  if (seen != open_.end()) {
    std::vector<std::string> chain(seen, open_.end());
    chain.push_back(name);
    return diagnostics_->Add(place, "include cycle: " + JoinStrings(chain, " -> "));
  }
  if (sources_->size() >= kMaxFiles) return diagnostics_->Add(place, absl::StrFormat("more than %d files are included", kMaxFiles));
  absl::StatusOr<std::string> text = read_(name);
  if (!text.ok())
    return diagnostics_->Add(place, absl::StrFormat("cannot include '%s': %s", line.path, std::string(text.status().message())));
  AddFile(name, *std::move(text));
}

}  // namespace

absl::StatusOr<std::vector<ConfigLayer>> ReadConfigLayers(const std::string& path, const FileReader& read,
                                                          std::vector<ConfigSource>* sources, ConfigDiagnostics* diagnostics) {
  absl::StatusOr<std::string> text = read(path);
  if (!text.ok()) return Annotate(text.status(), absl::StrFormat("%s: error", path));
  if (LexConfig(*text).tokens.size() == 1) {
    return InvalidArgument("%s:1:1: error: the config holds no settings; expected fields such as name, trainer, optim, model and data",
                           path);
  }
  LayerReader reader(read, sources, diagnostics);
  reader.AddFile(path, *std::move(text));
  return reader.Take();
}

}  // namespace conclave
