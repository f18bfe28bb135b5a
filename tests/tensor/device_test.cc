#include "tensor/device.h"

#include <gtest/gtest.h>

namespace conclave {

TEST(Device, TheCpuIsAlwaysThere) {
  EXPECT_TRUE(RequireDevice({}).ok());
  EXPECT_EQ(Describe({})->name, "cpu");
  absl::StatusOr<Stream> stream = OpenStream({});
  ASSERT_TRUE(stream.ok());
  EXPECT_TRUE(Synchronize(*stream).ok());
}

// Whatever this build and machine are: an index beyond the devices is refused, and the refusal says what to do or how many there are.
TEST(Device, RefusalsSayWhy) {
  const absl::Status status = RequireDevice({DeviceKind::kCuda, 1000});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  const std::string message(status.message());
  if (CudaCount() == 0) {
    EXPECT_NE(message.find("use device: CPU"), std::string::npos) << message;
    EXPECT_TRUE(message.find("this build has no CUDA") != std::string::npos || message.find("CUDA runtime") != std::string::npos)
        << message;
    EXPECT_EQ(OpenStream({DeviceKind::kCuda, 0}).status(), RequireDevice({DeviceKind::kCuda, 0}));
    EXPECT_FALSE(DeviceArena::Create({DeviceKind::kCuda, 0}, 1024).ok());
  } else {
    EXPECT_NE(message.find("device CUDA 1000 does not exist"), std::string::npos) << message;
  }
}

TEST(Stream, KeepsTheFirstError) {
  Stream stream;
  stream.NoteError("first");
  stream.NoteError("second");
  Stream moved = std::move(stream);
  EXPECT_EQ(Synchronize(moved).message(), "CUDA device 0: first");
}

TEST(DeviceArena, BumpsAlignsAndRefuses) {
  absl::StatusOr<DeviceArena> made = DeviceArena::Create({}, 1000);
  ASSERT_TRUE(made.ok());
  DeviceArena arena = *std::move(made);
  EXPECT_EQ(arena.capacity_bytes(), 1024);
  const Tensor a = *arena.New({3}, DType::kF32), b = *arena.New({64}, DType::kF64);
  EXPECT_EQ(static_cast<std::byte*>(b.raw()) - static_cast<std::byte*>(a.raw()), 256);
  EXPECT_EQ(arena.used_bytes(), 256 + 512);
  const absl::Status full = arena.New({65}, DType::kF32).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(full.message(), "device arena is full: 768 of 1024 bytes used, 512 more asked for [65]");
  arena.Reset();
  EXPECT_EQ(arena.New({3}, DType::kF32)->raw(), a.raw());

  Stream stream;
  OwnedTensor host({64}, DType::kF64);
  host->Fill(2.5);
  ASSERT_TRUE(Copy(*host, b, stream).ok());
  EXPECT_EQ(b.data<double>()[63], 2.5);
}

}  // namespace conclave
