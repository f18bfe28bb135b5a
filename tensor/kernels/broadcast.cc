#include "tensor/kernels/broadcast.h"

#include "tensor/kernels/lanes.h"

namespace conclave::cpu {
namespace {

// Value(x, y), and dz times the derivative by x and by y.
struct AddOp {
  template <typename T>
  CONCLAVE_INLINE static T Value(T x, T y) {
    return x + y;
  }
  template <typename T>
  CONCLAVE_INLINE static T Dx(T dz, T, T) {
    return dz;
  }
  template <typename T>
  CONCLAVE_INLINE static T Dy(T dz, T, T) {
    return dz;
  }
};
struct SubOp {
  template <typename T>
  CONCLAVE_INLINE static T Value(T x, T y) {
    return x - y;
  }
  template <typename T>
  CONCLAVE_INLINE static T Dx(T dz, T, T) {
    return dz;
  }
  template <typename T>
  CONCLAVE_INLINE static T Dy(T dz, T, T) {
    return -dz;
  }
};
struct MulOp {
  template <typename T>
  CONCLAVE_INLINE static T Value(T x, T y) {
    return x * y;
  }
  template <typename T>
  CONCLAVE_INLINE static T Dx(T dz, T, T y) {
    return dz * y;
  }
  template <typename T>
  CONCLAVE_INLINE static T Dy(T dz, T x, T) {
    return dz * x;
  }
};
struct DivOp {
  template <typename T>
  CONCLAVE_INLINE static T Value(T x, T y) {
    return x / y;
  }
  template <typename T>
  CONCLAVE_INLINE static T Dx(T dz, T, T y) {
    return dz / y;
  }
  template <typename T>
  CONCLAVE_INLINE static T Dy(T dz, T x, T y) {
    return -(dz * x / (y * y));
  }
};

// Calls body(Op{}) for the op's functor.
template <typename Body>
CONCLAVE_INLINE void Choose(BinaryOp op, const Body& body) {
  switch (op) {
    case BinaryOp::kAdd:
      return body(AddOp{});
    case BinaryOp::kSub:
      return body(SubOp{});
    case BinaryOp::kMul:
      return body(MulOp{});
    case BinaryOp::kDiv:
      return body(DivOp{});
  }
}

template <typename T>
struct ForwardBody {
  const Broadcast<T>& a;
  T* out;

  template <typename Op>
  CONCLAVE_INLINE void operator()(Op) const {
    if (a.scalar) return Row<Op>(a.x, a.y, out, a.rows * a.width, true);
    for (int64_t r = 0; r < a.rows; ++r) Row<Op>(a.x + r * a.width, a.y, out + r * a.width, a.width, false);
  }
  template <typename Op>
  CONCLAVE_INLINE static void Row(const T* __restrict__ x, const T* __restrict__ y, T* __restrict__ z, int64_t n, bool scalar) {
    if (scalar) {
      const T s = y[0];
      for (int64_t j = 0; j < n; ++j) z[j] = Op::Value(x[j], s);
    } else {
      for (int64_t j = 0; j < n; ++j) z[j] = Op::Value(x[j], y[j]);
    }
  }
};

template <typename T>
struct BackwardXBody {
  const Broadcast<T>& a;
  const T* gradient;
  T* out;

  template <typename Op>
  CONCLAVE_INLINE void operator()(Op) const {
    const int64_t rows = a.scalar ? 1 : a.rows, width = a.scalar ? a.rows * a.width : a.width;
    for (int64_t r = 0; r < rows; ++r) Row<Op>(gradient + r * width, a.x + r * width, out + r * width, width);
  }
  template <typename Op>
  CONCLAVE_INLINE void Row(const T* __restrict__ dz, const T* __restrict__ x, T* __restrict__ dx, int64_t n) const {
    const T* __restrict__ y = a.y;
    if (a.scalar) {
      const T s = y[0];
      for (int64_t j = 0; j < n; ++j) dx[j] += Op::Dx(dz[j], x[j], s);
    } else {
      for (int64_t j = 0; j < n; ++j) dx[j] += Op::Dx(dz[j], x[j], y[j]);
    }
  }
};

template <typename T>
struct BackwardYBody {
  const Broadcast<T>& a;
  const T* gradient;
  T* out;

  template <typename Op>
  CONCLAVE_INLINE void operator()(Op) const {
    for (int64_t r = 0; r < a.rows; ++r) Row<Op>(gradient + r * a.width, a.x + r * a.width, out);
  }
  template <typename Op>
  CONCLAVE_INLINE void Row(const T* __restrict__ dz, const T* __restrict__ x, T* __restrict__ dy) const {
    const T* __restrict__ y = a.y;
    for (int64_t j = 0; j < a.width; ++j) dy[j] += Op::Dy(dz[j], x[j], y[j]);
  }
};

template <typename Op, typename T>
struct ScalarTerm {
  const T* dz;
  const T* x;
  double y;
  CONCLAVE_INLINE double operator()(int64_t i) const { return Op::Dy(static_cast<double>(dz[i]), static_cast<double>(x[i]), y); }
};

template <typename T>
struct ScalarBody {
  const Broadcast<T>& a;
  const T* gradient;
  double* sum;

  template <typename Op>
  CONCLAVE_INLINE void operator()(Op) const {
    *sum = LaneSum<double>(a.rows * a.width, ScalarTerm<Op, T>{gradient, a.x, static_cast<double>(a.y[0])});
  }
};

template <typename T>
CONCLAVE_INLINE double ScalarGradient(BinaryOp op, const Broadcast<T>& args, const T* dz) {
  double sum = 0;
  Choose(op, ScalarBody<T>{args, dz, &sum});
  return sum;
}

}  // namespace

CONCLAVE_SIMD void BroadcastForward(BinaryOp op, const Broadcast<float>& args, float* z) { Choose(op, ForwardBody<float>{args, z}); }
CONCLAVE_SIMD void BroadcastForward(BinaryOp op, const Broadcast<double>& args, double* z) { Choose(op, ForwardBody<double>{args, z}); }
CONCLAVE_SIMD void BroadcastBackwardX(BinaryOp op, const Broadcast<float>& args, const float* dz, float* dx) {
  Choose(op, BackwardXBody<float>{args, dz, dx});
}
CONCLAVE_SIMD void BroadcastBackwardX(BinaryOp op, const Broadcast<double>& args, const double* dz, double* dx) {
  Choose(op, BackwardXBody<double>{args, dz, dx});
}
CONCLAVE_SIMD void BroadcastBackwardY(BinaryOp op, const Broadcast<float>& args, const float* dz, float* dy) {
  Choose(op, BackwardYBody<float>{args, dz, dy});
}
CONCLAVE_SIMD void BroadcastBackwardY(BinaryOp op, const Broadcast<double>& args, const double* dz, double* dy) {
  Choose(op, BackwardYBody<double>{args, dz, dy});
}
CONCLAVE_SIMD double BroadcastScalarGradient(BinaryOp op, const Broadcast<float>& args, const float* dz) {
  return ScalarGradient(op, args, dz);
}
CONCLAVE_SIMD double BroadcastScalarGradient(BinaryOp op, const Broadcast<double>& args, const double* dz) {
  return ScalarGradient(op, args, dz);
}

}  // namespace conclave::cpu
