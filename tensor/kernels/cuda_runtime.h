// What tensor/device.h needs from the CUDA runtime, without its headers. Errors are texts, empty for none.
// cuda_runtime.cu implements it; no_cuda.cc answers in builds without CUDA.
#ifndef CONCLAVE_TENSOR_KERNELS_CUDA_RUNTIME_H_
#define CONCLAVE_TENSOR_KERNELS_CUDA_RUNTIME_H_

#include <cstdint>
#include <string>

namespace conclave::cuda {

// Usable devices; 0 with the reason in *why.
int DeviceCount(std::string* why);
std::string GetProperties(int device, std::string* name, int64_t* memory_bytes);

// The handle of a Stream: a CUDA stream, a cuBLASLt handle and its workspace.
std::string OpenStream(int device, void** handle);
void CloseStream(void* handle);
std::string Synchronize(void* handle);

std::string Allocate(int device, int64_t bytes, void** memory);
void Free(int device, void* memory);
// The direction follows from the addresses.
std::string CopyBytes(const void* from, void* to, int64_t bytes, void* handle);

}  // namespace conclave::cuda

#endif  // CONCLAVE_TENSOR_KERNELS_CUDA_RUNTIME_H_
