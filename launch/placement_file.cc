#include "launch/placement_file.h"

#include "trainer/json.h"

namespace conclave {
namespace {

constexpr int64_t kVersion = 1;

absl::Status ExpectInteger(const JsonValue& object, const char* name, int64_t expected) {
  const JsonValue* const value = object.Find(name);
  if (value == nullptr) return InvalidArgument("'%s' is missing", name);
  ASSIGN_OR_RETURN(const int64_t got, value->AsInt64());
  return got == expected ? absl::OkStatus() : InvalidArgument("%s: expected %d, got %d", name, expected, got);
}

absl::StatusOr<PlacementTable> TableOf(const JsonValue& object, const Topology& topology) {
  const JsonValue* const schema = object.Find("schema");
  if (schema == nullptr || schema->text != "conclave.placement") return InvalidArgument("it is no placement (schema conclave.placement)");
  RETURN_IF_ERROR(ExpectInteger(object, "version", kVersion));
  RETURN_IF_ERROR(ExpectInteger(object, "ranks", topology.ranks));
  RETURN_IF_ERROR(ExpectInteger(object, "nodes", topology.nodes));
  const JsonValue* const rows = object.Find("table");
  if (rows == nullptr || rows->kind != JsonValue::Kind::kArray || rows->items.empty()) return InvalidArgument("'table' holds no layers");
  PlacementTable table;
  for (const JsonValue& row : rows->items) {
    std::vector<int>& ranks = table.emplace_back();
    for (const JsonValue& cell : row.items) {
      ASSIGN_OR_RETURN(const int64_t rank, cell.AsInt64());
      if (rank < 0 || rank >= topology.ranks)
        return InvalidArgument("layer %d: rank %d is outside 0..%d", table.size() - 1, rank, topology.ranks - 1);
      ranks.push_back(static_cast<int>(rank));
    }
  }
  return table;
}

}  // namespace

std::string RenderPlacement(const PlacementTable& table, const Topology& topology) {
  std::string text = absl::StrFormat("{\"schema\":\"conclave.placement\",\"version\":%d,\"ranks\":%d,\"nodes\":%d,\"table\":[", kVersion,
                                     topology.ranks, topology.nodes);
  for (size_t j = 0; j < table.size(); ++j) {
    text += j == 0 ? "\n[" : ",\n[";
    for (size_t e = 0; e < table[j].size(); ++e) absl::StrAppendFormat(&text, e == 0 ? "%d" : ",%d", table[j][e]);
    text += ']';
  }
  return text + "]}\n";
}

absl::StatusOr<PlacementTable> ReadPlacement(const FileSystem& files, const std::string& path, const Topology& topology) {
  ASSIGN_OR_RETURN(const std::string text, files.ReadAll(path));
  const absl::StatusOr<JsonValue> object = ParseJson(text);
  if (!object.ok()) return Annotate(object.status(), absl::StrFormat("'%s'", path));
  absl::StatusOr<PlacementTable> table = TableOf(*object, topology);
  if (!table.ok()) return Annotate(table.status(), absl::StrFormat("'%s'", path));
  return table;
}

}  // namespace conclave
