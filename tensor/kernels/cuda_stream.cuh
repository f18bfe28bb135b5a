// What a Stream's handle is on the CUDA side, and how kernels report errors. For .cu files only.
#ifndef CONCLAVE_TENSOR_KERNELS_CUDA_STREAM_CUH_
#define CONCLAVE_TENSOR_KERNELS_CUDA_STREAM_CUH_

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>

#include "tensor/stream.h"

namespace conclave::cuda {

struct StreamState {
  int device = 0;
  cudaStream_t stream = nullptr;
  cublasLtHandle_t blas = nullptr;
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
};

inline StreamState& StateOf(Stream& stream) { return *static_cast<StreamState*>(stream.handle()); }

// After a launch: an error of the launch itself goes to the stream.
inline void NoteLaunch(const char* kernel, Stream& stream) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) stream.NoteError(std::string(kernel) + ": " + cudaGetErrorString(error));
}

inline constexpr int kThreads = 256;
// Blocks of a grid-stride loop over n elements.
inline unsigned BlocksFor(int64_t n) { return static_cast<unsigned>(std::clamp<int64_t>((n + kThreads - 1) / kThreads, 1, 8192)); }

}  // namespace conclave::cuda

#endif  // CONCLAVE_TENSOR_KERNELS_CUDA_STREAM_CUH_
