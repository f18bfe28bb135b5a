// The C interface of the SentencePiece shim: a shared library that alone links SentencePiece, whose private protobuf clashes with ours.
// It is opened with dlopen; nothing but these plain types crosses the boundary, and no exception does.
#ifndef CONCLAVE_DATA_SENTENCEPIECE_SHIM_SHIM_H_
#define CONCLAVE_DATA_SENTENCEPIECE_SHIM_SHIM_H_

#include <stddef.h>
#include <stdint.h>

extern "C" {

// One version number for the whole table below; a shim of another version is refused.
inline constexpr int32_t kSentencePieceShimVersion = 1;

// Bytes owned by the shim, released by `release`.
struct SentencePieceBytes {
  char* data;
  int64_t size;
};

// Settings of a training. Sizes: `text` is `text_size` bytes of UTF-8; vocab_size counts every id, the 256 byte pieces included.
struct SentencePieceTraining {
  const char* text;
  int64_t text_size;
  int32_t vocab_size;
  int32_t bpe;               // 0: unigram, 1: byte-pair encoding
  int64_t max_sample_lines;  // lines the training looks at: every k-th of the text, so that the choice needs no randomness
};

// What the library offers. Functions that can fail return 0 on success, else they fill `error` (at most error_size bytes, NUL-terminated).
struct SentencePieceShim {
  int32_t version;
  void* (*load)(const char* model, int64_t model_size, char* error, size_t error_size);  // null on failure
  void (*unload)(void* processor);
  int32_t (*vocab_size)(void* processor);
  int32_t (*end_of_document)(void* processor);  // -1: the model has none
  // Writes at most `capacity` ids and sets *count to how many there are. Text without a line break is encoded as a whole.
  int32_t (*encode)(void* processor, const char* text, int64_t text_size, int32_t* ids, int64_t capacity, int64_t* count);
  int32_t (*decode)(void* processor, const int32_t* ids, int64_t count, SentencePieceBytes* text);
  int32_t (*train)(const SentencePieceTraining* training, SentencePieceBytes* model, char* error, size_t error_size);
  void (*release)(SentencePieceBytes* bytes);
};

// The library's only exported symbol. The table lives as long as the library is open.
typedef const SentencePieceShim* (*SentencePieceShimEntry)();
inline constexpr char kSentencePieceShimEntry[] = "conclave_sentencepiece_shim";

}  // extern "C"

#endif  // CONCLAVE_DATA_SENTENCEPIECE_SHIM_SHIM_H_
