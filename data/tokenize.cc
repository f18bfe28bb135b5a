#include "data/tokenize.h"

#include <sstream>

#include "base/digest.h"
#include "data/cache.h"
#include "data/text.h"
#include "data/token_shard.h"

namespace conclave {
namespace {

constexpr char kSummary[] = "summary.txt";
constexpr char kTitle[] = "conclave tokens 1";

std::string ShardPath(const std::string& folder, int64_t index) {
  return JoinPath(folder, absl::StrFormat("%06d.bin", index));
}

// Everything the shards depend on.
std::string CacheKey(const TokenizeOptions& options, const Tokenizer& tokenizer, const std::vector<std::string>& texts) {
  Digest64 digest;
  digest.Update(absl::StrFormat("%s;%s;%d;%d;%s;", kTitle, tokenizer.fingerprint(), options.shard_tokens, options.document_separator.size(),
                                options.document_separator));
  for (const std::string& text : texts) {
    digest.Update(absl::StrFormat("%d;", text.size()));
    digest.Update(std::string_view(text));
  }
  return absl::StrFormat("tokens-%016x", digest.Value());
}

// Collects tokens and writes a shard whenever one is full.
class ShardSequence {
 public:
  ShardSequence(std::string folder, const TokenizeOptions& options, int64_t vocab_size, const FileSystem& files)
      : folder_(std::move(folder)), limit_(options.shard_tokens), vocab_size_(vocab_size), files_(files) {}

  absl::Status Append(std::span<const int32_t> tokens) {
    while (!tokens.empty()) {
      const auto room = static_cast<size_t>(limit_) - pending_.size();
      const std::span<const int32_t> part = tokens.first(std::min(room, tokens.size()));
      pending_.insert(pending_.end(), part.begin(), part.end());
      tokens = tokens.subspan(part.size());
      if (static_cast<int64_t>(pending_.size()) == limit_) RETURN_IF_ERROR(Flush());
    }
    return absl::OkStatus();
  }

  absl::Status Flush() {
    if (pending_.empty()) return absl::OkStatus();
    RETURN_IF_ERROR(WriteTokenShard(ShardPath(folder_, shards_++), pending_, vocab_size_, files_));
    tokens_ += static_cast<int64_t>(pending_.size());
    pending_.clear();
    return absl::OkStatus();
  }

  int64_t shards() const { return shards_; }
  int64_t tokens() const { return tokens_; }

 private:
  std::string folder_;
  int64_t limit_, vocab_size_;
  const FileSystem& files_;
  std::vector<int32_t> pending_;
  int64_t shards_ = 0, tokens_ = 0;
};

absl::StatusOr<TokenizedText> ReadSummary(const std::string& folder, const FileSystem& files) {
  const std::string path = JoinPath(folder, kSummary);
  ASSIGN_OR_RETURN(const std::string content, files.ReadAll(path));
  std::istringstream in(content);
  std::string title, word;
  std::getline(in, title);
  TokenizedText text;
  int64_t shards = 0;
  in >> word >> shards >> word >> text.tokens >> word >> text.documents >> word >> text.text_bytes;
  if (title != kTitle || !in || shards < 1)
    return DataLoss("'%s' is damaged; remove the folder '%s' and it will be made again", path, folder);
  for (int64_t i = 0; i < shards; ++i) text.shards.push_back(ShardPath(folder, i));
  return text;
}

absl::Status WriteShards(const std::string& folder, const TokenizeOptions& options, const std::vector<std::string>& texts,
                         const Tokenizer& tokenizer, const FileSystem& files) {
  ShardSequence shards(folder, options, tokenizer.vocab_size(), files);
  int64_t documents = 0, text_bytes = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    for (const std::string_view document : SplitDocuments(texts[i], options.document_separator)) {
      absl::StatusOr<std::vector<int32_t>> tokens = tokenizer.Encode(document);
      if (!tokens.ok()) return Annotate(tokens.status(), options.text_files[i]);
      if (tokenizer.end_of_document() >= 0) tokens->push_back(tokenizer.end_of_document());
      RETURN_IF_ERROR(shards.Append(*tokens));
      ++documents;
      text_bytes += static_cast<int64_t>(document.size());
    }
  }
  RETURN_IF_ERROR(shards.Flush());
  return files.WriteAtomically(JoinPath(folder, kSummary),
                               absl::StrFormat("%s\nshards %d\ntokens %d\ndocuments %d\ntext_bytes %d\ntokenizer %s\n", kTitle,
                                               shards.shards(), shards.tokens(), documents, text_bytes, tokenizer.fingerprint()));
}

}  // namespace

absl::StatusOr<TokenizedText> TokenizeToShards(const TokenizeOptions& options, const Tokenizer& tokenizer, const FileSystem& files) {
  if (!options.document_separator.empty() && tokenizer.end_of_document() < 0) {
    return InvalidArgument("a document separator is set, but the tokenizer '%s' has no end-of-document token; use bytes or sentencepiece",
                           tokenizer.name());
  }
  std::vector<std::string> texts;
  for (const std::string& path : options.text_files) {
    ASSIGN_OR_RETURN(std::string text, ReadText(path, files));
    texts.push_back(std::move(text));
  }
  const std::string folder = JoinPath(options.cache_dir, CacheKey(options, tokenizer, texts));
  if (files.Exists(folder)) return ReadSummary(folder, files);
  RETURN_IF_ERROR(files.CreateDirs(options.cache_dir));
  const std::string private_folder = PrivateName(folder);
  RETURN_IF_ERROR(files.RemoveTree(private_folder));
  RETURN_IF_ERROR(files.CreateDir(private_folder));
  if (const absl::Status written = WriteShards(private_folder, options, texts, tokenizer, files); !written.ok()) {
    files.RemoveTree(private_folder).IgnoreError();  // the first error is the one to report
    return written;
  }
  RETURN_IF_ERROR(PublishFolder(private_folder, folder, files));
  return ReadSummary(folder, files);
}

}  // namespace conclave
