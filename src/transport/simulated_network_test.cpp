#include "transport/simulated_network.h"

#include <vector>

#include <gtest/gtest.h>

namespace prima::transport {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

Message numbered(int i) { return {{static_cast<std::byte>(i)}, {}}; }
int number(const Message& message) { return static_cast<int>(message.header.at(0)); }

TEST(SimulatedWorld, DelaysMessagesAndKeepsTheOrderOfALink) {
  SimulatedWorld world;
  world.set_all_links({.delay_min = milliseconds(1), .delay_max = milliseconds(50)});
  world.run([&] {
    const auto listener = world.host("b").listen(0).value();
    const auto link = world.host("a").connect({"b", listener->port()}).value();
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(link->send(numbered(i)));
    const Instant started = world.clock().now();
    for (int i = 0; i < 100; ++i) {
      const auto incoming = listener->receive(started + seconds(1));
      ASSERT_TRUE(incoming);
      EXPECT_EQ(number(incoming->message), i);
      EXPECT_EQ(incoming->address, "a");
    }
    EXPECT_GE(world.clock().now() - started, milliseconds(1));
    EXPECT_LE(world.clock().now() - started, milliseconds(51));
  });
}

TEST(SimulatedWorld, TakesTheTimeThatItsThreadsTake) {
  SimulatedWorld world;
  world.run([&] {
    const Instant started = world.clock().now();
    {
      const auto a = world.host("a").start_thread("a", [&] { world.sleep(seconds(30)); });
      const auto b = world.host("b").start_thread("b", [&] { world.sleep(seconds(20)); });
    }
    EXPECT_EQ(world.clock().now() - started, seconds(30));  // they slept at the same time
  });
}

TEST(SimulatedWorld, HoldsMessagesOfACutLinkBack) {
  SimulatedWorld world;
  world.run([&] {
    const auto listener = world.host("b").listen(0).value();
    const auto link = world.host("a").connect({"b", listener->port()}).value();
    world.set_link("a", "b", {.cut = true});
    ASSERT_TRUE(link->send(numbered(7)));
    EXPECT_FALSE(listener->receive(world.clock().now() + seconds(10)));
    world.set_link("a", "b", {});
    EXPECT_TRUE(listener->receive(world.clock().now() + seconds(10)));
  });
}

TEST(SimulatedWorld, StopsADeviceUntilItIsResumed) {
  SimulatedWorld world;
  world.run([&] {
    int ticks = 0;
    const auto thread = world.host("a").start_thread("a", [&] {
      for (; ticks < 20; ++ticks) world.sleep(seconds(1));
    });
    world.sleep(milliseconds(5500));
    EXPECT_EQ(ticks, 5);
    world.stop("a");
    world.sleep(seconds(10));
    EXPECT_EQ(ticks, 5);
    world.resume("a");
    world.sleep(milliseconds(3500));
    EXPECT_GE(ticks, 8);
  });
}

TEST(SimulatedWorld, InterruptsAWait) {
  SimulatedWorld world;
  world.run([&] {
    const auto listener = world.host("a").listen(0).value();
    const auto thread = world.host("a").start_thread("a", [&] {
      world.sleep(seconds(1));
      listener->interrupt();
    });
    EXPECT_FALSE(listener->receive(world.clock().now() + seconds(100)));
    EXPECT_EQ(world.clock().now().time_since_epoch(), seconds(1));
  });
}

}  // namespace
}  // namespace prima::transport
