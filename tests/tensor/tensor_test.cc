#include "tensor/tensor.h"

#include <cstdint>

#include <gtest/gtest.h>

namespace conclave {

TEST(Shape, CountsAndPrints) {
  const Shape shape{2, 3, 5};
  EXPECT_EQ(shape.elements(), 30);
  EXPECT_EQ(shape[-1], 5);
  EXPECT_EQ(shape[0], 2);
  EXPECT_EQ(shape.ToString(), "[2, 3, 5]");
  EXPECT_EQ((Shape{4, 0}.elements()), 0);
  EXPECT_NE(shape, (Shape{2, 3}));
  EXPECT_EQ((Shape{2, 3}), (Shape{2, 3}));
}

TEST(Tensor, SlicesAndReshapesShareMemory) {
  OwnedTensor t({4, 3}, DType::kF64);
  for (int i = 0; i < 12; ++i) t->data<double>()[i] = i;
  const Tensor rows = t->Slice(1, 2);
  EXPECT_EQ(rows.shape(), (Shape{2, 3}));
  EXPECT_EQ(rows.data<double>()[0], 3);
  rows.Reshape({6}).data<double>()[5] = -1;
  EXPECT_EQ(t->data<double>()[8], -1);
  EXPECT_EQ(t->Slice(4, 0).elements(), 0);
  EXPECT_EQ(t->bytes(), 96);
}

TEST(Tensor, FillCopyZero) {
  OwnedTensor a({5}, DType::kF32), b({5}, DType::kF32);
  a->Fill(1.5);
  b->CopyFrom(*a);
  EXPECT_EQ(b->data<float>()[4], 1.5f);
  b->Zero();
  EXPECT_EQ(b->data<float>()[4], 0.0f);
}

TEST(TensorDeathTest, RefusesWhatDoesNotFit) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  OwnedTensor t({4, 3}, DType::kF64);
  EXPECT_DEATH(t->data<float>(), "f64");
  EXPECT_DEATH(t->Slice(3, 2), "3\\+2 of \\[4, 3\\]");
  EXPECT_DEATH(t->Reshape({5}), "\\[4, 3\\] to \\[5\\]");
}

TEST(Buffer, AlignedAndZeroed) {
  const Buffer buffer(1000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(buffer.data()[i], std::byte{0});
  EXPECT_EQ(buffer.View(64, {10}, DType::kF64).raw(), buffer.data() + 64);
}

}  // namespace conclave
