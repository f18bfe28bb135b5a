// cuBLASLt sees column-major matrices, so every row-major [rows, columns] of ours is its transpose there: a product c = op(a) op(b) of ours
// is computed as c^T = op(b)^T op(a)^T.
#include "tensor/kernels/cuda_stream.cuh"
#include "tensor/kernels/linear.h"

namespace conclave::cuda {
namespace {

// c (m x n, column-major) = op(a) op(b) + beta c, inner size k; leading dimensions as stored.
template <typename T>
struct Gemm {
  int64_t m, n, k;
  const T* a;
  const T* b;
  T* c;
  int64_t lda, ldb, ldc;
  bool transpose_a, transpose_b;
  bool accumulate;
};

template <typename T>
constexpr cudaDataType_t kDataType = sizeof(T) == 4 ? CUDA_R_32F : CUDA_R_64F;
template <typename T>
constexpr cublasComputeType_t kComputeType = sizeof(T) == 4 ? CUBLAS_COMPUTE_32F : CUBLAS_COMPUTE_64F;

// The descriptors of one product; created and destroyed together. Each call is skipped after the first error.
template <typename T>
class Plan {
 public:
  Plan(const Gemm<T>& g, size_t workspace_bytes) {
    const cublasOperation_t op_a = g.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, op_b = g.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    Try(cublasLtMatmulDescCreate(&product_, kComputeType<T>, kDataType<T>));
    if (ok()) Try(cublasLtMatmulDescSetAttribute(product_, CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof(op_a)));
    if (ok()) Try(cublasLtMatmulDescSetAttribute(product_, CUBLASLT_MATMUL_DESC_TRANSB, &op_b, sizeof(op_b)));
    if (ok()) Try(cublasLtMatrixLayoutCreate(&a_, kDataType<T>, g.transpose_a ? g.k : g.m, g.transpose_a ? g.m : g.k, g.lda));
    if (ok()) Try(cublasLtMatrixLayoutCreate(&b_, kDataType<T>, g.transpose_b ? g.n : g.k, g.transpose_b ? g.k : g.n, g.ldb));
    if (ok()) Try(cublasLtMatrixLayoutCreate(&c_, kDataType<T>, g.m, g.n, g.ldc));
    if (ok()) Try(cublasLtMatmulPreferenceCreate(&preference_));
    if (ok()) {
      Try(cublasLtMatmulPreferenceSetAttribute(preference_, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                                               sizeof(workspace_bytes)));
    }
  }
  ~Plan() {
    if (preference_ != nullptr) cublasLtMatmulPreferenceDestroy(preference_);
    if (c_ != nullptr) cublasLtMatrixLayoutDestroy(c_);
    if (b_ != nullptr) cublasLtMatrixLayoutDestroy(b_);
    if (a_ != nullptr) cublasLtMatrixLayoutDestroy(a_);
    if (product_ != nullptr) cublasLtMatmulDescDestroy(product_);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  cublasStatus_t Run(const Gemm<T>& g, const StreamState& s) {
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    if (ok()) Try(cublasLtMatmulAlgoGetHeuristic(s.blas, product_, a_, b_, c_, c_, preference_, 1, &best, &found));
    if (ok() && found == 0) Try(CUBLAS_STATUS_NOT_SUPPORTED);
    const T one = 1, beta = g.accumulate ? 1 : 0;
    if (ok()) {
      Try(cublasLtMatmul(s.blas, product_, &one, g.a, a_, g.b, b_, &beta, g.c, c_, g.c, c_, &best.algo, s.workspace, s.workspace_bytes,
                         s.stream));
    }
    return status_;
  }

 private:
  bool ok() const { return status_ == CUBLAS_STATUS_SUCCESS; }
  void Try(cublasStatus_t status) { status_ = status; }
  cublasStatus_t status_ = CUBLAS_STATUS_SUCCESS;
  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr, b_ = nullptr, c_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
};

template <typename T>
void Run(const char* name, const Gemm<T>& g, Stream& stream) {
  if (g.m == 0 || g.n == 0 || g.k == 0) return;
  const StreamState& state = StateOf(stream);
  const cublasStatus_t status = Plan<T>(g, state.workspace_bytes).Run(g, state);
  if (status != CUBLAS_STATUS_SUCCESS) stream.NoteError(std::string(name) + ": cuBLASLt: " + cublasLtGetStatusString(status));
}

template <typename T>
__global__ void FillRows(const T* bias, T* y, int64_t n, int64_t out) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n * out; i += int64_t{gridDim.x} * blockDim.x) y[i] = bias[i % out];
}

template <typename T>
void Forward(const LinearShape& s, const LinearInputs<T>& in, T* y, Stream& stream) {
  if (in.bias != nullptr && s.n > 0) {
    FillRows<<<BlocksFor(s.n * s.out), kThreads, 0, StateOf(stream).stream>>>(in.bias, y, s.n, s.out);
    NoteLaunch("LinearForward", stream);
  }
  // y^T [out, n] = w [out, in] x^T [in, n]
  const Gemm<T> g{.m = s.out,
                  .n = s.n,
                  .k = s.in,
                  .a = in.w,
                  .b = in.x,
                  .c = y,
                  .lda = s.in,
                  .ldb = s.in,
                  .ldc = s.out,
                  .transpose_a = true,
                  .transpose_b = false,
                  .accumulate = in.bias != nullptr};
  Run("LinearForward", g, stream);
}

template <typename T>
void BackwardInput(const LinearShape& s, const T* dy, const T* w, T* dx, Stream& stream) {
  // dx^T [in, n] += w^T [in, out] dy^T [out, n]
  const Gemm<T> g{.m = s.in,
                  .n = s.n,
                  .k = s.out,
                  .a = w,
                  .b = dy,
                  .c = dx,
                  .lda = s.in,
                  .ldb = s.out,
                  .ldc = s.in,
                  .transpose_a = false,
                  .transpose_b = false,
                  .accumulate = true};
  Run("LinearBackwardInput", g, stream);
}

template <typename T>
void BackwardWeight(const LinearShape& s, const T* dy, const T* x, T* dw, Stream& stream) {
  // dw^T [in, out] += x^T [in, n] dy [n, out]
  const Gemm<T> g{.m = s.in,
                  .n = s.out,
                  .k = s.n,
                  .a = x,
                  .b = dy,
                  .c = dw,
                  .lda = s.in,
                  .ldb = s.out,
                  .ldc = s.in,
                  .transpose_a = false,
                  .transpose_b = true,
                  .accumulate = true};
  Run("LinearBackwardWeight", g, stream);
}

}  // namespace

void LinearForward(const LinearShape& shape, const LinearInputs<float>& inputs, float* y, Stream& stream) {
  Forward(shape, inputs, y, stream);
}
void LinearForward(const LinearShape& shape, const LinearInputs<double>& inputs, double* y, Stream& stream) {
  Forward(shape, inputs, y, stream);
}
void LinearBackwardInput(const LinearShape& shape, const float* dy, const float* w, float* dx, Stream& stream) {
  BackwardInput(shape, dy, w, dx, stream);
}
void LinearBackwardInput(const LinearShape& shape, const double* dy, const double* w, double* dx, Stream& stream) {
  BackwardInput(shape, dy, w, dx, stream);
}
void LinearBackwardWeight(const LinearShape& shape, const float* dy, const float* x, float* dw, Stream& stream) {
  BackwardWeight(shape, dy, x, dw, stream);
}
void LinearBackwardWeight(const LinearShape& shape, const double* dy, const double* x, double* dw, Stream& stream) {
  BackwardWeight(shape, dy, x, dw, stream);
}

}  // namespace conclave::cuda
