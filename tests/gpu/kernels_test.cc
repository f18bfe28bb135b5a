// CPU = CUDA for the kernels that have a twin.
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "tensor/device.h"
#include "tensor/kernels/gelu.h"
#include "tensor/kernels/linear.h"
#include "tensor/kernels/sum_squares.h"

namespace conclave {
namespace {

// Host tensors, their copies on the GPU, and the way back.
class CudaKernels : public ::testing::Test {
 protected:
  void SetUp() override {
    const Device gpu{DeviceKind::kCuda, 0};
    if (CudaCount() == 0) GTEST_SKIP() << RequireDevice(gpu).message();
    absl::StatusOr<Stream> opened = OpenStream(gpu);
    ASSERT_TRUE(opened.ok()) << opened.status();
    stream_ = *std::move(opened);
    absl::StatusOr<DeviceArena> made = DeviceArena::Create(gpu, 64 << 20);
    ASSERT_TRUE(made.ok()) << made.status();
    arena_ = std::make_unique<DeviceArena>(*std::move(made));
  }

  template <typename T>
  std::vector<T> Normals(int64_t n, uint64_t seed) {
    const RngKey key{.seed = seed};
    std::vector<T> v(n);
    for (int64_t i = 0; i < n; ++i) v[i] = static_cast<T>(key.Normal(i));
    return v;
  }
  template <typename T>
  T* Put(std::vector<T>& v) {
    const Tensor host = Host(v), gpu = *arena_->New(host.shape(), DTypeOf<T>());
    EXPECT_TRUE(Copy(host, gpu, stream_).ok());
    return gpu.data<T>();
  }
  template <typename T>
  std::vector<T> Get(T* data, int64_t n) {
    std::vector<T> v(n);
    EXPECT_TRUE(Copy(Tensor(data, {n}, DTypeOf<T>(), arena_->device()), Host(v), stream_).ok());
    const absl::Status status = Synchronize(stream_);
    EXPECT_TRUE(status.ok()) << status;
    return v;
  }
  template <typename T>
  static Tensor Host(std::vector<T>& v) {
    return Tensor(v.data(), {static_cast<int64_t>(v.size())}, DTypeOf<T>());
  }
  template <typename T>
  static void ExpectNear(const std::vector<T>& got, const std::vector<T>& want, double tolerance) {
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_LE(std::abs(got[i] - want[i]), tolerance * std::max(1.0, std::abs(static_cast<double>(want[i]))))
          << "element " << i << ": " << got[i] << ", CPU " << want[i];
    }
  }
  template <typename T>
  static constexpr double kTolerance = sizeof(T) == 4 ? 5e-6 : 1e-13;

  template <typename T>
  void CheckGelu();
  template <typename T>
  void CheckSumSquares();
  template <typename T>
  void CheckLinear(const LinearShape& shape);

  Stream stream_, cpu_;
  std::unique_ptr<DeviceArena> arena_;
};

template <typename T>
void CudaKernels::CheckGelu() {
  for (const int64_t n : {0, 1, 1000, 100000}) {
    arena_->Reset();
    std::vector<T> x = Normals<T>(n, 1), dy = Normals<T>(n, 2), dx = Normals<T>(n, 3), y(n);
    T *gx = Put(x), *gdy = Put(dy), *gdx = Put(dx), *gy = Put(y);
    cpu::GeluForward(x.data(), y.data(), n, cpu_);
    cpu::GeluBackward(x.data(), dy.data(), dx.data(), n, cpu_);
    cuda::GeluForward(gx, gy, n, stream_);
    cuda::GeluBackward(gx, gdy, gdx, n, stream_);
    ExpectNear(Get(gy, n), y, kTolerance<T>);
    ExpectNear(Get(gdx, n), dx, kTolerance<T>);
  }
}

template <typename T>
void CudaKernels::CheckSumSquares() {
  for (const int64_t n : {0, 1, 4096, 4097, 1000000}) {
    arena_->Reset();
    std::vector<T> x = Normals<T>(n, 1);
    std::vector<double> sum(1);
    T* gx = Put(x);
    double* gsum = Put(sum);
    cpu::SumSquares(x.data(), n, sum.data(), cpu_);
    cuda::SumSquares(gx, n, gsum, stream_);
    EXPECT_EQ(Get(gsum, 1), sum) << n;  // bits
  }
}

template <typename T>
void CudaKernels::CheckLinear(const LinearShape& s) {
  arena_->Reset();
  std::vector<T> x = Normals<T>(s.n * s.in, 1), w = Normals<T>(s.out * s.in, 2), bias = Normals<T>(s.out, 3),
                 dy = Normals<T>(s.n * s.out, 4);
  std::vector<T> y(s.n * s.out), dx = Normals<T>(s.n * s.in, 5), dw = Normals<T>(s.out * s.in, 6), plain = y;
  T *gx = Put(x), *gw = Put(w), *gb = Put(bias), *gdy = Put(dy), *gy = Put(y), *gdx = Put(dx), *gdw = Put(dw), *gplain = Put(plain);
  cpu::LinearForward(s, {x.data(), w.data(), bias.data()}, y.data(), cpu_);
  cpu::LinearForward(s, {x.data(), w.data(), nullptr}, plain.data(), cpu_);
  cpu::LinearBackwardInput(s, dy.data(), w.data(), dx.data(), cpu_);
  cpu::LinearBackwardWeight(s, dy.data(), x.data(), dw.data(), cpu_);
  cuda::LinearForward(s, {gx, gw, gb}, gy, stream_);
  cuda::LinearForward(s, {gx, gw, nullptr}, gplain, stream_);
  cuda::LinearBackwardInput(s, gdy, gw, gdx, stream_);
  cuda::LinearBackwardWeight(s, gdy, gx, gdw, stream_);
  const double tolerance =
      kTolerance<T> * std::sqrt(static_cast<double>(std::max({s.n, s.in, s.out})));  // sums of that many normal products
  ExpectNear(Get(gy, s.n * s.out), y, tolerance);
  ExpectNear(Get(gplain, s.n * s.out), plain, tolerance);
  ExpectNear(Get(gdx, s.n * s.in), dx, tolerance);
  ExpectNear(Get(gdw, s.out * s.in), dw, tolerance);
}

}  // namespace

TEST_F(CudaKernels, Gelu) {
  CheckGelu<float>();
  CheckGelu<double>();
}

TEST_F(CudaKernels, SumSquaresHasTheSameBits) {
  CheckSumSquares<float>();
  CheckSumSquares<double>();
}

TEST_F(CudaKernels, Linear) {
  for (const LinearShape& shape : {LinearShape{64, 128, 96}, LinearShape{1, 7, 5}, LinearShape{33, 100, 1}, LinearShape{0, 7, 5}}) {
    CheckLinear<float>(shape);
    CheckLinear<double>(shape);
  }
}

// A kernel error is kept by the stream and names its kernel.
TEST_F(CudaKernels, ErrorsReachSynchronize) {
  stream_.NoteError("GeluForward: planted");
  EXPECT_EQ(Synchronize(stream_).message(), "CUDA device 0: GeluForward: planted");
}

}  // namespace conclave
