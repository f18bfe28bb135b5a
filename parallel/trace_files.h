// Routing traces in files: .csv (one expert a layer) and NumPy's .npy. docs/formats.md describes both.
#ifndef CONCLAVE_PARALLEL_TRACE_FILES_H_
#define CONCLAVE_PARALLEL_TRACE_FILES_H_

#include <string>
#include <string_view>

#include "base/file_system.h"
#include "parallel/routing_trace.h"

namespace conclave {

// "# key value" lines: version, experts, layers, top_k, dtype, corpus, step, seed, checkpoint, batches.
std::string RenderTraceHeader(const TraceHeader& header);

// Header lines, then a line of comma-separated ids a token. Errors: InvalidArgument for top_k > 1, which a table of two dimensions cannot
// hold.
absl::StatusOr<std::string> RenderTraceCsv(const RoutingTrace& trace);
// Header lines may be missing; then `experts` must be given (0: unknown). Errors name the line: a cell that is no integer, rows of
// different lengths, an unknown or repeated key, another version, a header that contradicts the rows or `experts`.
absl::StatusOr<RoutingTrace> ParseTraceCsv(std::string_view text, int experts = 0);

// By the path's ending. A .npy file of shape [tokens, layers] (top_k 1) or [tokens, layers, top_k] has its header lines in path +
// ".header", which may be missing. `experts`: what the ids count, where no header says it. Errors name the path.
absl::StatusOr<RoutingTrace> ReadTrace(const FileSystem& files, const std::string& path, int experts = 0);
absl::Status WriteTrace(const FileSystem& files, const std::string& path, const RoutingTrace& trace);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_TRACE_FILES_H_
