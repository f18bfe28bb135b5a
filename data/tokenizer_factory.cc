#include "data/tokenizer_factory.h"

namespace conclave {

// The makers, one a file in tokenizers/.
std::unique_ptr<Tokenizer> MakeBytesTokenizer();
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeCharactersTokenizer(const CharactersTokenizerConfig& config,
                                                                   const TokenizerTraining& training, const FileSystem& files);
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeSentencePieceTokenizer(const SentencePieceConfig& config, const TokenizerTraining& training,
                                                                      const FileSystem& files);

absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerFromConfig(const TokenizerConfig& config, const TokenizerTraining& training,
                                                               const FileSystem& files) {
  switch (config.kind_case()) {
    case TokenizerConfig::kBytes:
      return MakeBytesTokenizer();
    case TokenizerConfig::kSentencepiece:
      return MakeSentencePieceTokenizer(config.sentencepiece(), training, files);
    case TokenizerConfig::kCharacters:
      return MakeCharactersTokenizer(config.characters(), training, files);
    case TokenizerConfig::KIND_NOT_SET:
      break;
  }
  return InvalidArgument("data.tokenizer: no kind is set; choose bytes, characters or sentencepiece");
}

}  // namespace conclave
