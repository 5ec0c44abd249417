// The control part of messages.h.
#include <cmath>
#include <type_traits>

#include "wire_generated.h"

#include "ring/messages.h"

namespace prima::ring {
namespace {

constexpr std::size_t kMaxControlBytes = 128 * 1024;  // an assignment of kMaxHops is 82 KB
constexpr std::uint32_t kMaxDepth = 8;
constexpr std::uint32_t kMaxTables = 4 * kMaxDevices;
constexpr std::size_t kMaxNameBytes = 256;
constexpr std::size_t kMaxTextBytes = 4096;  // of error messages
constexpr std::size_t kMaxHops = 4096;
constexpr std::uint32_t kMaxEmbedding = 1u << 20;
constexpr std::uint32_t kMaxContext = 1u << 30;
constexpr std::size_t kMaxProfileBytes = 96 * 1024;
constexpr std::size_t kMaxGpus = 16;
constexpr std::size_t kMaxGpuWindows = 64;  // of one GPU
constexpr Bytes kMaxProbeBytes = 64 * kMiB;

tl::unexpected<Error> malformed(const std::string& what) {
  return fail(ErrorCode::corrupt, "A control message is malformed: " + what);
}

// ---- To the wire ----

// What is longer is cut, or the receiver would refuse the whole message for a name.
std::string name_of(const std::string& name) { return name.substr(0, kMaxNameBytes); }

wire::LayerRange to_wire(compute::LayerRange range) { return {range.first, range.last}; }
std::unique_ptr<wire::MemoryT> to_wire(const compute::ExecutorMemory& memory) {
  auto t = std::make_unique<wire::MemoryT>();
  t->weights = memory.weights;
  t->kv_cache = memory.kv_cache;
  t->compute_buffers = memory.compute_buffers;
  t->gpu = memory.gpu;
  t->slots = memory.slots;
  t->streamed = memory.streamed;
  t->budget = memory.budget;
  t->program = memory.program;
  return t;
}
std::vector<std::unique_ptr<wire::LinkCountT>> to_wire(const std::vector<LinkCount>& counts) {
  std::vector<std::unique_ptr<wire::LinkCountT>> tables;
  for (const LinkCount& count : counts) {
    auto t = std::make_unique<wire::LinkCountT>();
    t->device = count.device;
    t->messages = count.messages;
    t->bytes = count.bytes;
    tables.push_back(std::move(t));
  }
  return tables;
}
wire::HelloT to_wire(const Hello& m) {
  wire::HelloT t;
  t.protocol_version = m.protocol_version;
  t.build = m.build;
  t.member = m.member;
  t.name = name_of(m.name);
  t.data_port = m.data_port;
  return t;
}
wire::WelcomeT to_wire(const Welcome& m) {
  wire::WelcomeT t;
  t.heartbeat_interval_ms = static_cast<std::uint32_t>(m.heartbeat_interval.count());
  t.heartbeat_timeout_ms = static_cast<std::uint32_t>(m.heartbeat_timeout.count());
  return t;
}
template <typename Table>
void put_error(Table& table, const Error& error) {
  table.code = static_cast<std::uint8_t>(error.code);
  table.what = error.what.substr(0, kMaxTextBytes);
  table.remedy = error.remedy.substr(0, kMaxTextBytes);
}
wire::RefusalT to_wire(const Refusal& m) {
  wire::RefusalT t;
  put_error(t, m.error);
  return t;
}
wire::AssignmentT to_wire(const Assignment& m) {
  wire::AssignmentT t;
  t.session = m.session;
  t.device = m.device;
  for (const std::string& name : m.device_names) t.device_names.push_back(name_of(name));
  for (const Hop& hop : m.route.hops)
    t.hops.emplace_back(hop.device, hop.round, to_wire(hop.layers));
  for (const Neighbour& neighbour : m.neighbours) {
    auto n = std::make_unique<wire::NeighbourT>();
    n->device = neighbour.device;
    n->host = neighbour.host;
    n->port = neighbour.port;
    t.neighbours.push_back(std::move(n));
  }
  t.model_identity = m.model_identity;
  t.model_name = name_of(m.model_name);
  t.n_layer = m.n_layer;
  t.n_embd = m.n_embd;
  t.n_ctx = m.n_ctx;
  t.max_tokens = m.max_tokens;
  t.kv_type = static_cast<std::uint32_t>(m.kv_type);
  t.link_type = static_cast<std::uint32_t>(m.link_type);
  t.repack = m.repack;
  t.memory = m.share.memory.value_or(0);
  t.slot_bytes = m.share.slot_bytes.value_or(0);
  for (const compute::GpuPlacement& placement : m.share.gpus) {
    auto gpu = std::make_unique<wire::GpuPlacementT>();
    gpu->device = placement.device;
    for (const compute::LayerRange& layers : placement.layers) {
      gpu->layers.push_back(to_wire(layers));
    }
    gpu->output_layer = placement.output_layer;
    t.gpus.push_back(std::move(gpu));
  }
  if (m.share.prompt_room) {
    t.prompt_gpu = m.share.prompt_room->name;
    t.prompt_memory = m.share.prompt_room->memory;
  }
  return t;
}
wire::ProfileRequestT to_wire(const ProfileRequest& m) {
  wire::ProfileRequestT t;
  t.model_identity = m.model_identity;
  t.model_name = m.model_name;
  t.n_ctx = m.n_ctx;
  t.kv_type = static_cast<std::uint32_t>(m.kv_type);
  return t;
}
wire::ProfileReplyT to_wire(const ProfileReply& m) {
  wire::ProfileReplyT t;
  t.profile = m.profile;
  if (m.error) put_error(t, *m.error);
  return t;
}
wire::LinkRequestT to_wire(const LinkRequest& m) {
  wire::LinkRequestT t;
  t.neighbour = std::make_unique<wire::NeighbourT>();
  t.neighbour->device = m.neighbour.device;
  t.neighbour->host = m.neighbour.host;
  t.neighbour->port = m.neighbour.port;
  t.step_bytes = m.step_bytes;
  t.most_bytes = m.most_bytes;
  return t;
}
wire::LinkReplyT to_wire(const LinkReply& m) {
  wire::LinkReplyT t;
  t.device = m.device;
  t.round_trip_seconds = m.link ? m.link->round_trip_seconds : -1;
  if (m.link) {
    t.forward_bytes_per_second = m.link->forward_bytes_per_second;
    t.backward_bytes_per_second = m.link->backward_bytes_per_second;
  }
  return t;
}
wire::LoadingT to_wire(const Loading& m) {
  wire::LoadingT t;
  t.session = m.session;
  t.done = m.done;
  t.total = m.total;
  return t;
}
wire::LoadedT to_wire(const Loaded& m) {
  wire::LoadedT t;
  t.session = m.session;
  t.memory = to_wire(m.memory);
  return t;
}
wire::LinkUpT to_wire(const LinkUp& m) {
  wire::LinkUpT t;
  t.session = m.session;
  t.from = m.from;
  return t;
}
wire::HeartbeatT to_wire(const Heartbeat& m) {
  wire::HeartbeatT t;
  t.session = m.session;
  t.epoch = m.epoch;
  t.idle = m.idle;
  t.sent = to_wire(m.sent);
  t.received = to_wire(m.received);
  return t;
}
wire::ReleaseT to_wire(const Release& m) {
  wire::ReleaseT t;
  t.session = m.session;
  t.reason = m.reason.substr(0, kMaxTextBytes);
  return t;
}
wire::FailureT to_wire(const Failure& m) {
  wire::FailureT t;
  t.session = m.session;
  put_error(t, m.error);
  return t;
}
wire::StatusRequestT to_wire(const StatusRequest& m) {
  wire::StatusRequestT t;
  t.protocol_version = m.protocol_version;
  return t;
}
wire::StatusReplyT to_wire(const StatusReply& m) {
  wire::StatusReplyT t;
  t.model_name = name_of(m.model_name);
  t.rounds = m.ring.rounds;
  t.max_steps_in_flight = m.ring.max_steps_in_flight;
  t.steps_finished = m.steps_finished;
  t.tokens_per_second = m.tokens_per_second;
  for (const DeviceDescription& device : m.ring.devices) {
    auto d = std::make_unique<wire::DeviceStatusT>();
    d->name = name_of(device.name);
    d->address = device.address;
    d->state = device.state;
    for (const compute::LayerRange& window : device.windows) d->windows.push_back(to_wire(window));
    d->memory = to_wire(device.memory);
    t.devices.push_back(std::move(d));
  }
  return t;
}

// ---- From the wire; structure has been verified ----

compute::LayerRange from_wire(const wire::LayerRange& range) {
  return {range.first(), range.last()};
}
compute::ExecutorMemory from_wire(const std::unique_ptr<wire::MemoryT>& memory) {
  if (!memory) return {};
  return {.weights = memory->weights,
          .kv_cache = memory->kv_cache,
          .compute_buffers = memory->compute_buffers,
          .gpu = memory->gpu,
          .slots = memory->slots,
          .streamed = memory->streamed,
          .budget = memory->budget,
          .program = memory->program};
}
Result<ControlMessage> from_wire(const wire::HelloT& t) {
  if (t.member == 0) return malformed("a device has no number");
  if (t.build.size() > kMaxNameBytes || t.name.empty() || t.name.size() > kMaxNameBytes) {
    return malformed("a device's name or build is empty or too long");
  }
  if (t.data_port == 0) return malformed("a device has no port");
  return Hello{t.protocol_version, t.build, t.member, t.name, t.data_port};
}
Result<ControlMessage> from_wire(const wire::WelcomeT& t) {
  constexpr std::uint32_t kMaxMilliseconds = 3'600'000;
  if (t.heartbeat_interval_ms == 0 || t.heartbeat_timeout_ms < t.heartbeat_interval_ms ||
      t.heartbeat_timeout_ms > kMaxMilliseconds) {
    return malformed("heartbeat times that cannot be");
  }
  return Welcome{std::chrono::milliseconds(t.heartbeat_interval_ms),
                 std::chrono::milliseconds(t.heartbeat_timeout_ms)};
}
template <typename Table>
Result<Error> error_of(const Table& table) {
  if (table.code > static_cast<std::uint8_t>(ErrorCode::internal)) return malformed("error code");
  if (table.what.size() > kMaxTextBytes || table.remedy.size() > kMaxTextBytes) {
    return malformed("a text is too long");
  }
  return Error{static_cast<ErrorCode>(table.code), table.what, table.remedy};
}
Result<ControlMessage> from_wire(const wire::RefusalT& t) {
  PRIMA_ASSIGN_OR_RETURN(Error error, error_of(t));
  return Refusal{std::move(error)};
}
Result<ControlMessage> from_wire(const wire::AssignmentT& t) {
  Assignment m;
  m.session = t.session;
  m.device = t.device;
  const auto n_devices = static_cast<std::uint32_t>(t.device_names.size());
  if (t.session == 0) return malformed("an assignment has no session");
  if (n_devices > kMaxDevices || t.device == kHead || t.device >= n_devices) {
    return malformed("an assignment names a place outside the ring");
  }
  for (const std::string& name : t.device_names) {
    if (name.empty() || name.size() > kMaxNameBytes) return malformed("a device's name");
  }
  m.device_names = t.device_names;
  if (t.hops.size() > kMaxHops) return malformed("too many hops");
  for (const wire::Hop& hop : t.hops) {
    m.route.hops.push_back({hop.device(), hop.round(), from_wire(hop.layers())});
  }
  PRIMA_RETURN_IF_ERROR(check_route(m.route, t.n_layer, n_devices));
  for (const auto& neighbour : t.neighbours) {
    if (!neighbour || neighbour->device >= n_devices || neighbour->device == t.device ||
        neighbour->port == 0 || neighbour->host.size() > kMaxNameBytes) {
      return malformed("a neighbour cannot be");
    }
    m.neighbours.push_back({neighbour->device, neighbour->host, neighbour->port});
  }
  if (t.model_identity.size() != kModelIdentityBytes) return malformed("a model's identity");
  if (t.model_name.size() > kMaxNameBytes) return malformed("a model's name is too long");
  m.model_identity = t.model_identity;
  m.model_name = t.model_name;
  if (t.n_embd == 0 || t.n_embd > kMaxEmbedding || t.n_ctx == 0 || t.n_ctx > kMaxContext ||
      t.max_tokens == 0 || t.max_tokens > t.n_ctx) {
    return malformed("sizes that cannot be");
  }
  m.n_layer = t.n_layer;
  m.n_embd = t.n_embd;
  m.n_ctx = t.n_ctx;
  m.max_tokens = t.max_tokens;
  if (t.kv_type != GGML_TYPE_F16 && t.kv_type != GGML_TYPE_Q8_0) return malformed("KV type");
  m.kv_type = static_cast<ggml_type>(t.kv_type);
  if (t.link_type >= GGML_TYPE_COUNT ||
      !is_link_type(static_cast<ggml_type>(t.link_type), t.n_embd)) {
    return malformed("link type");
  }
  m.link_type = static_cast<ggml_type>(t.link_type);
  m.repack = t.repack;
  if (t.memory > 0) m.share.memory = t.memory;
  if (t.slot_bytes > 0) m.share.slot_bytes = t.slot_bytes;
  if (t.gpus.size() > kMaxGpus) return malformed("too many GPUs");
  for (const auto& gpu : t.gpus) {
    if (!gpu || gpu->device.size() > kMaxNameBytes || gpu->layers.size() > kMaxGpuWindows) {
      return malformed("a GPU's layers");
    }
    compute::GpuPlacement placement{.device = gpu->device, .output_layer = gpu->output_layer};
    for (const wire::LayerRange& layers : gpu->layers) {
      placement.layers.push_back(from_wire(layers));
      if (placement.layers.back().first >= placement.layers.back().last ||
          placement.layers.back().last > t.n_layer) {
        return malformed("a GPU's layers");
      }
    }
    m.share.gpus.push_back(std::move(placement));
  }
  if (t.prompt_gpu.size() > kMaxNameBytes) return malformed("a GPU's name is too long");
  if (!t.prompt_gpu.empty()) m.share.prompt_room = {t.prompt_gpu, t.prompt_memory};
  return m;
}
Result<ControlMessage> from_wire(const wire::ProfileRequestT& t) {
  if (t.model_identity.size() != kModelIdentityBytes) return malformed("a model's identity");
  if (t.model_name.size() > kMaxNameBytes) return malformed("a model's name is too long");
  if (t.n_ctx == 0 || t.n_ctx > kMaxContext) return malformed("sizes that cannot be");
  if (t.kv_type != GGML_TYPE_F16 && t.kv_type != GGML_TYPE_Q8_0) return malformed("KV type");
  return ProfileRequest{t.model_identity, t.model_name, t.n_ctx, static_cast<ggml_type>(t.kv_type)};
}
Result<ControlMessage> from_wire(const wire::ProfileReplyT& t) {
  if (t.profile.size() > kMaxProfileBytes) return malformed("a profile is too long");
  if (!t.profile.empty()) return ProfileReply{t.profile, std::nullopt};
  PRIMA_ASSIGN_OR_RETURN(Error error, error_of(t));
  return ProfileReply{"", std::move(error)};
}
Result<ControlMessage> from_wire(const wire::LinkRequestT& t) {
  if (!t.neighbour || t.neighbour->device >= kMaxDevices || t.neighbour->port == 0 ||
      t.neighbour->host.size() > kMaxNameBytes) {
    return malformed("a neighbour cannot be");
  }
  if (t.step_bytes == 0 || t.most_bytes < t.step_bytes || t.most_bytes > kMaxProbeBytes) {
    return malformed("sizes that cannot be");
  }
  return LinkRequest{
      {t.neighbour->device, t.neighbour->host, t.neighbour->port}, t.step_bytes, t.most_bytes};
}
Result<ControlMessage> from_wire(const wire::LinkReplyT& t) {
  if (t.device >= kMaxDevices) return malformed("a link to no device");
  if (t.round_trip_seconds < 0) return LinkReply{t.device, std::nullopt};
  const auto is_rate = [](double rate) { return std::isfinite(rate) && rate > 0; };
  if (!std::isfinite(t.round_trip_seconds) || !is_rate(t.forward_bytes_per_second) ||
      !is_rate(t.backward_bytes_per_second)) {
    return malformed("a link's speed");
  }
  return LinkReply{t.device, profile::LinkProfile{t.round_trip_seconds, t.forward_bytes_per_second,
                                                  t.backward_bytes_per_second, false}};
}
Result<ControlMessage> from_wire(const wire::LoadingT& t) {
  if (t.done > t.total) return malformed("more loaded than there is");
  return Loading{t.session, t.done, t.total};
}
Result<ControlMessage> from_wire(const wire::LoadedT& t) {
  return Loaded{t.session, from_wire(t.memory)};
}
Result<ControlMessage> from_wire(const wire::LinkUpT& t) {
  if (t.from >= kMaxDevices) return malformed("a link from no device");
  return LinkUp{t.session, t.from};
}
Result<std::vector<LinkCount>> from_wire(
    const std::vector<std::unique_ptr<wire::LinkCountT>>& counts) {
  if (counts.size() > kMaxDevices) return malformed("too many links");
  std::vector<LinkCount> result;
  for (const auto& count : counts) {
    if (!count || count->device >= kMaxDevices) return malformed("a link to no device");
    result.push_back({count->device, count->messages, count->bytes});
  }
  return result;
}
Result<ControlMessage> from_wire(const wire::HeartbeatT& t) {
  Heartbeat m{.session = t.session, .epoch = t.epoch, .idle = t.idle, .sent = {}, .received = {}};
  PRIMA_ASSIGN_OR_RETURN(m.sent, from_wire(t.sent));
  PRIMA_ASSIGN_OR_RETURN(m.received, from_wire(t.received));
  return m;
}
Result<ControlMessage> from_wire(const wire::ReleaseT& t) {
  if (t.reason.size() > kMaxTextBytes) return malformed("a text is too long");
  return Release{t.session, t.reason};
}
Result<ControlMessage> from_wire(const wire::FailureT& t) {
  PRIMA_ASSIGN_OR_RETURN(Error error, error_of(t));
  return Failure{t.session, std::move(error)};
}
Result<ControlMessage> from_wire(const wire::StatusRequestT& t) {
  return StatusRequest{t.protocol_version};
}
Result<ControlMessage> from_wire(const wire::StatusReplyT& t) {
  if (t.devices.size() > kMaxDevices || t.model_name.size() > kMaxNameBytes) {
    return malformed("a status is too long");
  }
  StatusReply m{
      .model_name = t.model_name,
      .ring = {.devices = {}, .rounds = t.rounds, .max_steps_in_flight = t.max_steps_in_flight},
      .steps_finished = t.steps_finished,
      .tokens_per_second = t.tokens_per_second};
  for (const auto& device : t.devices) {
    if (!device || device->windows.size() > kMaxHops || device->name.size() > kMaxNameBytes ||
        device->address.size() > kMaxNameBytes || device->state.size() > kMaxNameBytes) {
      return malformed("a device of a status");
    }
    DeviceDescription d{
        device->name, device->address, device->state, {}, from_wire(device->memory)};
    for (const wire::LayerRange& window : device->windows) d.windows.push_back(from_wire(window));
    m.ring.devices.push_back(std::move(d));
  }
  return m;
}

}  // namespace

std::string build_description() {
  return std::string("prima ") + PRIMA_VERSION + " with ggml " + ggml_version();
}

std::vector<std::byte> encode(const ControlMessage& message) {
  wire::ControlT control;
  std::visit([&](const auto& m) { control.body.Set(to_wire(m)); }, message);
  flatbuffers::FlatBufferBuilder builder;
  builder.Finish(wire::Control::Pack(builder, &control));
  const auto* const bytes = reinterpret_cast<const std::byte*>(builder.GetBufferPointer());
  return {bytes, bytes + builder.GetSize()};
}

Result<ControlMessage> decode_control(std::span<const std::byte> bytes) {
  const auto* const data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  if (bytes.size() > kMaxControlBytes) return malformed("it is too long");
  flatbuffers::Verifier verifier(data, bytes.size(), kMaxDepth, kMaxTables);
  if (!verifier.VerifyBuffer<wire::Control>(nullptr)) return malformed("its structure");
  // Offsets may share what they point to, so a short message can unpack to a long one: strings are
  // counted first, tables were by the verifier.
  const auto* const assignment = flatbuffers::GetRoot<wire::Control>(data)->body_as_Assignment();
  if (assignment && assignment->device_names() &&
      assignment->device_names()->size() > kMaxDevices) {
    return malformed("too many devices");
  }
  wire::ControlT control;
  flatbuffers::GetRoot<wire::Control>(data)->UnPackTo(&control);
  switch (control.body.type) {
    case wire::ControlBody::Hello: return from_wire(*control.body.AsHello());
    case wire::ControlBody::Welcome: return from_wire(*control.body.AsWelcome());
    case wire::ControlBody::Refusal: return from_wire(*control.body.AsRefusal());
    case wire::ControlBody::Assignment: return from_wire(*control.body.AsAssignment());
    case wire::ControlBody::Loading: return from_wire(*control.body.AsLoading());
    case wire::ControlBody::Loaded: return from_wire(*control.body.AsLoaded());
    case wire::ControlBody::LinkUp: return from_wire(*control.body.AsLinkUp());
    case wire::ControlBody::Heartbeat: return from_wire(*control.body.AsHeartbeat());
    case wire::ControlBody::Release: return from_wire(*control.body.AsRelease());
    case wire::ControlBody::Failure: return from_wire(*control.body.AsFailure());
    case wire::ControlBody::StatusRequest: return from_wire(*control.body.AsStatusRequest());
    case wire::ControlBody::StatusReply: return from_wire(*control.body.AsStatusReply());
    case wire::ControlBody::ProfileRequest: return from_wire(*control.body.AsProfileRequest());
    case wire::ControlBody::ProfileReply: return from_wire(*control.body.AsProfileReply());
    case wire::ControlBody::LinkRequest: return from_wire(*control.body.AsLinkRequest());
    case wire::ControlBody::LinkReply: return from_wire(*control.body.AsLinkReply());
    case wire::ControlBody::NONE: break;
  }
  return malformed("its kind is unknown");
}

}  // namespace prima::ring
