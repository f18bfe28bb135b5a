#include "base/trace.h"

#include <thread>

#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(TraceTest, JsonOfNestedSpans) {
  FakeClock clock(1'000'000);
  Tracer tracer(2, 16, clock);
  {
    const ThreadTrace bound(&tracer, "compute \"0\"");
    const TraceSpan step("step", 7);
    clock.Advance(1'234);
    {
      const TraceSpan forward("forward");
      clock.Advance(10'000);
    }
    clock.Advance(1);
  }
  EXPECT_EQ(tracer.ToJson(500), R"({"displayTimeUnit":"ns","traceEvents":[)"
                                R"({"name":"process_name","ph":"M","pid":2,"tid":0,"args":{"name":"rank 2"}},)"
                                "\n"
                                R"({"name":"thread_name","ph":"M","pid":2,"tid":0,"args":{"name":"compute \"0\""}},)"
                                "\n"
                                R"({"name":"forward","ph":"X","pid":2,"tid":0,"ts":1001.734,"dur":10.000},)"
                                "\n"
                                R"({"name":"step","ph":"X","pid":2,"tid":0,"ts":1000.500,"dur":11.235,"args":{"value":7}})"
                                "\n]}\n");
}

TEST(TraceTest, TotalsLeaveOutWhatIsInside) {
  FakeClock clock;
  Tracer tracer(0, 16, clock);
  {
    const ThreadTrace bound(&tracer, "t");
    const TraceSpan step("step");
    clock.Advance(1);
    for (int i = 0; i < 2; ++i) {
      const TraceSpan op("op");
      clock.Advance(10);
      const TraceSpan product("product");
      clock.Advance(100);
    }
    clock.Advance(3);
  }
  const std::vector<Tracer::Total> totals = tracer.Totals();
  ASSERT_EQ(totals.size(), 3u);
  const auto expect = [](const Tracer::Total& total, const std::string& name, int64_t count, int64_t total_ns, int64_t self_ns) {
    EXPECT_EQ(total.name, name);
    EXPECT_EQ(total.count, count);
    EXPECT_EQ(total.total_ns, total_ns);
    EXPECT_EQ(total.self_ns, self_ns);
  };
  expect(totals[0], "product", 2, 200, 200);
  expect(totals[1], "op", 2, 220, 20);
  expect(totals[2], "step", 1, 224, 4);
}

TEST(TraceTest, UnboundThreadsRecordNothing) {
  Tracer tracer(0, 4);
  const std::string before = tracer.ToJson();
  {
    const TraceSpan span("unbound");
    const ThreadTrace off(nullptr, "off");
    const TraceSpan inner("off");
  }
  EXPECT_EQ(tracer.ToJson(), before);
}

TEST(TraceTest, BindingsNest) {
  FakeClock clock;
  Tracer outer(0, 8, clock), inner(1, 8, clock);
  {
    const ThreadTrace a(&outer, "a");
    {
      const ThreadTrace b(&inner, "b");
      const TraceSpan span("in_inner");
    }
    const TraceSpan span("in_outer");
  }
  EXPECT_NE(outer.ToJson().find("in_outer"), std::string::npos);
  EXPECT_EQ(outer.ToJson().find("in_inner"), std::string::npos);
  EXPECT_NE(inner.ToJson().find("in_inner"), std::string::npos);
}

TEST(TraceTest, TheRingKeepsTheNewest) {
  FakeClock clock;
  Tracer tracer(0, 3, clock);
  {
    const ThreadTrace bound(&tracer, "t");
    for (int64_t i = 0; i < 10; ++i) const TraceSpan span("s", i);
  }
  const std::string json = tracer.ToJson();
  EXPECT_EQ(json.find("\"value\":6}"), std::string::npos);
  const size_t seven = json.find("\"value\":7}"), eight = json.find("\"value\":8}"), nine = json.find("\"value\":9}");
  EXPECT_LT(seven, eight);
  EXPECT_LT(eight, nine);
  EXPECT_NE(nine, std::string::npos);
  EXPECT_EQ(tracer.dropped(), 7);
}

TEST(TraceTest, ThreadsHaveRingsOfTheirOwn) {
  Tracer tracer(0, 1000);
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&tracer] {
        const ThreadTrace bound(&tracer, "worker");
        for (int i = 0; i < 1000; ++i) const TraceSpan span("work");
      });
    }
    EXPECT_NE(tracer.ToJson().find("rank 0"), std::string::npos);  // a dump in between is legal
  }
  EXPECT_EQ(tracer.dropped(), 0);
  const std::string json = tracer.ToJson();
  int spans = 0;
  for (size_t at = json.find("\"work\""); at != std::string::npos; at = json.find("\"work\"", at + 1)) ++spans;
  EXPECT_EQ(spans, 4000);
  EXPECT_NE(json.find("\"tid\":3"), std::string::npos);
}

}  // namespace
}  // namespace conclave
