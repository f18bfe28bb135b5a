#include "tensor/kernels/cuda_runtime.h"

#include <memory>

#include "tensor/kernels/cuda_stream.cuh"

namespace conclave::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what cuBLAS recommends for Hopper

std::string TextOf(cudaError_t error) { return error == cudaSuccess ? "" : cudaGetErrorString(error); }

}  // namespace

int DeviceCount(std::string* why) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return count;
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  *why = error == cudaSuccess ? "no device is visible" : cudaGetErrorString(error);
  *why += " (CUDA runtime " + std::to_string(runtime) + ", driver " + (driver == 0 ? "not loaded" : std::to_string(driver)) + ")";
  cudaGetLastError();  // the error is reported; it must not look like one of a later call
  return 0;
}

std::string GetProperties(int device, std::string* name, int64_t* memory_bytes) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error != cudaSuccess) return TextOf(error);
  *name = properties.name;
  *memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  return "";
}

std::string OpenStream(int device, void** handle) {
  auto state = std::make_unique<StreamState>();
  state->device = device;
  cudaError_t error = cudaSetDevice(device);
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&state->stream, cudaStreamNonBlocking);
  if (error == cudaSuccess) error = cudaMalloc(&state->workspace, kWorkspaceBytes);
  state->workspace_bytes = kWorkspaceBytes;
  const cublasStatus_t status = error == cudaSuccess ? cublasLtCreate(&state->blas) : CUBLAS_STATUS_SUCCESS;
  if (error == cudaSuccess && status == CUBLAS_STATUS_SUCCESS) {
    *handle = state.release();
    return "";
  }
  const std::string text = error != cudaSuccess ? TextOf(error) : std::string("cuBLASLt: ") + cublasLtGetStatusString(status);
  CloseStream(state.release());
  return text;
}

void CloseStream(void* handle) {
  const std::unique_ptr<StreamState> state(static_cast<StreamState*>(handle));
  cudaSetDevice(state->device);
  if (state->stream != nullptr) cudaStreamSynchronize(state->stream);
  if (state->blas != nullptr) cublasLtDestroy(state->blas);
  if (state->workspace != nullptr) cudaFree(state->workspace);
  if (state->stream != nullptr) cudaStreamDestroy(state->stream);
}

std::string Synchronize(void* handle) { return TextOf(cudaStreamSynchronize(static_cast<StreamState*>(handle)->stream)); }

std::string Allocate(int device, int64_t bytes, void** memory) {
  cudaError_t error = cudaSetDevice(device);
  if (error == cudaSuccess) error = cudaMalloc(memory, static_cast<size_t>(bytes));
  if (error != cudaSuccess) cudaGetLastError();
  return TextOf(error);
}

void Free(int device, void* memory) {
  cudaSetDevice(device);
  cudaFree(memory);
}

std::string CopyBytes(const void* from, void* to, int64_t bytes, void* handle) {
  return TextOf(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, static_cast<StreamState*>(handle)->stream));
}

}  // namespace conclave::cuda
