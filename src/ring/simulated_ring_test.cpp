// The whole ring in one process under simulated time: same results for every split, and overlap.
#include <random>

#include <gtest/gtest.h>

#include "ring/local_ring.h"
#include "ring/micro_batch.h"
#include "ring/test_driver.h"
#include "ring/test_ring.h"

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

// Any number of devices, rounds, uneven windows (zeros too), steps in flight, tokens travelling at
// once; some devices stream.
SimulatedRingOptions some_ring(Dice& dice) {
  SimulatedRingOptions options;
  options.n_layer = 3 + dice.roll(14);
  options.ring = fake_ring_options(1 + dice.roll(3));
  RingOptions& ring = options.ring;
  ring.rounds = 1 + dice.roll(std::min(4u, options.n_layer));
  for (std::uint32_t device = 0; device <= ring.n_workers; ++device) {
    if (dice.roll(4) == 0) options.streaming.insert(device);
  }
  options.read_time = microseconds(500);
  ring.micro_batch = dice.coin() ? 1 + dice.roll(8) : 0;
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
  LocalRing ring(std::make_unique<FakeExecutor>(options, n_layer), n_layer, options.max_tokens,
                 "alone", clock);
  return RingDriver(ring, clock).generate(sequences).value();
}

TEST(SimulatedRing, GivesTheSameResultsForEverySplit) {
  for (std::uint32_t seed = 0; seed < 100; ++seed) {
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

// Devices that take 10 ms for each hop of a step of up to 4 tokens, on links of 0.1 ms.
SimulatedRingOptions timed_ring(std::uint32_t n_devices) {
  SimulatedRingOptions options;
  options.n_layer = 4 * n_devices;
  options.ring = fake_ring_options(n_devices - 1);
  options.cost = [](std::uint32_t, compute::LayerRange, std::uint32_t) { return milliseconds(10); };
  return options;
}

TEST(SimulatedRing, ComputesMicroBatchesOfAPromptOnAllDevicesAtOnce) {
  SimulatedWorld world;
  world.run([&] {
    SimulatedWorkers workers(world, timed_ring(4));
    const auto ring = workers.form().value();
    const Instant started = world.clock().now();
    const DriverSequence prompt{.prompt = std::vector<std::int32_t>(8 * 4, 5), .n_decode = 1};
    ASSERT_TRUE(RingDriver(*ring, world.clock()).generate({prompt}));
    const double ideal = (8 + 4 - 1) * 0.010;  // the last of 8 leaves the last of 4 devices
    EXPECT_LE(seconds(world.clock().now() - started), 1.1 * ideal);
  });
}

TEST(SimulatedRing, GeneratesSequencesSideBySide) {
  const auto tokens_per_second = [](std::size_t n_sequences) {
    double rate = 0;
    SimulatedWorld world;
    world.run([&] {
      SimulatedWorkers workers(world, timed_ring(4));
      const auto ring = workers.form().value();
      const Instant started = world.clock().now();
      const DriverSequence sequence{.prompt = {1, 2, 3}, .n_decode = 50};
      ASSERT_TRUE(RingDriver(*ring, world.clock())
                      .generate(std::vector<DriverSequence>(n_sequences, sequence)));
      rate = static_cast<double>(50 * n_sequences) / seconds(world.clock().now() - started);
    });
    return rate;
  };
  EXPECT_GE(tokens_per_second(4), 3.6 * tokens_per_second(1));
}

// A prompt of one step is cut, so that it takes little more than its share of each device's time.
TEST(SimulatedRing, CutsAPromptSoThatAllDevicesCompute) {
  constexpr std::uint32_t kTokens = 512;
  constexpr std::uint32_t kDevices = 4;
  SimulatedRingOptions options = timed_ring(kDevices);
  options.ring.executor.n_ctx = 1024;
  options.ring.executor.max_tokens = kTokens;
  const auto time_of = [](std::uint32_t n_tokens) {
    return Duration(static_cast<Duration::rep>(1e6 * (kStepCostTokens + n_tokens)));  // 1 ms each
  };
  options.cost = [&](std::uint32_t, compute::LayerRange, std::uint32_t n) { return time_of(n); };
  const DriverSequence prompt{.prompt = std::vector<std::int32_t>(kTokens, 5), .n_decode = 1};
  const auto prefill = [&](std::uint32_t micro_batch) {
    options.ring.micro_batch = micro_batch;
    std::pair<DriverResult, Duration> outcome;
    SimulatedWorld world;
    world.run([&] {
      SimulatedWorkers workers(world, options);
      const auto ring = workers.form().value();
      const Instant started = world.clock().now();
      outcome.first = RingDriver(*ring, world.clock(), {.micro_batch = kTokens, .n_ctx = 1024})
                          .generate({prompt})
                          .value();
      outcome.second = world.clock().now() - started;
    });
    return outcome;
  };
  const auto [whole, whole_time] = prefill(kTokens);
  const auto [chosen, chosen_time] = prefill(0);
  EXPECT_EQ(chosen, whole);
  EXPECT_GE(whole_time, kDevices * time_of(kTokens));
  EXPECT_LE(seconds(chosen_time), 0.45 * seconds(whole_time));
  for (const std::uint32_t other : {16u, 32u, 64u, 128u, 256u}) {
    EXPECT_LE(seconds(chosen_time), 1.02 * seconds(prefill(other).second)) << other;
  }
}

TEST(SimulatedRing, GivesEmbeddingsInsteadOfLogits) {
  constexpr std::uint32_t kTokens = 40;  // in several parts
  compute::Step step;
  for (std::uint32_t i = 0; i < kTokens; ++i) {
    step.sequences.push_back(0);
    step.positions.push_back(static_cast<std::int32_t>(i));
    step.cells.push_back(i);
    if (i % 3 == 0) step.outputs.push_back(i);
  }
  step.n_kv = kTokens;
  const std::vector<std::int32_t> tokens(kTokens, 5);
  SimulatedWorld world;
  world.run([&] {
    SimulatedRingOptions options = timed_ring(3);
    options.ring.micro_batch = 8;
    SimulatedWorkers workers(world, options);
    const auto ring = workers.form().value();
    const auto ask = [&](bool embeddings) {
      step.embeddings = embeddings;
      ++step.id;
      EXPECT_TRUE(ring->submit(step, tokens, world.clock().now() + std::chrono::seconds(10)));
      auto finished = ring->next(world.clock().now() + std::chrono::seconds(10)).value();
      EXPECT_TRUE(ring->reset(world.clock().now() + std::chrono::seconds(10)));
      return finished.logits;
    };
    std::vector<float> expected = ask(false);
    EXPECT_EQ(expected.size(), step.outputs.size() * kFakeEmbedding);
    for (float& value : expected) value *= 2;  // FakeExecutor::embeddings()
    EXPECT_EQ(ask(true), expected);
  });
}

TEST(SimulatedRing, ReadsAWindowOnceForAllStepsOfAWave) {
  for (const std::uint32_t first_windows : {3u, 0u}) {  // steps set out at the head, or at a worker
    SimulatedRingOptions options = timed_ring(3);
    options.ring.rounds = 2;
    options.ring.windows = {first_windows, 2, 1};
    options.streaming = {1, 2};
    SimulatedWorld world;
    world.run([&] {
      SimulatedWorkers workers(world, options);
      const auto ring = workers.form().value();
      RingDriver driver(*ring, world.clock());
      const DriverSequence sequence{.prompt = {1, 2, 3}, .n_decode = 6};
      ASSERT_TRUE(driver.generate(std::vector<DriverSequence>(4, sequence)));
      // Six waves of four steps, two windows on each of two devices.
      EXPECT_EQ(workers.reads.size(), 6u * 2 * 2) << first_windows;
      EXPECT_EQ(driver.last_timings.hops.back().reading, Duration()) << first_windows;
      workers.reads.clear();
      ASSERT_TRUE(driver.generate({sequence}));
      EXPECT_EQ(workers.reads.size(), 6u * 2 * 2) << first_windows;
      EXPECT_EQ(driver.last_timings.hops.back().reading, options.read_time) << first_windows;
    });
  }
}

TEST(SimulatedRing, TellsWhereAStepSpentItsTime) {
  SimulatedWorld world;
  world.run([&] {
    SimulatedWorkers workers(world, timed_ring(3));
    const auto ring = workers.form().value();
    RingDriver driver(*ring, world.clock());
    ASSERT_TRUE(driver.generate({{.prompt = {1}, .n_decode = 3}}));
    const StepTimings& timings = driver.last_timings;
    ASSERT_EQ(timings.hops.size(), 3u);
    for (std::uint32_t i = 0; i < 3; ++i) {
      EXPECT_EQ(timings.hops[i].device, i);
      EXPECT_EQ(timings.hops[i].computing, milliseconds(10));
      EXPECT_EQ(timings.hops[i].layers, (compute::LayerRange{4 * i, 4 * i + 4}));
    }
    EXPECT_GE(timings.travelling(), microseconds(300));  // three links of 0.1 ms
    EXPECT_LE(timings.travelling(), milliseconds(1));
    EXPECT_EQ(ring->describe().devices[2].name, "worker2");
  });
}

// The prompt as numbers of so many bytes each, as it would look in a message.
std::string as_bytes(const std::vector<std::int32_t>& tokens, std::size_t width) {
  std::string bytes;
  for (const std::int32_t token : tokens) {
    std::string number(width, '\0');
    number[0] = static_cast<char>(token);
    bytes += number;
  }
  return bytes;
}

// Slices of 4 ms while the three others compute for 30 ms, but none where the head has work itself.
TEST(SimulatedRing, WorksIdlyWhileItWaitsForOthers) {
  class Slices final : public IdleWork {
   public:
    explicit Slices(SimulatedWorld& world) : world_(world) {}
    bool work(Place place, Duration waited) override {
      EXPECT_EQ(place, kRing);
      if (waited + milliseconds(4) > limit) return false;
      world_.sleep(milliseconds(4));
      ++n_slices;
      return true;
    }
    void ended(Place, Duration waited) override { lengths.push_back(waited); }

    Duration limit{};
    int n_slices = 0;
    std::vector<Duration> lengths;

   private:
    SimulatedWorld& world_;
  };

  const DriverSequence sequence{.prompt = {1, 2, 3}, .n_decode = 20};
  SimulatedWorld world;
  world.run([&] {
    SimulatedWorkers workers(world, timed_ring(4));
    const auto ring = workers.form().value();
    RingDriver driver(*ring, world.clock());
    const auto generate = [&] {
      const Instant started = world.clock().now();
      auto result = driver.generate({sequence}).value();
      return std::pair(std::move(result), seconds(world.clock().now() - started));
    };
    const auto [expected, plain_time] = generate();
    Slices slices(world);
    ring->set_idle_work(&slices);
    EXPECT_EQ(generate().first, expected);
    EXPECT_EQ(slices.n_slices, 0);
    ASSERT_EQ(slices.lengths.size(), 20u);
    for (const Duration length : slices.lengths) EXPECT_NEAR(seconds(length), 0.030, 0.002);

    slices.limit = milliseconds(29);  // that fits
    const auto [beside, time] = generate();
    EXPECT_EQ(beside, expected);
    EXPECT_EQ(slices.n_slices, 20 * 7);
    EXPECT_NEAR(time, plain_time, 0.001);

    slices.limit = milliseconds(1000);  // what has come is taken at once: at most a slice too late
    EXPECT_EQ(generate().first, expected);
    EXPECT_LE(seconds(*std::ranges::max_element(slices.lengths)), 0.036);

    ring->set_idle_work(nullptr);
    const int before = slices.n_slices;
    EXPECT_EQ(generate().first, expected);
    EXPECT_EQ(slices.n_slices, before);
  });
}

TEST(SimulatedRing, SendsWorkersNoTokens) {
  const std::vector<std::int32_t> prompt{17, 29, 5, 23, 11, 2, 30, 8};
  std::string received;
  SimulatedWorld world;
  world.run([&] {
    SimulatedWorkers workers(world, timed_ring(3));
    world.set_all_links({.tamper = [&](transport::Message message) {
      received.append(reinterpret_cast<const char*>(message.header.data()), message.header.size());
      std::vector<std::byte> payload(message.payload.size());
      message.payload.copy_to(payload);
      received.append(reinterpret_cast<const char*>(payload.data()), payload.size());
      return std::vector{std::move(message)};
    }});
    const auto ring = workers.form().value();
    RingDriver driver(*ring, world.clock(), {.micro_batch = 8});
    ASSERT_TRUE(driver.generate({{.prompt = prompt, .n_decode = 4}}));
  });
  // Positions travel, so a sequence of numbers would be found.
  EXPECT_NE(received.find(as_bytes({0, 1, 2, 3, 4, 5, 6, 7}, 4)), std::string::npos);
  for (const std::size_t width : {1, 2, 4, 8}) {
    EXPECT_EQ(received.find(as_bytes(prompt, width)), std::string::npos) << width;
  }
}

}  // namespace
}  // namespace prima::ring
