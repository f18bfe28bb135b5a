// Stands in for the .cu files in builds without CUDA: the runtime says why it cannot be used. No stream of a CUDA device can exist
// then, so the kernels are never reached; they note the same reason.
#include "tensor/kernels/cuda_runtime.h"
#include "tensor/kernels/gelu.h"
#include "tensor/kernels/linear.h"
#include "tensor/kernels/sum_squares.h"

namespace conclave::cuda {
namespace {

constexpr char kReason[] = "this build has no CUDA (configure with -DCONCLAVE_CUDA=ON where nvcc is installed)";

}  // namespace

int DeviceCount(std::string* why) {
  *why = kReason;
  return 0;
}
std::string GetProperties(int, std::string*, int64_t*) { return kReason; }
std::string OpenStream(int, void**) { return kReason; }
void CloseStream(void*) {}
std::string Synchronize(void*) { return kReason; }
std::string Allocate(int, int64_t, void**) { return kReason; }
void Free(int, void*) {}
std::string CopyBytes(const void*, void*, int64_t, void*) { return kReason; }

void GeluForward(const float*, float*, int64_t, Stream& stream) { stream.NoteError(kReason); }
void GeluForward(const double*, double*, int64_t, Stream& stream) { stream.NoteError(kReason); }
void GeluBackward(const float*, const float*, float*, int64_t, Stream& stream) { stream.NoteError(kReason); }
void GeluBackward(const double*, const double*, double*, int64_t, Stream& stream) { stream.NoteError(kReason); }

void SumSquares(const float*, int64_t, double*, Stream& stream) { stream.NoteError(kReason); }
void SumSquares(const double*, int64_t, double*, Stream& stream) { stream.NoteError(kReason); }

void LinearForward(const LinearShape&, const LinearInputs<float>&, float*, Stream& stream) { stream.NoteError(kReason); }
void LinearForward(const LinearShape&, const LinearInputs<double>&, double*, Stream& stream) { stream.NoteError(kReason); }
void LinearBackwardInput(const LinearShape&, const float*, const float*, float*, Stream& stream) { stream.NoteError(kReason); }
void LinearBackwardInput(const LinearShape&, const double*, const double*, double*, Stream& stream) { stream.NoteError(kReason); }
void LinearBackwardWeight(const LinearShape&, const float*, const float*, float*, Stream& stream) { stream.NoteError(kReason); }
void LinearBackwardWeight(const LinearShape&, const double*, const double*, double*, Stream& stream) { stream.NoteError(kReason); }

}  // namespace conclave::cuda
