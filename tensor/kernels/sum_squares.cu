// One warp a chunk: lane l of the warp is lane l of the definition. The warp's folding adds the same pairs as the CPU's halves. Chunk sums
// are then added in order by one thread, 1/4,096 of the elements. Rounded intrinsics keep the compiler from fusing multiply and add.
#include "tensor/kernels/cuda_stream.cuh"
#include "tensor/kernels/sum_squares.h"

namespace conclave::cuda {
namespace {

static_assert(kSumLanes == 32, "a lane is a thread of a warp");

template <typename T>
__global__ void ChunkSums(const T* x, int64_t n, double* sums) {
  const int64_t begin = blockIdx.x * kSumChunk, end = begin + kSumChunk < n ? begin + kSumChunk : n;
  double lane = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kSumLanes) {
    const double v = static_cast<double>(x[i]);
    lane = __dadd_rn(lane, __dmul_rn(v, v));
  }
  for (int half = kSumLanes / 2; half > 0; half /= 2) lane = __dadd_rn(lane, __shfl_down_sync(0xFFFFFFFFu, lane, half));
  if (threadIdx.x == 0) sums[blockIdx.x] = lane;
}

__global__ void AddInOrder(const double* sums, int64_t chunks, double* sum) {
  double total = 0;
  for (int64_t i = 0; i < chunks; ++i) total = __dadd_rn(total, sums[i]);
  *sum = total;
}

template <typename T>
void Launch(const T* x, int64_t n, double* sum, Stream& stream) {
  const cudaStream_t queue = StateOf(stream).stream;
  const int64_t chunks = (n + kSumChunk - 1) / kSumChunk;
  double* sums = nullptr;
  if (chunks > 0) {
    const cudaError_t error = cudaMallocAsync(reinterpret_cast<void**>(&sums), chunks * sizeof(double), queue);
    if (error != cudaSuccess) return stream.NoteError(std::string("SumSquares: ") + cudaGetErrorString(error));
    ChunkSums<<<static_cast<unsigned>(chunks), kSumLanes, 0, queue>>>(x, n, sums);
  }
  AddInOrder<<<1, 1, 0, queue>>>(sums, chunks, sum);
  NoteLaunch("SumSquares", stream);
  if (sums != nullptr) cudaFreeAsync(sums, queue);
}

}  // namespace

void SumSquares(const float* x, int64_t n, double* sum, Stream& stream) { Launch(x, n, sum, stream); }
void SumSquares(const double* x, int64_t n, double* sum, Stream& stream) { Launch(x, n, sum, stream); }

}  // namespace conclave::cuda
