#include "ring/route.h"

#include <gtest/gtest.h>

#include "ring/wave_order.h"

namespace prima::ring {
namespace {

using Windows = std::vector<std::uint32_t>;

Route route(std::uint32_t n_layer, const Windows& windows, std::uint32_t rounds,
            std::uint32_t private_layers = 0) {
  return make_route(n_layer, static_cast<std::uint32_t>(windows.size()), windows, rounds,
                    private_layers)
      .value();
}

TEST(Route, RepeatsWindowsAndCutsOrExtendsTheLast) {
  EXPECT_EQ(route(22, {4, 4, 14}, 1), (Route{{{0, 0, {0, 4}}, {1, 0, {4, 8}}, {2, 0, {8, 22}}}}));
  EXPECT_EQ(route(7, {2, 2}, 2),
            (Route{{{0, 0, {0, 2}}, {1, 0, {2, 4}}, {0, 1, {4, 6}}, {1, 1, {6, 7}}}}));
  EXPECT_EQ(route(5, {2, 2}, 2), (Route{{{0, 0, {0, 2}}, {1, 0, {2, 4}}, {0, 1, {4, 5}}}}));
  EXPECT_EQ(route(9, {2, 2, 0}, 1), (Route{{{0, 0, {0, 2}}, {1, 0, {2, 9}}}}));
}

TEST(Route, DealsAllLayersOverTheRounds) {
  const Route dealt = route(8, {1, 3, 4}, 2);
  EXPECT_EQ(dealt, (Route{{{0, 0, {0, 1}},
                           {1, 0, {1, 3}},
                           {2, 0, {3, 5}},  //
                           {1, 1, {5, 6}},
                           {2, 1, {6, 8}}}}));
  for (const std::uint32_t rounds : {1u, 2u, 4u, 8u}) {
    const Route way = route(32, {5, 9, 9, 9}, rounds);
    EXPECT_TRUE(check_route(way, 32, 4));
    for (std::uint32_t device = 0; device < 4; ++device) {
      std::uint32_t held = 0;
      for (const auto& window : windows_of(way, device)) held += window.size();
      EXPECT_EQ(held, device == 0 ? 5u : 9u) << rounds << " rounds";
    }
  }
}

TEST(Route, JoinsNeighbouringHopsOfADevice) {
  EXPECT_EQ(route(6, {0, 3}, 2), (Route{{{1, 0, {0, 6}}}}));
  EXPECT_EQ(route(8, {2, 2}, 1, 2), (Route{{{0, 0, {0, 4}}, {1, 0, {4, 6}}, {0, 0, {6, 8}}}}));
}

TEST(Route, SplitsEvenlyByDefault) {
  const Route even = make_route(10, 3, {}, 1, 0).value();
  EXPECT_EQ(even, (Route{{{0, 0, {0, 4}}, {1, 0, {4, 7}}, {2, 0, {7, 10}}}}));
  EXPECT_TRUE(check_route(make_route(3, 4, {}, 2, 0).value(), 3, 4));
}

TEST(Route, RefusesWhatCannotBe) {
  const auto refused = [](std::uint32_t n_layer, std::uint32_t n_devices, const Windows& windows,
                          std::uint32_t rounds, std::uint32_t private_layers) {
    const auto made = make_route(n_layer, n_devices, windows, rounds, private_layers);
    return !made && made.error().code == ErrorCode::invalid_argument;
  };
  EXPECT_TRUE(refused(8, 2, {4}, 1, 0));     // a number per device
  EXPECT_TRUE(refused(8, 2, {0, 0}, 1, 0));  // nobody has layers
  EXPECT_TRUE(refused(8, 2, {4, 5}, 2, 0));  // the first round takes more than all
  EXPECT_TRUE(refused(8, 2, {4, 4}, 0, 0));
  EXPECT_TRUE(refused(8, 2, {4, 4}, 9, 0));
  EXPECT_TRUE(refused(8, 2, {}, 1, 5));
  EXPECT_TRUE(refused(8, 65, {}, 1, 0));
}

TEST(Route, KnowsItsLinks) {
  EXPECT_EQ(links_of(route(7, {2, 2, 1}, 1)), (std::set<DevicePair>{{0, 1}, {1, 2}, {2, 0}}));
  // Cut in the last round: the way ends at device 1.
  EXPECT_EQ(links_of(route(7, {2, 1, 1}, 2)),
            (std::set<DevicePair>{{0, 1}, {1, 2}, {2, 0}, {1, 0}}));
  EXPECT_EQ(links_of(route(4, {0, 4}, 1)), (std::set<DevicePair>{{0, 1}, {1, 0}}));
  EXPECT_TRUE(links_of(route(4, {4, 0}, 1)).empty());
}

TEST(WaveOrder, LetsAllPassARoundBeforeOneEntersTheNext) {
  WaveOrder waves(2);
  EXPECT_TRUE(waves.may_enter(0));
  waves.entered(1, 0);
  EXPECT_TRUE(waves.may_enter(0));  // open until somebody goes on
  waves.entered(2, 0);
  waves.entered(1, 1);
  EXPECT_FALSE(waves.may_enter(0));  // closed
  EXPECT_TRUE(waves.may_enter(1));
  EXPECT_FALSE(waves.may_enter(2));  // step 2 is still in round 0
  EXPECT_TRUE(waves.has_behind(1));
  waves.entered(2, 1);
  EXPECT_FALSE(waves.has_behind(1));
  EXPECT_TRUE(waves.may_enter(2));
  waves.entered(1, 2);
  EXPECT_FALSE(waves.may_enter(0));  // step 2 has not entered the last round
  waves.entered(2, 2);
  EXPECT_TRUE(waves.may_enter(0));
}

TEST(WaveOrder, IsOpenAlwaysWithOneRound) {
  WaveOrder waves(0);
  waves.entered(1, 0);
  EXPECT_TRUE(waves.may_enter(0));
}

}  // namespace
}  // namespace prima::ring
