// Columns of [n, h]: ConcatColumns, SliceColumns, GatherColumns.
#include "tensor/ops/ops.h"

#include <algorithm>
#include <memory>

#include "tensor/kernels/rows.h"

namespace conclave {

Var ConcatColumns(Tape& tape, std::span<const Var> parts) {
  CHECK(!parts.empty());
  const Tensor first = tape.value(parts[0]);
  const int64_t n = first.dim(0);
  int64_t h = 0;
  for (const Var part : parts) {
    const Tensor& x = tape.value(part);
    CHECK(x.shape().dims() == 2 && x.dim(0) == n && x.dtype() == first.dtype())
        << x.shape().ToString() << " beside " << first.shape().ToString();
    h += x.dim(1);
  }
  const Tensor out = tape.arena().New({n, h}, first.dtype());
  Var* kept = static_cast<Var*>(tape.arena().Allocate(static_cast<int64_t>(parts.size_bytes())));
  std::uninitialized_copy(parts.begin(), parts.end(), kept);
  DispatchFloat(first.dtype(), [&](auto t) {
    using T = decltype(t);
    T* to = out.data<T>();
    for (const Var part : parts) {
      const Tensor& x = tape.value(part);
      cpu::CopyColumns({n, x.dim(1), x.dim(1), h}, x.data<T>(), to);
      to += x.dim(1);
    }
  });
  const Var y = tape.Record(out, parts);
  tape.OnBackward(y, [kept, count = parts.size(), y, n, h](Tape& tape) {
    const Tensor dy = tape.gradient(y);
    DispatchFloat(dy.dtype(), [&](auto t) {
      using T = decltype(t);
      const T* from = dy.data<T>();
      for (const Var part : std::span<const Var>(kept, count)) {
        const int64_t width = tape.value(part).dim(1);
        if (tape.wants_gradient(part)) cpu::AddColumns({n, width, h, width}, from, tape.gradient(part).data<T>());
        from += width;
      }
    });
  });
  return y;
}

Var SliceColumns(Tape& tape, Var x, int64_t begin, int64_t count) {
  const Tensor in = tape.value(x);
  CHECK_EQ(in.shape().dims(), 2);
  const int64_t n = in.dim(0), h = in.dim(1);
  CHECK(begin >= 0 && count >= 0 && begin + count <= h) << begin << '+' << count << " of " << in.shape().ToString();
  const Tensor out = tape.arena().New({n, count}, in.dtype());
  DispatchFloat(in.dtype(), [&](auto t) {
    using T = decltype(t);
    cpu::CopyColumns({n, count, h, count}, in.data<T>() + begin, out.data<T>());
  });
  const Var y = tape.Record(out, {x});
  tape.OnBackward(y, [x, y, begin, n, h](Tape& tape) {
    const Tensor dy = tape.gradient(y), dx = tape.gradient(x);
    DispatchFloat(dy.dtype(), [&](auto t) {
      using T = decltype(t);
      cpu::AddColumns({n, dy.dim(1), dy.dim(1), h}, dy.data<T>(), dx.data<T>() + begin);
    });
  });
  return y;
}

Var GatherColumns(Tape& tape, Var x, const Tensor& ids) {
  const Tensor in = tape.value(x);
  CHECK(in.shape().dims() == 2 && ids.shape().dims() == 2 && ids.dim(0) == in.dim(0))
      << in.shape().ToString() << ' ' << ids.shape().ToString();
  const int64_t n = in.dim(0), h = in.dim(1), k = ids.dim(1);
  const int32_t* id = ids.data<int32_t>();
  for (int64_t i = 0; i < n * k; ++i) CHECK(id[i] >= 0 && id[i] < h) << "entry " << i << " is " << id[i] << " of " << h;
  const Tensor out = tape.arena().New({n, k}, in.dtype());
  DispatchFloat(in.dtype(), [&](auto t) {
    using T = decltype(t);
    for (int64_t i = 0; i < n * k; ++i) out.data<T>()[i] = in.data<T>()[i / k * h + id[i]];
  });
  const Var y = tape.Record(out, {x});
  tape.OnBackward(y, [x, y, id, n, h, k](Tape& tape) {
    const Tensor dy = tape.gradient(y), dx = tape.gradient(x);
    DispatchFloat(dy.dtype(), [&](auto t) {
      using T = decltype(t);
      for (int64_t i = 0; i < n * k; ++i) dx.data<T>()[i / k * h + id[i]] += dy.data<T>()[i];
    });
  });
  return y;
}

}  // namespace conclave
