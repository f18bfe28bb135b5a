#include "trainer/config_checker.h"

#include <map>

#include "trainer/config_scalar.h"

namespace conclave {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::OneofDescriptor;

struct ConfigChecker::Block {
  const Descriptor* type;
  std::string path;
  const ConfigToken* open = nullptr;  // the bracket; null: the whole text
  std::map<const FieldDescriptor*, const ConfigToken*> singles;
  std::map<const OneofDescriptor*, const ConfigToken*> choices;
  std::map<const FieldDescriptor*, int> counts;
};

bool ConfigChecker::CheckFile(const Descriptor& root) {
  root_ = &root;
  Block block{&root, ""};
  CheckFields(&block);
  return balanced_;
}

bool ConfigChecker::CheckValueOf(const FieldDescriptor& field, const std::string& path, int first_index) {
  output_.places->insert_or_assign(path, ConfigPlace{source_, 0});
  int index = first_index;
  return CheckValues(field, path, &index) && CheckNothingFollows(field);
}

bool ConfigChecker::CheckElement(const FieldDescriptor& field, const std::string& path) {
  return CheckOneValue(field, path) && CheckNothingFollows(field);
}

bool ConfigChecker::CheckNothingFollows(const FieldDescriptor& field) {
  if (AtEnd()) return true;
  Error(Peek(), absl::StrFormat("nothing may follow the value of '%s', got %s", field.name(), Quoted(Peek())));
  return false;
}

// One field after another, until the bracket that closes the block.
void ConfigChecker::CheckFields(Block* block) {
  while (true) {
    const ConfigToken& token = Peek();
    if (token.kind == TokenKind::kEnd) {
      if (block->open != nullptr) Unclosed(*block->open);
      return;
    }
    if (token.Is("}") || token.Is(">")) {
      if (block->open != nullptr) {
        if (token.Is("}") != block->open->Is("{")) Unclosed(*block->open);
        ++at_;
        return;
      }
      Error(token, absl::StrFormat("'%s' closes no block", std::string(token.text)));
      Blank(at_++);
      continue;
    }
    if (token.kind != TokenKind::kIdentifier) {
      Error(token, absl::StrFormat("expected a field name, got %s", Quoted(token)));
      output_.damaged->Add(block->path);
      const size_t first = at_;
      SkipLine();
      Blank(first);
      continue;
    }
    const bool good = CheckField(block);
    if (Peek().Is(",") || Peek().Is(";")) {
      const size_t separator = at_++;
      if (!good) Blank(separator);
    }
  }
}

bool ConfigChecker::CheckField(Block* block) {
  const size_t first = at_;
  const ConfigToken& name = Peek();
  const FieldDescriptor* field = block->type->FindFieldByName(std::string(name.text));
  if (field == nullptr) {
    UnknownField(*block);
    SkipField();
    Blank(first);
    return false;
  }
  const std::string path = ChildPath(block->path, field->name());
  if (SetBefore(*field, block)) {
    SkipField();
    Blank(first);
    return false;
  }
  output_.places->insert_or_assign(path, ConfigPlace{source_, name.offset});
  ++at_;
  const bool is_block = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
  if (Peek().Is(":")) {
    ++at_;
  } else if (!is_block || AtNextField() || AtClose() || AtEnd() || Peek().Is("=")) {
    Error(Peek(), absl::StrFormat("expected '%s' after '%s', got %s", is_block ? "{" : ":", field->name(), Quoted(Peek())));
    output_.damaged->Add(path);
    if (Peek().Is("=")) ++at_;
    if (!AtNextField() && !AtClose()) SkipValue();
    Blank(first);
    return false;
  }
  if (CheckValues(*field, path, &block->counts[field])) return true;
  Blank(first);
  return false;
}

// Reports a singular field that is set twice and a second member of one oneof; else remembers the field.
bool ConfigChecker::SetBefore(const FieldDescriptor& field, Block* block) {
  if (field.is_repeated()) return false;
  const ConfigToken& name = Peek();
  const auto [single, is_new] = block->singles.emplace(&field, &name);
  if (!is_new) {
    Error(name, absl::StrFormat("'%s' is set twice in this block; first at %s", field.name(), Where(*single->second)));
    return true;
  }
  const OneofDescriptor* oneof = field.real_containing_oneof();
  if (oneof == nullptr) return false;
  const auto [choice, is_first] = block->choices.emplace(oneof, &name);
  if (is_first) return false;
  Error(name, absl::StrFormat("'%s' excludes '%s' set at %s: %s takes one '%s'", field.name(), std::string(choice->second->text),
                              Where(*choice->second), MessageName(*block->type), oneof->name()));
  return true;
}

void ConfigChecker::UnknownField(const Block& block) {
  const ConfigToken& name = Peek();
  const std::string wanted(name.text);
  std::string likely;
  std::string hint = UnknownFieldHint(*block.type, wanted, &likely);
  if (wanted == "include" && root_ != nullptr) {
    hint = "; an include stands outside all blocks, as include: \"FILE\"";
  } else if (block.open != nullptr && root_ != nullptr && root_->FindFieldByName(wanted) != nullptr) {
    hint = absl::StrFormat("; it stands outside all blocks: is the block opened at %s not closed?", Where(*block.open));
  }
  output_.damaged->Add(likely.empty() ? block.path : ChildPath(block.path, likely));
  Error(name, absl::StrFormat("%s has no field '%s'%s", MessageName(*block.type), wanted, hint));
}

// A value, or [a, b, ...] where the field is repeated. Returns whether all is well formed.
bool ConfigChecker::CheckValues(const FieldDescriptor& field, const std::string& path, int* index) {
  if (!field.is_repeated()) return CheckOneValue(field, path);
  if (!Peek().Is("[")) return CheckOneValue(field, ElementPath(path, (*index)++));
  const ConfigToken& open = Peek();
  ++at_;
  bool good = true;
  while (!AtEnd() && !AtClose()) {
    good = CheckOneValue(field, ElementPath(path, (*index)++)) && good;
    if (Peek().Is(",")) {
      ++at_;
    } else if (!AtClose() && !AtEnd()) {
      Error(Peek(), absl::StrFormat("expected ',' or ']' in the list '%s', got %s", field.name(), Quoted(Peek())));
      output_.damaged->Add(path);
      good = false;
      if (AtNextField()) return false;
      SkipValue();
    }
  }
  if (!Peek().Is("]")) {
    Error(open, absl::StrFormat("list opened at %s is not closed", Where(open)));
    output_.damaged->Add(path);
    return false;
  }
  ++at_;
  return good;
}

bool ConfigChecker::CheckOneValue(const FieldDescriptor& field, const std::string& path) {
  if (field.is_repeated()) output_.places->insert_or_assign(path, ConfigPlace{source_, Peek().offset});
  const bool good = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE ? CheckBlock(field, path) : CheckScalar(field);
  if (!good) output_.damaged->Add(path);
  return good;
}

bool ConfigChecker::CheckBlock(const FieldDescriptor& field, const std::string& path) {
  const ConfigToken& open = Peek();
  if (!open.Is("{") && !open.Is("<")) {
    Error(open, absl::StrFormat("'%s' expects %s, got %s", field.name(), ExpectedValue(field), Quoted(open)));
    if (!AtNextField() && !AtClose()) SkipValue();
    return false;
  }
  ++at_;
  Block block{field.message_type(), path, &open};
  CheckFields(&block);
  return true;
}

bool ConfigChecker::CheckScalar(const FieldDescriptor& field) {
  const size_t first = at_;
  const bool negative = Peek().Is("-");
  if (negative) ++at_;
  if (AtEnd() || AtClose() || AtNextField()) {
    Error(tokens_[first == 0 ? 0 : first - 1], absl::StrFormat("'%s' has no value: expected %s", field.name(), ExpectedValue(field)));
    return false;
  }
  const ConfigToken& value = Peek();
  const std::string fault = ScalarFault(field, negative, value);
  SkipValue();
  if (fault.empty()) return true;
  Error(tokens_[first], fault);
  return false;
}

// True where a new field seems to begin: a name followed by ':' or a block.
bool ConfigChecker::AtNextField() const {
  return Peek().kind == TokenKind::kIdentifier && (Peek(1).Is(":") || Peek(1).Is("{") || Peek(1).Is("<"));
}

void ConfigChecker::SkipValue() {
  const ConfigToken& token = Peek();
  if (token.Is("{") || token.Is("<") || token.Is("[")) return SkipBalanced();
  if (token.kind == TokenKind::kString) {
    while (Peek().kind == TokenKind::kString) ++at_;  // neighbours are one string
    return;
  }
  if (token.Is("-")) ++at_;
  if (!AtEnd() && !AtClose()) ++at_;
}

void ConfigChecker::SkipBalanced() {
  std::vector<const ConfigToken*> open;
  do {
    const ConfigToken& token = Peek();
    if (token.kind == TokenKind::kEnd) {
      Unclosed(*open.back());
      return;
    }
    if (token.Is("{") || token.Is("<") || token.Is("[")) open.push_back(&token);
    if (AtClose()) open.pop_back();
    ++at_;
  } while (!open.empty());
}

// Passes what no rule explains: to the end of its line, or to a bracket that closes the block.
void ConfigChecker::SkipLine() {
  const size_t begin = static_cast<size_t>(Peek().offset);
  const size_t newline = std::min(text_.find('\n', begin), text_.size());
  while (!AtEnd() && !AtClose() && static_cast<size_t>(Peek().offset) < newline) {
    if (Peek().Is("{") || Peek().Is("<") || Peek().Is("[")) {
      SkipBalanced();
    } else {
      ++at_;
    }
  }
  if (static_cast<size_t>(Peek().offset) == begin) ++at_;
}

// Passes a whole field: its name, a colon, its value.
void ConfigChecker::SkipField() {
  ++at_;
  const bool colon = Peek().Is(":") || Peek().Is("=");
  if (colon) ++at_;
  const bool bare = Peek().Is("{") || Peek().Is("<") || Peek().kind == TokenKind::kNumber || Peek().kind == TokenKind::kString;
  if (colon ? !AtNextField() : bare) SkipValue();
}

// Overwrites the tokens from `first_token` to the next one by spaces, newlines kept, so that places stay as they are.
void ConfigChecker::Blank(size_t first_token) {
  const ConfigToken& last = tokens_[std::max(at_, first_token + 1) - 1];
  const int64_t end = last.offset + static_cast<int64_t>(last.text.size());
  for (int64_t i = tokens_[first_token].offset; i < end; ++i) {
    char& c = (*output_.clean)[static_cast<size_t>(i)];
    if (c != '\n') c = ' ';
  }
}

void ConfigChecker::Unclosed(const ConfigToken& open) {
  balanced_ = false;
  Error(open, absl::StrFormat("block opened at %s is not closed", Where(open)));
}

void ConfigChecker::Error(const ConfigToken& token, std::string message) {
  output_.diagnostics->Add({source_, token.offset}, std::move(message));
}

std::string ConfigChecker::Where(const ConfigToken& token) const {
  const LineColumn at = LocateByte({.text = std::string(text_)}, token.offset);
  return absl::StrFormat("%d:%d", at.line, at.column);
}

std::string ConfigChecker::Quoted(const ConfigToken& token) const {
  if (token.kind == TokenKind::kEnd) return "the end of the text";
  return token.kind == TokenKind::kString ? std::string(token.text) : absl::StrFormat("'%s'", std::string(token.text));
}

}  // namespace conclave
