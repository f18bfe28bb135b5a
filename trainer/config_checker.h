// Reads the tokens of a config beside its schema and finds every error of form: unknown fields, wrong types, values out of range, unclosed
// blocks.
#ifndef CONCLAVE_TRAINER_CONFIG_CHECKER_H_
#define CONCLAVE_TRAINER_CONFIG_CHECKER_H_

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <google/protobuf/descriptor.h>

#include "trainer/config_diagnostics.h"
#include "trainer/config_lexer.h"
#include "trainer/config_schema.h"

namespace conclave {

// Where a checker writes. All outlive it.
struct CheckOutput {
  ConfigDiagnostics* diagnostics;
  ConfigPlaces* places;  // of everything set
  DamagedPaths* damaged;
  std::string* clean;  // a copy of the source's text, in which faulty fields are blanked out
};

// Protobuf's own parser stops at the first error and points at the token after it. So this checker walks the same text first and goes on
// after an error; what it leaves in `clean` is then parsed by Protobuf. Faults are spelled out once, where they begin. Linear in the text's
// length.
class ConfigChecker {
 public:
  // `tokens` are of source number `source`, whose text is `text`; both outlive the checker.
  ConfigChecker(std::string_view text, int source, std::vector<ConfigToken> tokens, const CheckOutput& output)
      : text_(text), source_(source), tokens_(std::move(tokens)), output_(output) {}

  // Checks a whole text as the fields of a message. Returns false where blocks do not close: then `clean` cannot be parsed.
  bool CheckFile(const google::protobuf::Descriptor& root);
  // Checks a text as the value of one field at `path`; elements of a repeated field are numbered from `first_index`.
  // Returns false where the value itself has an error (those inside a block are only reported).
  bool CheckValueOf(const google::protobuf::FieldDescriptor& field, const std::string& path, int first_index);
  // The same for one element of a repeated field; `path` is the element's.
  bool CheckElement(const google::protobuf::FieldDescriptor& field, const std::string& path);

 private:
  struct Block;

  void CheckFields(Block* block);
  bool CheckField(Block* block);
  void UnknownField(const Block& block);
  bool SetBefore(const google::protobuf::FieldDescriptor& field, Block* block);
  bool CheckNothingFollows(const google::protobuf::FieldDescriptor& field);
  bool CheckValues(const google::protobuf::FieldDescriptor& field, const std::string& path, int* index);
  bool CheckOneValue(const google::protobuf::FieldDescriptor& field, const std::string& path);
  bool CheckBlock(const google::protobuf::FieldDescriptor& field, const std::string& path);
  bool CheckScalar(const google::protobuf::FieldDescriptor& field);

  const ConfigToken& Peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  bool AtClose() const { return Peek().Is("}") || Peek().Is(">") || Peek().Is("]"); }
  bool AtEnd() const { return Peek().kind == TokenKind::kEnd; }
  bool AtNextField() const;
  void SkipValue();
  void SkipBalanced();
  void SkipLine();
  void SkipField();
  void Blank(size_t first_token);
  void Unclosed(const ConfigToken& open);
  void Error(const ConfigToken& token, std::string message);
  std::string Where(const ConfigToken& token) const;
  std::string Quoted(const ConfigToken& token) const;

  const std::string_view text_;
  const int source_;
  const std::vector<ConfigToken> tokens_;
  const CheckOutput output_;
  const google::protobuf::Descriptor* root_ = nullptr;
  size_t at_ = 0;
  bool balanced_ = true;
};

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CONFIG_CHECKER_H_
