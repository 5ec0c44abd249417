// libFuzzer: well-formed or not, any messages in any order leave a node and a membership standing:
// they refuse, fail the session with an error, or go on.
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <fuzzer/FuzzedDataProvider.h>

#include "base/clock.h"
#include "ring/fake_executor.h"
#include "ring/membership.h"
#include "ring/node.h"

namespace prima::ring {
namespace {

constexpr std::uint64_t kSession = 7;
constexpr std::uint32_t kDevices = 3;
constexpr std::uint32_t kLayers = 6;
constexpr std::uint32_t kContext = 32;
constexpr std::uint32_t kMaxTokens = 4;
constexpr int kMaxEvents = 64;

class NullLink final : public transport::Link {
 public:
  Status send(transport::Message) override { return {}; }
  std::optional<transport::Message> receive(Instant) override { return std::nullopt; }
  void interrupt() override {}
};

std::vector<std::byte> some_bytes(FuzzedDataProvider& input, std::size_t size) {
  std::vector<std::byte> bytes = input.ConsumeBytes<std::byte>(size);
  bytes.resize(size);
  return bytes;
}

compute::Step some_step(FuzzedDataProvider& input) {
  compute::Step step;
  step.id = input.ConsumeIntegralInRange<std::uint64_t>(0, 4);
  const auto n_tokens = input.ConsumeIntegralInRange<std::uint32_t>(1, kMaxTokens);
  const auto first_cell = input.ConsumeIntegralInRange<std::uint32_t>(0, kContext);
  const auto sequence = input.ConsumeIntegralInRange<std::int32_t>(0, 3);
  for (std::uint32_t i = 0; i < n_tokens; ++i) {
    step.sequences.push_back(sequence);
    step.positions.push_back(static_cast<std::int32_t>(i));
    step.cells.push_back(first_cell + i);
    if (input.ConsumeBool()) step.outputs.push_back(i);
  }
  step.n_kv = input.ConsumeBool() ? kContext : input.ConsumeIntegralInRange(0u, kContext + 1);
  if (input.ConsumeBool()) {
    step.kv_operations.push_back({input.ConsumeBool() ? compute::KvOperation::Kind::copy
                                                      : compute::KvOperation::Kind::remove,
                                  sequence, input.ConsumeIntegralInRange<std::int32_t>(0, 3), 0,
                                  input.ConsumeIntegralInRange<std::int32_t>(0, kContext)});
  }
  return step;
}

void drive_node(FuzzedDataProvider& input) {
  const ManualClock clock;
  const auto route = make_route(kLayers, kDevices, {}, 2, input.ConsumeBool() ? 1 : 0).value();
  const auto device = input.ConsumeIntegralInRange<std::uint32_t>(0, kDevices - 1);
  constexpr std::array kTypes{GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0};
  const SessionShape shape{.session = kSession,
                           .n_devices = kDevices,
                           .n_hops = static_cast<std::uint32_t>(route.hops.size()),
                           .n_embd = kFakeEmbedding,
                           .n_ctx = kContext,
                           .max_tokens = kMaxTokens,
                           .link_type = input.PickValueInArray(kTypes)};
  compute::ExecutorOptions options;
  options.windows = windows_of(route, device);
  options.n_ctx = kContext;
  FakeExecutor executor(options, kLayers);
  std::map<std::uint32_t, std::unique_ptr<transport::Link>> links;
  for (const auto& [from, to] : links_of(route)) {
    if (from == device) links[to] = std::make_unique<NullLink>();
  }
  Node node(
      {.shape = shape, .route = route, .device = device, .device_names = {"head", "one", "two"}},
      executor, clock, std::move(links));
  node.set_waves(input.ConsumeBool());
  if (!node.open_links()) return;

  std::map<std::uint32_t, std::uint64_t> serials;  // the next of each sender
  std::vector<compute::Step> steps;
  for (int i = 0; i < kMaxEvents && input.remaining_bytes() > 0; ++i) {
    switch (input.ConsumeIntegralInRange(0, 7)) {
      case 0: {  // bytes
        transport::Message message{some_bytes(input, input.ConsumeIntegralInRange(0, 64)), {}};
        if (!node.accept(std::move(message))) return;
        break;
      }
      case 1: node.advance_epoch(input.ConsumeIntegralInRange<std::uint32_t>(0, 4)); break;
      case 2:  // only the head starts steps, and its engine makes them well
        if (device == kHead) {
          compute::Step step = some_step(input);
          if (!node.start(step, std::vector<float>(step.n_tokens() * kFakeEmbedding))) return;
        }
        break;
      case 3:
      case 4:
        if (node.ready() && !node.run_one()) return;
        while (node.take_returned()) {
        }
        break;
      default: {
        DataHeader header;
        header.session = input.ConsumeIntegralInRange(0, 15) == 0 ? 1 : kSession;
        header.epoch = input.ConsumeBool() ? node.epoch() : input.ConsumeIntegralInRange(0u, 4u);
        header.from = input.ConsumeIntegralInRange<std::uint32_t>(0, kDevices);
        header.hop = input.ConsumeIntegralInRange<std::uint32_t>(0, shape.n_hops + 1);
        std::uint64_t& next = serials[header.from];
        header.serial = input.ConsumeIntegralInRange(0, 15) == 0 ? next / 2 : next++;
        const int kind = input.ConsumeIntegralInRange(0, 3);
        if (kind == 0 && !steps.empty()) {
          header.step = steps[input.ConsumeIntegralInRange<std::size_t>(0, steps.size() - 1)];
        } else if (kind > 0) {
          header.step = steps.emplace_back(some_step(input));
        }
        header.waves = input.ConsumeBool();
        header.more = input.ConsumeBool();
        header.timings.resize(input.ConsumeIntegralInRange(0, 8));
        const std::uint32_t columns = header.step ? shape.columns(header.hop, *header.step) : 0;
        const std::size_t size = input.ConsumeIntegralInRange(0, 31) == 0
                                     ? input.ConsumeIntegralInRange<std::size_t>(0, 512)
                                     : shape.payload_bytes(columns);
        transport::Message message{encode(header, shape), {}};
        message.payload = transport::Payload::of(some_bytes(input, size));
        if (!node.accept(std::move(message))) return;
      }
    }
  }
}

ControlMessage some_control(FuzzedDataProvider& input) {
  const std::uint64_t session = input.ConsumeBool() ? kSession : 0;
  const auto number = [&] { return input.ConsumeIntegralInRange<std::uint32_t>(0, 4); };
  switch (input.ConsumeIntegralInRange(0, 9)) {
    case 0:
    case 1:
      return Hello{.protocol_version = kProtocolVersion + (number() == 4 ? 1 : 0),
                   .build = number() == 4 ? "other" : build_description(),
                   .member = number() + 1,
                   .name = "n" + std::to_string(number()),
                   .data_port = static_cast<std::uint16_t>(1 + number())};
    case 2: return Loading{session, number(), number()};
    case 3: return Loaded{session, {.weights = number()}};
    case 4: return LinkUp{session, number()};
    case 5:
      return Heartbeat{.session = session,
                       .epoch = number(),
                       .idle = input.ConsumeBool(),
                       .sent = {{number(), number(), number()}},
                       .received = {{number(), number(), number()}}};
    case 6: return Release{session, "bye"};
    case 7: return Failure{session, {ErrorCode::io, "broken", ""}};
    case 8: return StatusRequest{kProtocolVersion + (number() == 4 ? 1 : 0)};
    default: return Welcome{};  // no head is told this
  }
}

void drive_membership(FuzzedDataProvider& input) {
  const Route route = make_route(kLayers, kDevices, {}, 2, 0).value();
  Membership members(kDevices - 1, {});
  Instant now{};
  bool assigned = false;
  NodeProgress head;
  for (int i = 0; i < kMaxEvents && input.remaining_bytes() > 0; ++i) {
    switch (input.ConsumeIntegralInRange(0, 7)) {
      case 0:
        now += std::chrono::milliseconds(input.ConsumeIntegralInRange(0, 4000));
        head.idle = input.ConsumeBool();
        head.sent[1] = {1, input.ConsumeIntegral<std::uint8_t>(), 1000};
        head.received[2] = {2, input.ConsumeIntegral<std::uint8_t>(), 1000};
        members.tick(now, 1, head);
        break;
      case 1:
        if (!assigned && members.count(Member::State::waiting) == kDevices - 1) {
          assigned = true;
          const std::vector<std::string> names{"head", "one", "two"};
          std::vector<Membership::Assigned> assignments;
          for (const Member& member : members.members()) {
            if (member.state != Member::State::waiting) continue;
            const auto device = static_cast<std::uint32_t>(assignments.size() + 1);
            assignments.push_back(
                {member.id,
                 {.session = kSession, .device = device, .device_names = names, .route = route}});
          }
          members.assign(kSession, names, route, std::move(assignments));
        }
        break;
      case 2:
        if (assigned) members.head_heard_from(input.ConsumeIntegralInRange(0u, kDevices - 1));
        break;
      case 3:
        if (assigned) members.missing_links();
        if (input.ConsumeIntegralInRange(0, 7) == 0) {
          members.release("done");
          return;  // that is its end
        }
        break;
      default: {
        const std::string peer(1, static_cast<char>('a' + input.ConsumeIntegralInRange(0, 3)));
        for (const Outgoing& each :
             members.receive(peer, "192.168.1.2", some_control(input), now)) {
          if (!decode_control(encode(each.message))) std::abort();
        }
      }
    }
    const bool is_ready = !members.failure() && members.all_serving();
    if (is_ready && !members.missing_links().empty()) std::abort();
  }
}

}  // namespace
}  // namespace prima::ring

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider input(data, size);
  if (input.ConsumeBool()) {
    prima::ring::drive_node(input);
  } else {
    prima::ring::drive_membership(input);
  }
  return 0;
}
