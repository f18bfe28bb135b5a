#include "trainer/safetensors.h"

#include <cstring>

#include "base/fault_file_system.h"
#include "gtest/gtest.h"
#include "trainer/json.h"

namespace conclave {
namespace {

std::string FileOf(std::string_view json, int64_t data_bytes) {
  const uint64_t length = json.size();
  std::string out(sizeof(length), '\0');
  std::memcpy(out.data(), &length, sizeof(length));
  out += json;
  return out + std::string(static_cast<size_t>(data_bytes), 'x');
}

absl::StatusOr<SafetensorsFile> HeaderOf(std::string_view content, const std::string& path) {
  const FaultFileSystem files;
  RETURN_IF_ERROR(files.WriteAtomically("f", content));
  ASSIGN_OR_RETURN(const auto file, files.OpenForRead("f"));
  return ReadSafetensorsHeader(*file, path);
}

TEST(SafetensorsTest, LayoutIsByAlignmentThenNameWithoutGaps) {
  const SafetensorsFile file = LayOutSafetensors(
      {{"b", "U8", {3}}, {"z", "F64", {}}, {"a", "BF16", {2, 2}}, {"c", "I64", {1}}, {"d", "F32", {0, 7}}}, {{"made by", "a \"test\""}});
  std::vector<std::string> names;
  for (const SafetensorsEntry& entry : file.entries) names.push_back(entry.name);
  EXPECT_EQ(names, (std::vector<std::string>{"c", "z", "d", "a", "b"}));
  const std::string header = SafetensorsHeader(file);
  EXPECT_EQ(header.size() % 8, 0u);
  EXPECT_EQ(header.substr(8, header.find_last_of('}') - 7),
            "{\"__metadata__\":{\"made by\":\"a \\\"test\\\"\"},"
            "\"c\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]},"
            "\"z\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[8,16]},"
            "\"d\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[16,16]},"
            "\"a\":{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_offsets\":[16,24]},"
            "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[24,27]}}");
  EXPECT_EQ(header.substr(header.find_last_of('}') + 1).find_first_not_of(' '), std::string::npos);
  EXPECT_EQ(file.bytes, static_cast<int64_t>(header.size()) + 27);
}

TEST(SafetensorsTest, WhatIsWrittenIsRead) {
  const SafetensorsFile file = LayOutSafetensors({{"x\n\"y\"", "F32", {2, 3}}, {"empty", "I32", {0}}, {"scalar", "F64", {}}}, {{"k", "v"}});
  FaultFileSystem fs;
  const auto out = fs.OpenForWrite("f", WriteMode::kTruncate);
  ASSERT_TRUE((*out)->Write(SafetensorsHeader(file) + std::string(32, '\1')).ok());
  const auto read = ReadSafetensorsHeader(**fs.OpenForRead("f"), "f");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->data_begin, file.data_begin);
  EXPECT_EQ(read->metadata, file.metadata);
  ASSERT_EQ(read->entries.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(read->entries[i].name, file.entries[i].name);
    EXPECT_EQ(read->entries[i].shape, file.entries[i].shape);
    EXPECT_EQ(read->entries[i].begin, file.entries[i].begin);
  }
}

TEST(SafetensorsTest, FilesOfOthersAreRead) {
  // Any order of entries, white space, trailing spaces, types we do not compute with, sub-byte types.
  const auto read = HeaderOf(FileOf("{ \"b\" : {\"shape\":[4],\"data_offsets\":[2,4],\"dtype\":\"F4\"}, "
                                    "\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[0,2]}}   ",
                                    4),
                             "f");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->entries[0].name, "a");
  EXPECT_EQ(read->entries[1].dtype, "F4");
  EXPECT_TRUE(HeaderOf(FileOf("{}", 0), "f").ok());
  EXPECT_FALSE(DTypeOfSafetensorsName("F4").has_value());
  EXPECT_EQ(DTypeOfSafetensorsName("BF16"), DType::kBF16);
}

TEST(SafetensorsTest, EverythingTheFormatForbidsIsRefused) {
  struct Case {
    const char* expected;
    std::string content;
  };
  const auto entry = [](const std::string& inner, int64_t bytes) { return FileOf("{\"t\":{" + inner + "}}", bytes); };
  const std::string good = entry("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]", 4);
  ASSERT_TRUE(HeaderOf(good, "f").ok());
  std::string huge = good;
  huge[3] = 0x10;  // claims 2^28 bytes
  const std::vector<Case> cases = {
      {"has 3 bytes", "abc"},
      {"claims", huge},
      {"claims", FileOf("{", 0)},
      {"claims", good.substr(0, 20)},
      {"begin with '{'", FileOf(" {}", 0)},
      {"begin with '{'", FileOf("[]", 0)},
      {"UTF-8", FileOf("{\"\xff\":{}}", 0)},
      {"byte", FileOf("{\"a\":}", 0)},
      {"more text", FileOf("{}{}", 0)},
      {"twice",
       FileOf(
           "{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
           0)},
      {"no string", FileOf("{\"__metadata__\":{\"a\":1}}", 0)},
      {"exactly", entry("\"dtype\":\"F32\",\"shape\":[1]", 4)},
      {"exactly", entry("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"more\":1", 4)},
      {"unknown dtype", entry("\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]", 4)},
      {"make 8 bytes", entry("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]", 4)},
      {"broken byte", entry("\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,1]", 1)},
      {"too large", entry("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]", 4)},
      {"negative", entry("\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]", 4)},
      {"shape", entry("\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]", 4)},
      {"begin, end", entry("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]", 4)},
      {"begins at byte 1", entry("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[1,5]", 5)},
      {"the file holds 5", entry("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]", 5)},
      {"the file holds 3", entry("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]", 3)},
      {"begins at byte 2",  // an overlap
       FileOf("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,"
              "6]}}",
              6)},
      {"begins at byte 5",  // a hole
       FileOf(
           "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[5,6]}}",
           6)},
  };
  for (const Case& c : cases) {
    const absl::Status status = HeaderOf(c.content, "folder/f").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << c.expected;
    EXPECT_NE(status.message().find(c.expected), absl::string_view::npos) << c.expected << ": " << status;
    EXPECT_NE(status.message().find("'folder/f'"), absl::string_view::npos) << status;
  }
}

TEST(JsonTest, ReadsWhatItWrites) {
  std::string text;
  AppendJsonString("tab\t quote\" \\ \xc3\xa9 \n", &text);
  EXPECT_EQ(ParseJson(text)->text, "tab\t quote\" \\ \xc3\xa9 \n");
  EXPECT_EQ(ParseJson("\"\\u00e9\\ud83d\\ude00\"")->text, "\xc3\xa9\xf0\x9f\x98\x80");
  for (const double value : {0.0, -0.0, 0.1, 1e300, 5e-324, -1.0 / 3.0}) {
    std::string number;
    AppendJsonNumber(value, &number);
    const double read = *ParseJson(number)->AsDouble();
    EXPECT_EQ(std::memcmp(&read, &value, sizeof(value)), 0) << number;
  }
  const auto value = ParseJson(" {\"a\": [1, -2.5e3, true, null], \"b\": {}} ");
  ASSERT_TRUE(value.ok()) << value.status();
  EXPECT_EQ(*value->Find("a")->items[1].AsDouble(), -2500);
  EXPECT_FALSE(value->Find("a")->items[1].AsInt64().ok());
  EXPECT_EQ(value->Find("c"), nullptr);
}

TEST(JsonTest, RefusesWhatIsNoJson) {
  for (const char* text : {"",
                           "{",
                           "[1,]",
                           "{\"a\" 1}",
                           "{a:1}",
                           "01",
                           "1.",
                           "+1",
                           "1e",
                           "\"\x01\"",
                           "\"\\x\"",
                           "\"\\ud800\"",
                           "\"\\udc00\"",
                           "nul",
                           "1 2",
                           "{\"a\":1,\"a\":2}",
                           "\"\xc0\x80\"",
                           "\"\xed\xa0\x80\"",
                           "\"\xf4\x90\x80\x80\"",
                           "\"a"}) {
    EXPECT_FALSE(ParseJson(text).ok()) << text;
  }
  EXPECT_FALSE(ParseJson(std::string(100, '[') + std::string(100, ']')).ok());
}

}  // namespace
}  // namespace conclave
