// What may go wrong in a ring, under simulated time: never a hang, never a wrong token.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ring/status_query.h"
#include "ring/test_driver.h"
#include "ring/test_ring.h"

namespace prima::ring {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;
using transport::Message;
using transport::SimulatedWorld;

std::vector<DriverSequence> long_answers() {
  return {{.prompt = {1, 2, 3, 4, 5}, .n_decode = 60}, {.prompt = {6, 7, 8}, .n_decode = 60}};
}

SimulatedRingOptions three_devices() {
  SimulatedRingOptions options;
  options.ring = fake_ring_options(2);
  options.cost = [](std::uint32_t, compute::LayerRange, std::uint32_t) { return milliseconds(20); };
  return options;
}

class Faults : public testing::Test {
 protected:
  // Generates while `fault` happens after `delay`; what generate() said, and how long after the
  // fault.
  struct Outcome {
    Result<DriverResult> result;
    Duration after_fault{};
  };
  Outcome generate_during(Ring& ring, Duration delay, std::function<void()> fault) {
    Instant happened{};
    const auto saboteur = world_.host("saboteur").start_thread("saboteur", [&] {
      world_.sleep(delay);
      happened = world_.clock().now();
      fault();
    });
    auto result = RingDriver(ring, world_.clock()).generate(long_answers());
    return {std::move(result), world_.clock().now() - happened};
  }

  DriverResult expected(const SimulatedRingOptions& options) {
    DriverResult result;
    SimulatedWorld world;
    world.run([&] {
      SimulatedWorkers workers(world, options);
      const auto ring = workers.form().value();
      result = RingDriver(*ring, world.clock()).generate(long_answers()).value();
    });
    return result;
  }

  SimulatedWorld world_;
};

TEST_F(Faults, AStoppedWorkerIsNamedAndTheOthersServeOn) {
  world_.run([&] {
    SimulatedWorkers workers(world_, three_devices());
    {
      const auto ring = workers.form().value();
      const Outcome outcome =
          generate_during(*ring, milliseconds(300), [&] { world_.stop("worker2"); });
      ASSERT_FALSE(outcome.result);
      EXPECT_EQ(outcome.result.error().code, ErrorCode::unavailable);
      EXPECT_THAT(outcome.result.error().what, HasSubstr("worker2"));
      EXPECT_LT(outcome.after_fault, seconds(5));
      // The ring stays failed, at once and with the same words.
      EXPECT_EQ(ring->next(world_.clock().now()).error().what, outcome.result.error().what);
    }
    RingOptions fewer = three_devices().ring;
    fewer.n_workers = 1;
    const auto ring = workers.form(fewer);
    ASSERT_TRUE(ring) << ring.error().message();
    EXPECT_TRUE(RingDriver(**ring, world_.clock()).generate(long_answers()));
  });
}

TEST_F(Faults, AStoppedWorkerJoinsAgainWhenItGoesOn) {
  world_.run([&] {
    SimulatedWorkers workers(world_, three_devices());
    {
      const auto ring = workers.form().value();
      EXPECT_FALSE(
          generate_during(*ring, milliseconds(300), [&] { world_.stop("worker1"); }).result);
    }
    world_.resume("worker1");
    const auto ring = workers.form();
    ASSERT_TRUE(ring) << ring.error().message();
    EXPECT_TRUE(RingDriver(**ring, world_.clock()).generate(long_answers()));
  });
}

// Struck in each state, a worker is missed in time, and the ring forms again: with it once it goes
// on, or with another in its place.
TEST_F(Faults, AWorkerMayStopInAnyState) {
  using State = WorkerStatus::State;
  const DriverResult undisturbed = expected(three_devices());
  for (const State state :
       {State::searching, State::waiting, State::loading, State::linking, State::serving}) {
    for (const bool goes_on : {true, false}) {
      SCOPED_TRACE(std::string(to_string(state)) + (goes_on ? ", goes on" : ", is dead"));
      SimulatedWorld world;
      world.run([&] {
        SimulatedWorkers workers(world, three_devices());
        std::optional<Instant> struck;
        workers.on_state = [&](std::uint32_t worker, State now) {
          if (worker != 2 || now != state || struck) return;
          struck = world.clock().now();
          world.stop("worker2");
        };
        workers.on_load = [&](const Assignment&) -> Status {
          world.sleep(milliseconds(700));
          return {};
        };
        RingOptions options = three_devices().ring;
        options.join_timeout = seconds(8);
        Status outcome;
        {
          auto ring = workers.form(options);
          if (ring) {
            const auto result = RingDriver(**ring, world.clock()).generate(long_answers());
            if (!result) outcome = tl::unexpected(result.error());
          } else {
            outcome = tl::unexpected(ring.error());
          }
        }
        ASSERT_TRUE(struck);
        ASSERT_FALSE(outcome);
        if (state == State::searching) {
          EXPECT_THAT(outcome.error().what, HasSubstr("Only 1 of 2 workers joined"));
        } else {
          EXPECT_THAT(outcome.error().what, HasSubstr("worker2"));
          EXPECT_LT(world.clock().now() - *struck, seconds(5));
        }
        if (goes_on) {
          world.resume("worker2");
        } else {
          workers.start(3);
        }
        options.join_timeout = seconds(15);
        const auto ring = workers.form(options);
        ASSERT_TRUE(ring) << ring.error().message();
        const auto again = RingDriver(**ring, world.clock()).generate(long_answers());
        ASSERT_TRUE(again) << again.error().message();
        EXPECT_EQ(*again, undisturbed);
      });
    }
  }
}

TEST_F(Faults, AWorkerCutOffIsNamedAndComesBack) {
  const DriverResult undisturbed = expected(three_devices());
  world_.run([&] {
    SimulatedWorkers workers(world_, three_devices());
    const auto cut = [&](bool is_cut) {
      for (const char* other : {"head", "worker1"}) {
        world_.set_link("worker2", other, {.cut = is_cut});
        world_.set_link(other, "worker2", {.cut = is_cut});
      }
    };
    {
      const auto ring = workers.form().value();
      const Outcome outcome = generate_during(*ring, milliseconds(300), [&] { cut(true); });
      ASSERT_FALSE(outcome.result);
      EXPECT_THAT(outcome.result.error().what, HasSubstr("worker2"));
      EXPECT_LT(outcome.after_fault, seconds(5));
    }
    RingOptions fewer = three_devices().ring;
    fewer.n_workers = 1;
    ASSERT_TRUE(workers.form(fewer));
    world_.sleep(seconds(10));
    cut(false);
    const auto ring = workers.form();
    ASSERT_TRUE(ring) << ring.error().message();
    const auto again = RingDriver(**ring, world_.clock()).generate(long_answers());
    ASSERT_TRUE(again) << again.error().message();
    EXPECT_EQ(*again, undisturbed);
  });
}

// Announcements of heads that have died may be about for a while, and come first in the list.
TEST_F(Faults, DeadHeadsKeepNoWorkerFromTheLiveOneForLong) {
  world_.run([&] {
    SimulatedRingOptions options = three_devices();
    SimulatedWorkers workers(world_, options);
    workers.heads = {{"dead1", 1}, {"dead2", 2}, {"head", SimulatedWorkers::kHeadPort}};
    for (int i = 0; i < 4; ++i) {
      const Instant started = world_.clock().now();
      const auto ring = workers.form();
      ASSERT_TRUE(ring) << ring.error().message();
      // All have been asked once at most before the live head is; then the dead ones come last.
      EXPECT_LT(world_.clock().now() - started, i == 0 ? seconds(6) : seconds(3)) << i;
    }
  });
}

TEST_F(Faults, StatusIsToldWhileTheRingForms) {
  world_.run([&] {
    SimulatedWorkers workers(world_, three_devices());
    std::vector<StatusReply> replies;
    workers.on_load = [&](const Assignment&) -> Status {
      world_.sleep(seconds(1));
      return {};
    };
    const auto asker = world_.host("asker").start_thread("asker", [&] {
      for (int i = 0; i < 3; ++i) {
        world_.sleep(milliseconds(800));
        auto reply = query_status(world_.host("asker"), {"head", SimulatedWorkers::kHeadPort},
                                  world_.clock().now() + seconds(1));
        ASSERT_TRUE(reply) << reply.error().message();
        replies.push_back(std::move(*reply));
      }
    });
    const auto ring = workers.form();
    ASSERT_TRUE(ring) << ring.error().message();
    EXPECT_TRUE(RingDriver(**ring, world_.clock()).generate(long_answers()));
    ASSERT_EQ(replies.size(), 3u);
    ASSERT_EQ(replies[0].ring.devices.size(), 2u);
    EXPECT_EQ(replies[0].ring.devices[0].state, "loading");
    ASSERT_EQ(replies[2].ring.devices.size(), 3u);
    EXPECT_EQ(replies[2].ring.devices[2].state, "serving");
    EXPECT_EQ(replies[2].model_name, "fake");
  });
}

TEST_F(Faults, ASlowDeviceLives) {
  SimulatedRingOptions options = three_devices();
  int hops = 0;
  options.cost = [&](std::uint32_t device, compute::LayerRange, std::uint32_t) -> Duration {
    return device == 1 && ++hops == 5 ? seconds(15) : milliseconds(20);
  };
  const DriverResult without_delay = expected(three_devices());
  world_.run([&] {
    SimulatedWorkers workers(world_, options);
    const auto ring = workers.form().value();
    const auto result = RingDriver(*ring, world_.clock()).generate(long_answers());
    ASSERT_TRUE(result) << result.error().message();
    EXPECT_EQ(*result, without_delay);
  });
}

TEST_F(Faults, AHeadThatWasStoppedForAWhileGoesOn) {
  const DriverResult undisturbed = expected(three_devices());
  world_.run([&] {
    SimulatedWorkers workers(world_, three_devices());
    const auto ring = workers.form().value();
    const Outcome outcome = generate_during(*ring, milliseconds(300), [&] {
      world_.stop("head");
      world_.sleep(seconds(4));
      world_.resume("head");
    });
    ASSERT_TRUE(outcome.result) << outcome.result.error().message();
    EXPECT_EQ(*outcome.result, undisturbed);
  });
}

TEST_F(Faults, AHeadThatDiesFreesItsWorkers) {
  world_.run([&] {
    SimulatedWorkers workers(world_, three_devices());
    const auto ring = workers.form().value();
    EXPECT_EQ(workers.statuses[1].state, WorkerStatus::State::serving);
    world_.stop("head");
    world_.sleep(seconds(10));
    for (const std::uint32_t worker : {1u, 2u}) {
      const auto state = workers.statuses[worker].state;
      EXPECT_TRUE(state == WorkerStatus::State::searching ||
                  state == WorkerStatus::State::greeting);
    }
    world_.resume("head");
  });
}

TEST_F(Faults, ACutLinkIsNamedAndARestoredOneGoesOn) {
  const DriverResult uncut = expected(three_devices());
  for (const Duration cut_for : {Duration(seconds(2)), Duration(seconds(60))}) {
    SimulatedWorld world;
    world.run([&] {
      SimulatedWorkers workers(world, three_devices());
      const auto ring = workers.form().value();
      const auto saboteur = world.host("saboteur").start_thread("saboteur", [&] {
        world.sleep(milliseconds(300));
        world.set_link("worker1", "worker2", {.cut = true});
        world.sleep(cut_for);
        world.set_link("worker1", "worker2", {});
      });
      const Instant started = world.clock().now();
      const auto result = RingDriver(*ring, world.clock()).generate(long_answers());
      if (cut_for < seconds(3)) {
        ASSERT_TRUE(result) << result.error().message();
        EXPECT_EQ(*result, uncut);
      } else {
        ASSERT_FALSE(result);
        EXPECT_EQ(result.error().what, "Messages from worker1 do not reach worker2");
        EXPECT_LT(world.clock().now() - started, seconds(6));
      }
    });
  }
}

// Each kind of damage, done to every nth data message between two workers.
TEST_F(Faults, DamagedMessagesEndTheRequestOrDoNothing) {
  using Tamper = std::function<std::vector<Message>(Message)>;
  const auto shortened = [](Message message) {
    message.header.resize(message.header.size() / 2);
    return std::vector{std::move(message)};
  };
  const auto without_payload = [](Message message) {
    message.payload = {};
    return std::vector{std::move(message)};
  };
  const auto twice = [](Message message) { return std::vector{message, message}; };
  const auto lost = [](Message) { return std::vector<Message>(); };
  const auto oversized = [](Message message) {
    message.payload.append(
        {nullptr, std::as_bytes(std::span("more bytes than the step has columns for"))});
    return std::vector{std::move(message)};
  };
  const auto rubbish = [](Message message) {
    for (std::byte& byte : message.header) byte ^= std::byte{0x5a};
    return std::vector{std::move(message)};
  };
  struct Case {
    const char* name;
    Tamper tamper;
    bool harmless;
  };
  const DriverResult undamaged = expected(three_devices());
  for (const Case& damage :
       {Case{"shortened", shortened, false}, Case{"no payload", without_payload, false},
        Case{"twice", twice, true}, Case{"lost", lost, false}, Case{"oversized", oversized, false},
        Case{"rubbish", rubbish, false}}) {
    SimulatedWorld world;
    world.run([&] {
      SimulatedWorkers workers(world, three_devices());
      int count = 0;
      const auto formed = workers.form();
      ASSERT_TRUE(formed) << damage.name;
      world.set_link("worker1", "worker2", {.tamper = [&](Message message) {
                       return ++count % 7 == 0 ? damage.tamper(std::move(message))
                                               : std::vector{std::move(message)};
                     }});
      const Instant started = world.clock().now();
      const auto result = RingDriver(**formed, world.clock()).generate(long_answers());
      EXPECT_GE(count, 7) << damage.name;
      if (damage.harmless) {
        ASSERT_TRUE(result) << damage.name << ": " << result.error().message();
        EXPECT_EQ(*result, undamaged) << damage.name;
      } else {
        ASSERT_FALSE(result) << damage.name;
        EXPECT_THAT(result.error().what, HasSubstr("worker2")) << damage.name;
        EXPECT_LT(world.clock().now() - started, seconds(10)) << damage.name;
      }
    });
  }
}

TEST_F(Faults, ControlMessagesThatAreRubbishAreIgnored) {
  const DriverResult undamaged = expected(three_devices());
  world_.run([&] {
    SimulatedWorkers workers(world_, three_devices());
    const auto ring = workers.form().value();
    const auto stranger =
        world_.host("stranger").connect({"head", SimulatedWorkers::kHeadPort}).value();
    for (std::size_t size : {0u, 1u, 7u, 100u}) {
      ASSERT_TRUE(stranger->send({std::vector<std::byte>(size, std::byte{0xee}), {}}));
    }
    // Well-formed, but from nobody who belongs to the ring.
    ASSERT_TRUE(stranger->send({encode(Failure{1, {ErrorCode::io, "boo", ""}}), {}}));
    ASSERT_TRUE(stranger->send({encode(Release{1, "boo"}), {}}));
    const auto result = RingDriver(*ring, world_.clock()).generate(long_answers());
    ASSERT_TRUE(result) << result.error().message();
    EXPECT_EQ(*result, undamaged);
  });
}

TEST_F(Faults, AWorkerThatCannotLoadSaysWhy) {
  world_.run([&] {
    SimulatedWorkers workers(world_, three_devices());
    workers.on_load = [](const Assignment& assignment) -> Status {
      if (assignment.device == 1) return {};
      return fail(ErrorCode::not_found, "the head's model 'fake' is not on this device", "Copy it");
    };
    const auto ring = workers.form();
    ASSERT_FALSE(ring);
    EXPECT_EQ(ring.error().code, ErrorCode::not_found);
    EXPECT_THAT(ring.error().message(), HasSubstr("worker"));
    EXPECT_THAT(ring.error().message(), HasSubstr("is not on this device"));
    workers.on_load = {};
    const auto again = workers.form();
    EXPECT_TRUE(again) << again.error().message();
  });
}

TEST_F(Faults, AWorkerOfAnotherBuildIsRefusedWithBothVersions) {
  world_.run([&] {
    SimulatedRingOptions options = three_devices();
    options.ring.join_timeout = seconds(5);
    SimulatedWorkers workers(world_, [&] {
      SimulatedRingOptions one = options;
      one.ring.n_workers = 1;
      return one;
    }());
    const auto old = world_.host("old").start_thread("old", [&] {
      world_.sleep(milliseconds(500));
      const auto link = world_.host("old").connect({"head", SimulatedWorkers::kHeadPort}).value();
      ASSERT_TRUE(link->send({encode(Hello{.protocol_version = 99,
                                           .build = build_description(),
                                           .member = 4,
                                           .name = "antique",
                                           .data_port = 1}),
                              {}}));
      const auto answer = link->receive(world_.clock().now() + seconds(2));
      ASSERT_TRUE(answer);
      const auto message = decode_control(answer->header).value();
      EXPECT_THAT(std::get<Refusal>(message).error.what, HasSubstr("version 99"));
    });
    const auto ring = workers.form(options.ring);
    ASSERT_FALSE(ring);
    EXPECT_THAT(ring.error().what, HasSubstr("Only 1 of 2 workers joined"));
    EXPECT_THAT(ring.error().what, HasSubstr("antique speaks protocol version 99, the head " +
                                             std::to_string(kProtocolVersion)));
  });
}

TEST_F(Faults, FormingCanBeCancelledAndTimesOut) {
  world_.run([&] {
    SimulatedRingOptions options = three_devices();
    SimulatedWorkers workers(world_, options);
    RingOptions more = options.ring;
    more.n_workers = 5;
    more.join_timeout = seconds(7);
    const Instant started = world_.clock().now();
    EXPECT_EQ(workers.form(more).error().code, ErrorCode::deadline_exceeded);
    EXPECT_LT(world_.clock().now() - started, seconds(8));
    more.progress = [](const FormationProgress& progress) { return progress.workers_joined < 2; };
    EXPECT_EQ(workers.form(more).error().code, ErrorCode::cancelled);
    EXPECT_TRUE(workers.form());
  });
}

TEST_F(Faults, ResetDropsWhatIsUnderWay) {
  const DriverResult fresh = expected(three_devices());
  world_.run([&] {
    SimulatedWorkers workers(world_, three_devices());
    const auto ring = workers.form().value();
    for (int i = 0; i < 5; ++i) {
      ASSERT_TRUE(ring->reset(world_.clock().now() + seconds(1)));
      // Another conversation, abandoned with steps all over the ring.
      compute::KvCells cells(256);
      for (std::uint64_t id = 1; id <= 4; ++id) {
        compute::Step step;
        step.id = id;
        step.sequences = {static_cast<std::int32_t>(id)};
        step.positions = {0};
        step.outputs = {0};
        ASSERT_TRUE(cells.place(step) && cells.apply(step));
        const std::int32_t token = 3;
        ASSERT_TRUE(ring->submit(step, {&token, 1}, world_.clock().now() + seconds(10)));
      }
      world_.sleep(milliseconds(7 * i));
      EXPECT_EQ(ring->in_flight(), 4u);
      ASSERT_TRUE(ring->reset(world_.clock().now() + seconds(1)));
      EXPECT_EQ(ring->in_flight(), 0u);
      const auto result = RingDriver(*ring, world_.clock()).generate(long_answers());
      ASSERT_TRUE(result) << result.error().message();
      EXPECT_EQ(*result, fresh);
    }
  });
}

}  // namespace
}  // namespace prima::ring
