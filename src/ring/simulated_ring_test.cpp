// The whole ring in one process under simulated time: same results for every split, and overlap.
#include "ring/test_ring.h"

#include <random>

#include <gtest/gtest.h>

#include "ring/local_ring.h"
#include "ring/test_driver.h"

namespace prima::ring {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using transport::SimulatedWorld;

class Dice {
 public:
  explicit Dice(std::uint32_t seed) : random_(seed) {}
  // Below n.
  std::uint32_t roll(std::uint32_t n) { return static_cast<std::uint32_t>(random_() % n); }
  bool coin() { return roll(2) == 0; }

 private:
  std::mt19937 random_;
};

std::vector<DriverSequence> some_sequences(Dice& dice) {
  std::vector<DriverSequence> sequences(1 + dice.roll(4));
  for (DriverSequence& sequence : sequences) {
    sequence.prompt.resize(1 + dice.roll(20));
    for (std::int32_t& token : sequence.prompt) {
      token = static_cast<std::int32_t>(dice.roll(kFakeVocabulary));
    }
    sequence.n_decode = 1 + dice.roll(8);
  }
  return sequences;
}

// Any number of devices, rounds, uneven windows (zeros too), steps in flight; with waves or
// without.
SimulatedRingOptions some_ring(Dice& dice) {
  SimulatedRingOptions options;
  options.n_layer = 3 + dice.roll(14);
  options.ring = fake_ring_options(1 + dice.roll(3));
  RingOptions& ring = options.ring;
  ring.rounds = 1 + dice.roll(std::min(4u, options.n_layer));
  ring.waves = dice.coin();
  ring.max_steps_in_flight = dice.roll(9);
  ring.private_layers = dice.roll(3) == 0 ? 1 : 0;
  const std::uint32_t n_shared = options.n_layer - 2 * ring.private_layers;
  if (dice.coin()) {
    std::uint32_t left = n_shared / ring.rounds;
    for (std::uint32_t i = 0; i <= ring.n_workers; ++i) {
      ring.windows.push_back(dice.roll(left + 1));
      left -= ring.windows.back();
    }
    const bool all_zero = std::ranges::count(ring.windows, 0u) == std::ssize(ring.windows);
    if (all_zero) ring.windows.clear();
  }
  return options;
}

DriverResult on_one_device(std::uint32_t n_layer, const std::vector<DriverSequence>& sequences) {
  compute::ExecutorOptions options;
  options.windows = {{0, n_layer}};
  options.n_ctx = 256;
  const SystemClock clock;
  LocalRing ring(std::make_unique<FakeExecutor>(options, n_layer), n_layer, "alone", clock);
  return RingDriver(ring, clock).generate(sequences).value();
}

TEST(SimulatedRing, GivesTheSameResultsForEverySplit) {
  for (std::uint32_t seed = 0; seed < 200; ++seed) {
    Dice dice(seed);
    SimulatedRingOptions options = some_ring(dice);
    options.cost = [&](std::uint32_t, compute::LayerRange, std::uint32_t) {
      return microseconds(dice.roll(5000));
    };
    const auto sequences = some_sequences(dice);
    const DriverResult expected = on_one_device(options.n_layer, sequences);

    SimulatedWorld world(seed);
    world.set_all_links({.delay_min = microseconds(10), .delay_max = milliseconds(20)});
    world.run([&] {
      SimulatedWorkers workers(world, options);
      const auto ring = workers.form();
      ASSERT_TRUE(ring) << "seed " << seed << ": " << ring.error().message();
      RingDriver driver(**ring, world.clock());
      for (int request = 0; request < 2; ++request) {
        const auto result = driver.generate(sequences);
        ASSERT_TRUE(result) << "seed " << seed << ": " << result.error().message();
        EXPECT_EQ(*result, expected) << "seed " << seed;
      }
    });
  }
}

}  // namespace
}  // namespace prima::ring
