// A planner between gathering and loading, under simulated time.
#include <atomic>

#include <gtest/gtest.h>

#include "model/synth.h"
#include "model/testing/temporary_folder.h"
#include "profile/device_profile_json.h"
#include "ring/link_probe.h"
#include "ring/test_driver.h"
#include "ring/test_ring.h"

namespace prima::ring {
namespace {

using std::chrono::milliseconds;
using transport::SimulatedWorld;

TEST(DeviceShare, TakesNoMoreThanItsDeviceAllows) {
  compute::ExecutorOptions allowed;
  allowed.memory = weights::MemoryBudget{.total = 100 * kMiB, .program = 20 * kMiB};
  const auto total_of = [&](Bytes planned) {
    compute::ExecutorOptions executor = allowed;
    DeviceShare share;
    share.memory = planned;
    apply(share, executor);
    return executor.memory->total;
  };
  EXPECT_EQ(total_of(60 * kMiB), 80 * kMiB);
  EXPECT_EQ(total_of(90 * kMiB), 100 * kMiB);
}

TEST(LinkProbe, FindsLatencyAndBandwidthOfEachDirection) {
  SimulatedWorld world;
  world.set_link(
      "a", "b",
      {.delay_min = milliseconds(3), .delay_max = milliseconds(3), .bytes_per_second = 40e6});
  world.set_link(
      "b", "a",
      {.delay_min = milliseconds(2), .delay_max = milliseconds(2), .bytes_per_second = 10e6});
  world.run([&] {
    transport::Network& b = world.host("b");
    const auto listener = b.listen(700).value();
    bool done = false;
    const auto answering = b.start_thread("b", [&] {
      while (!done) {
        const auto incoming = listener->receive(b.clock().now() + milliseconds(50));
        if (incoming && is_probe(incoming->message)) answer_probe(*listener, *incoming);
      }
    });
    const auto link = measure_link(world.host("a"), {"b", 700}, 16 * kKiB, 8 * kMiB);
    done = true;
    ASSERT_TRUE(link) << link.error().message();
    EXPECT_NEAR(link->round_trip_seconds, 0.005, 0.0005);
    EXPECT_NEAR(link->forward_bytes_per_second, 40e6, 2e6);
    EXPECT_NEAR(link->backward_bytes_per_second, 10e6, 0.5e6);
  });
}

TEST(LinkProbe, EndsWhereNobodyAnswers) {
  SimulatedWorld world;
  world.run([&] {
    const auto listener = world.host("b").listen(700).value();
    const auto link = measure_link(world.host("a"), {"b", 700}, 16, 64);
    ASSERT_FALSE(link);
    EXPECT_EQ(link.error().code, ErrorCode::unavailable);
  });
}

// Two workers with a planner that uses the second alone, in two rounds.
struct Planned {
  SimulatedRingOptions options;
  RingOffer offer;
  RingPlanning planning;

  Planned() {
    options.n_layer = 8;
    options.ring = fake_ring_options(2);
    planning.profile = [] { return Result<std::string>("head's"); };
    planning.plan = [this](const RingOffer& given) -> Result<RingPlan> {
      offer = given;
      RingPlan plan;
      for (std::uint32_t i = 0; i < given.devices.size(); ++i) {
        if (given.devices[i].name == "worker2") plan.devices = {kHead, i};
      }
      plan.shares = {{}, {.memory = 5 * kMiB, .slot_bytes = kMiB, .gpus = {}}};
      plan.route = {{{0, 0, {0, 2}}, {1, 0, {2, 4}}, {0, 1, {4, 5}}, {1, 1, {5, 8}}}};
      plan.rounds = 2;
      plan.max_tokens = 16;
      return plan;
    };
  }
};

TEST(PlannedRing, AsksAllDevicesAndRunsWhatThePlannerSays) {
  Planned planned;
  SimulatedWorld world;
  world.set_all_links(
      {.delay_min = milliseconds(2), .delay_max = milliseconds(2), .bytes_per_second = 50e6});
  world.run([&] {
    SimulatedWorkers workers(world, planned.options);
    std::map<std::string, DeviceShare> shares;
    std::uint32_t max_tokens = 0;
    workers.on_load = [&](const Assignment& assignment) -> Status {
      shares[assignment.device_names[assignment.device]] = assignment.share;
      max_tokens = assignment.max_tokens;
      return {};
    };
    const auto ring = workers.form(planned.options.ring, planned.planning);
    ASSERT_TRUE(ring) << ring.error().message();

    ASSERT_EQ(planned.offer.devices.size(), 3u);
    EXPECT_EQ(planned.offer.devices[0].profile, "head's");
    for (std::size_t i = 1; i < 3; ++i) {
      EXPECT_EQ(planned.offer.devices[i].profile, planned.offer.devices[i].name + "'s");
    }
    for (const auto& link : planned.offer.links) {
      ASSERT_TRUE(link);
      EXPECT_NEAR(link->round_trip_seconds, 0.004, 0.0005);
    }
    ASSERT_EQ(shares.size(), 1u);
    EXPECT_EQ(shares["worker2"].memory, 5 * kMiB);
    EXPECT_EQ(shares["worker2"].slot_bytes, kMiB);
    EXPECT_EQ(max_tokens, 16u);

    const RingDescription description = (*ring)->describe();
    ASSERT_EQ(description.devices.size(), 2u);
    EXPECT_EQ(description.devices[1].name, "worker2");
    EXPECT_EQ(description.rounds, 2u);
    EXPECT_EQ(description.max_tokens, 16u);
    RingDriver driver(**ring, world.clock());
    EXPECT_TRUE(driver.generate({{.prompt = {1, 2, 3}, .n_decode = 4}}));
  });
}

// Its profile is there by then: also a device's first run with a model can learn.
TEST(PlannedRing, AsksForWhoObservesOnceThePlanIsMade) {
  Planned planned;
  std::vector<std::string> events;
  planned.planning.plan = [&, plan = planned.planning.plan](const RingOffer& given) {
    events.emplace_back("plan");
    return plan(given);
  };
  planned.options.ring.make_observer =
      [&]() -> std::function<void(const compute::ComputedLayers&)> {
    events.emplace_back("observer");
    return {};
  };
  SimulatedWorld world;
  world.run([&] {
    SimulatedWorkers workers(world, planned.options);
    const auto ring = workers.form(planned.options.ring, planned.planning);
    ASSERT_TRUE(ring) << ring.error().message();
    EXPECT_EQ(events, (std::vector<std::string>{"plan", "observer"}));
  });
}

TEST(PlannedRing, IsObservedAlsoOnADeviceAlone) {
  const model::TemporaryFolder folder;
  const auto path = folder.path() / "model.gguf";
  ASSERT_TRUE(model::synthesize(model::SynthOptions{}, path));
  const auto model = model::ModelFile::open(path).value();
  bool planned = false;
  std::uint32_t observed = 0;
  RingOptions options;
  options.executor.n_ctx = 64;
  options.executor.n_threads = 1;  // ThreadSanitizer does not know OpenMP's barriers
  options.gather_time = {};
  options.make_planning = [&](const model::ModelFile&) {
    RingPlanning planning;
    planning.alone = [&]() -> Result<DeviceShare> {
      planned = true;
      return DeviceShare{};
    };
    return planning;
  };
  options.make_observer = [&] {
    EXPECT_TRUE(planned);
    return [&](const compute::ComputedLayers& computed) { observed += computed.layers.size(); };
  };
  const auto ring = form_ring(model, options);
  ASSERT_TRUE(ring) << ring.error().message();
  const compute::Step step{.id = 1,
                           .kv_operations = {},
                           .sequences = {0},
                           .positions = {0},
                           .cells = {0},
                           .n_kv = 1,
                           .outputs = {0}};
  const std::vector<std::int32_t> tokens{1};
  ASSERT_TRUE((*ring)->submit(step, tokens, Instant::max()));
  EXPECT_EQ(observed, model.hyperparameters().n_layer);
}

TEST(PlannedRing, TakesWhoeverIsThere) {
  Planned planned;
  SimulatedWorld world;
  world.run([&] {
    SimulatedWorkers workers(world, planned.options);
    RingOptions options = planned.options.ring;
    options.n_workers = 0;
    options.gather_time = std::chrono::seconds(1);
    const auto ring = workers.form(options, planned.planning);
    ASSERT_TRUE(ring) << ring.error().message();
    EXPECT_EQ(planned.offer.devices.size(), 3u);
  });
}

TEST(PlannedRing, NamesTheDeviceThatDoesNotMeasureItself) {
  Planned planned;
  SimulatedWorld world;
  world.run([&] {
    SimulatedWorkers workers(world, planned.options);
    workers.on_profile = [](const std::string& name) -> Result<std::string> {
      if (name == "worker1") return fail(ErrorCode::resource_exhausted, "no memory", "");
      return name + "'s";
    };
    const auto ring = workers.form(planned.options.ring, planned.planning);
    ASSERT_TRUE(ring) << ring.error().message();
    for (const OfferedDevice& device : planned.offer.devices) {
      EXPECT_EQ(device.problem.empty(), device.name != "worker1") << device.problem;
    }
  });
}

TEST(PlannedRing, LearnsBetweenRequestsOfDevicesThatHaveJoinedSince) {
  Planned planned;
  planned.options.ring.n_workers = 1;
  planned.planning.plan = [&](const RingOffer& given) -> Result<RingPlan> {
    EXPECT_EQ(given.devices.size(), 2u);
    return RingPlan{.devices = {0, 1},
                    .shares = {{}, {}},
                    .route = {{{0, 0, {0, 2}}, {1, 0, {2, 8}}}},
                    .rounds = 1};
  };
  RingOffer later;
  planned.planning.better = [&](const RingOffer& given) -> std::optional<std::string> {
    later = given;
    return "faster with " + given.devices.back().name;
  };
  SimulatedWorld world;
  world.run([&] {
    SimulatedWorkers workers(world, planned.options);
    const auto ring = workers.form(planned.options.ring, planned.planning);
    ASSERT_TRUE(ring) << ring.error().message();
    RingDriver driver(**ring, world.clock());
    EXPECT_TRUE(driver.generate({{.prompt = {1, 2, 3}, .n_decode = 2}}));
    EXPECT_FALSE((*ring)->reason_to_form_anew());

    workers.start(2);
    std::optional<std::string> reason;
    for (int i = 0; i < 20 && !reason; ++i) {
      world.sleep(milliseconds(500));
      reason = (*ring)->reason_to_form_anew();
    }
    EXPECT_EQ(reason, "faster with worker2");
    ASSERT_EQ(later.devices.size(), 3u);
    EXPECT_EQ(later.devices[2].profile, "worker2's");
    for (const auto& link : later.links) EXPECT_TRUE(link);
    // It goes on serving meanwhile.
    EXPECT_TRUE(driver.generate({{.prompt = {4, 5}, .n_decode = 2}}));
  });
}

TEST(PlannedRing, LearnsBetweenRequestsHowFastItsDevicesAre) {
  const auto text = [](double disk, Bytes memory) {
    profile::DeviceProfile profile;
    profile.disk_read_bytes_per_second = disk;
    profile.memory_available_bytes = memory;
    return profile::to_json(profile);
  };
  std::atomic<double> head_disk = 500e6;
  std::atomic<double> worker_disk = 400e6;
  std::atomic<Bytes> left = kGiB;
  Planned planned;
  planned.options.ring.n_workers = 1;
  planned.planning.profile = [&] { return text(head_disk, kGiB); };
  planned.planning.learned_profile = planned.planning.profile;
  planned.planning.plan = [](const RingOffer&) -> Result<RingPlan> {
    return RingPlan{.devices = {0, 1},
                    .shares = {{}, {}},
                    .route = {{{0, 0, {0, 2}}, {1, 0, {2, 8}}}},
                    .rounds = 1};
  };
  std::vector<RingOffer> judged;
  planned.planning.better = [&](const RingOffer& given) -> std::optional<std::string> {
    judged.push_back(given);
    return std::nullopt;
  };
  SimulatedWorld world;
  world.run([&] {
    SimulatedWorkers workers(world, planned.options);
    workers.on_profile = [&](const std::string&) { return text(worker_disk, left); };
    const auto ring = workers.form(planned.options.ring, planned.planning);
    ASSERT_TRUE(ring) << ring.error().message();
    RingDriver driver(**ring, world.clock());
    const auto requests = [&] {
      for (int i = 0; i < 20; ++i) {
        EXPECT_TRUE(driver.generate({{.prompt = {1, 2, 3}, .n_decode = 2}}));
        EXPECT_FALSE((*ring)->reason_to_form_anew());
        world.sleep(std::chrono::seconds(5));
      }
    };
    requests();
    EXPECT_TRUE(judged.empty());  // nothing new

    worker_disk = 100e6;
    left = kMiB;  // the plan's weights take the rest
    requests();
    ASSERT_EQ(judged.size(), 1u);
    EXPECT_EQ(judged[0].devices[0].profile, text(500e6, kGiB));
    EXPECT_EQ(judged[0].devices[1].profile, text(100e6, kGiB));

    head_disk = 1e9;
    requests();
    ASSERT_EQ(judged.size(), 2u);
    EXPECT_EQ(judged[1].devices[0].profile, text(1e9, kGiB));
    EXPECT_EQ(judged[1].devices[1].profile, text(100e6, kGiB));
  });
}

}  // namespace
}  // namespace prima::ring
