#include "trainer/config_overrides.h"

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "base/strings.h"
#include "trainer/config_checker.h"
#include "trainer/config_parse.h"

namespace conclave {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

struct PathStep {
  std::string name;
  std::optional<int> element;
  int64_t offset = 0;
};

struct OverrideText {
  std::vector<PathStep> steps;
  bool append = false;
  std::string_view value;
  int64_t value_offset = 0;
};

// What an override addresses: a field of a block inside the config.
struct Target {
  Message* block = nullptr;
  const FieldDescriptor* field = nullptr;
  std::optional<int> element;
  std::string path;  // with the element
};

class Override {
 public:
  Override(const ConfigSource& source, int number, ConfigDiagnostics* diagnostics)
      : source_(source), number_(number), diagnostics_(diagnostics) {}

  std::optional<OverrideText> Split() const;
  std::optional<Target> Resolve(const OverrideText& text, Message* config) const;
  bool CheckOperator(const OverrideText& text, const Target& target) const;
  std::nullopt_t Fail(int64_t offset, std::string message) const {
    diagnostics_->Add({number_, offset}, std::move(message));
    return std::nullopt;
  }

 private:
  std::optional<PathStep> ParseStep(std::string_view step, int64_t offset) const;

  const ConfigSource& source_;
  const int number_;
  ConfigDiagnostics* const diagnostics_;
};

std::optional<OverrideText> Override::Split() const {
  const std::string_view text = source_.text;
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos) return Fail(0, "an override is written as --set path=value, as in --set trainer.steps=100");
  OverrideText result;
  result.append = equals > 0 && text[equals - 1] == '+';
  result.value = text.substr(equals + 1);
  result.value_offset = static_cast<int64_t>(equals) + 1;
  const std::string_view path = text.substr(0, equals - (result.append ? 1 : 0));
  int64_t offset = 0;
  for (const std::string& piece : SplitString(path, '.')) {
    std::optional<PathStep> step = ParseStep(piece, offset);
    if (!step) return std::nullopt;
    result.steps.push_back(*std::move(step));
    offset += static_cast<int64_t>(piece.size()) + 1;
  }
  return result;
}

std::optional<PathStep> Override::ParseStep(std::string_view step, int64_t offset) const {
  PathStep result{.offset = offset};
  const size_t bracket = step.find('[');
  result.name = std::string(StripWhitespace(step.substr(0, bracket)));
  if (result.name.empty()) return Fail(offset, "expected a field name here; a path reads as optim.clip_norm");
  if (bracket == std::string_view::npos) return result;
  const size_t close = step.find(']', bracket);
  const absl::StatusOr<int64_t> index =
      close == std::string_view::npos ? InvalidArgument("no ]") : ParseInt64(step.substr(bracket + 1, close - bracket - 1));
  if (!index.ok() || *index < 0 || *index > 1'000'000) {
    return Fail(offset + static_cast<int64_t>(bracket), absl::StrFormat("expected the number of an element, as in %s[0]", result.name));
  }
  result.element = static_cast<int>(*index);
  return result;
}

// Walks down from the config, creating the blocks on the way.
std::optional<Target> Override::Resolve(const OverrideText& text, Message* config) const {
  Target target{.block = config};
  for (size_t i = 0; i < text.steps.size(); ++i) {
    const PathStep& step = text.steps[i];
    const Descriptor& type = *target.block->GetDescriptor();
    const Reflection& reflection = *target.block->GetReflection();
    const FieldDescriptor* field = type.FindFieldByName(step.name);
    if (field == nullptr) {
      std::string likely;
      const std::string hint = UnknownFieldHint(type, step.name, &likely);
      return Fail(step.offset, absl::StrFormat("%s has no field '%s'%s", MessageName(type), step.name, hint));
    }
    target.field = field;
    target.element = step.element;
    target.path = ChildPath(target.path, step.name);
    const int size = field->is_repeated() ? reflection.FieldSize(*target.block, field) : 0;
    if (step.element) {
      if (!field->is_repeated())
        return Fail(step.offset, absl::StrFormat("'%s' is no list: write it without [%d]", step.name, *step.element));
      if (field->message_type() == nullptr)
        return Fail(step.offset, absl::StrFormat("'%s' is a list of values: set it as a whole", step.name));
      if (*step.element >= size)
        return Fail(step.offset, absl::StrFormat("'%s' has %d elements; [%d] is none of them", step.name, size, *step.element));
      target.path = ElementPath(target.path, *step.element);
    }
    if (i + 1 == text.steps.size()) break;
    if (field->message_type() == nullptr) {
      return Fail(text.steps[i + 1].offset, absl::StrFormat("'%s' is no block: it has no field '%s'", step.name, text.steps[i + 1].name));
    }
    if (field->is_repeated() && !step.element)
      return Fail(step.offset, absl::StrFormat("'%s' is a list: name an element, as %s[0]", step.name, step.name));
    target.block = step.element ? reflection.MutableRepeatedMessage(target.block, field, *step.element)
                                : reflection.MutableMessage(target.block, field);
  }
  return target;
}

bool Override::CheckOperator(const OverrideText& text, const Target& target) const {
  if (!text.append || (target.field->is_repeated() && !target.element)) return true;
  Fail(text.value_offset - 2, absl::StrFormat("'+=' appends to a list and '%s' holds one value; use '='", target.field->name()));
  return false;
}

// Checks the value and gives it in text format; nothing where it has errors.
std::optional<std::string> CheckedValue(const ConfigSource& source, const OverrideText& text, const Target& target, bool append,
                                        const CheckOutput& output, int number) {
  const std::string_view bare = StripWhitespace(text.value);
  const bool quoted = !bare.empty() && (bare[0] == '"' || bare[0] == '\'' || bare[0] == '[');
  if (target.field->cpp_type() == FieldDescriptor::CPPTYPE_STRING && !quoted) {
    output.places->insert_or_assign(target.path, ConfigPlace{number, 0});
    return "\"" + absl::CEscape(std::string(bare)) + "\"";
  }
  LexedText lexed = LexConfig(text.value);
  for (ConfigToken& token : lexed.tokens) token.offset += text.value_offset;
  for (const LexicalError& error : lexed.errors) output.diagnostics->Add({number, error.offset + text.value_offset}, error.message);
  if (!lexed.errors.empty()) return std::nullopt;
  const int first = append ? target.block->GetReflection()->FieldSize(*target.block, target.field) : 0;
  const size_t errors_before = output.diagnostics->size();
  ConfigChecker checker(source.text, number, std::move(lexed.tokens), output);
  const bool good =
      target.element ? checker.CheckElement(*target.field, target.path) : checker.CheckValueOf(*target.field, target.path, first);
  if (!good || output.diagnostics->size() != errors_before) return std::nullopt;
  return std::string(text.value);
}

// Writes a checked value into the block. Returns Protobuf's complaint, if it has one (about escapes in a string, say).
std::optional<ParseFault> Assign(const Target& target, const std::string& value, bool append) {
  const Reflection& reflection = *target.block->GetReflection();
  const std::string assignment = absl::StrFormat("%s: %s", target.field->name(), value);
  const std::unique_ptr<Message> holder(target.block->New());
  if (!target.element) {
    if (target.field->is_repeated() && !append) reflection.ClearField(target.block, target.field);
    return ParseConfigText(assignment, ParseMode::kMerge, target.block);
  }
  std::optional<ParseFault> fault = ParseConfigText(assignment, ParseMode::kMerge, holder.get());
  if (!fault) {
    Message* element = reflection.MutableRepeatedMessage(target.block, target.field, *target.element);
    element->MergeFrom(reflection.GetRepeatedMessage(*holder, target.field, 0));
  }
  return fault;
}

}  // namespace

void ApplyOverride(const ConfigSource& override_source, int source, Message* config, ConfigPlaces* places, DamagedPaths* damaged,
                   ConfigDiagnostics* diagnostics) {
  const Override parser(override_source, source, diagnostics);
  const std::optional<OverrideText> text = parser.Split();
  if (!text) return;
  const std::unique_ptr<Message> changed(config->New());
  changed->CopyFrom(*config);
  const std::optional<Target> target = parser.Resolve(*text, changed.get());
  if (!target || !parser.CheckOperator(*text, *target)) return;
  std::string clean = override_source.text;
  const CheckOutput output{diagnostics, places, damaged, &clean};
  const std::optional<std::string> value = CheckedValue(override_source, *text, *target, text->append, output, source);
  if (!value) return;
  if (const std::optional<ParseFault> fault = Assign(*target, *value, text->append)) {
    parser.Fail(text->value_offset, fault->message);
    return;
  }
  config->CopyFrom(*changed);
}

}  // namespace conclave
