// What nodes say to each other, as the program sees it. wire.fbs is how it is written down.
//
// decode_* verify structure and then meaning: sizes against shapes, indices against what they
// index. What they return can be used without another look; what they refuse has touched nothing.
//
// Value types; the functions are thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include <ggml.h>

#include "base/clock.h"
#include "base/result.h"
#include "compute/executor.h"
#include "compute/step.h"
#include "profile/device_profile.h"
#include "ring/ring.h"
#include "ring/route.h"

namespace prima::ring {

// Raised with every change that an older build would misread.
inline constexpr std::uint32_t kProtocolVersion = 2;

// ggml's kernels and their rounding come with the build, so both ends must be the same.
std::string build_description();

using ModelIdentity = std::vector<std::uint8_t>;  // 32 bytes; see model_identity.h
inline constexpr std::size_t kModelIdentityBytes = 32;

// ---- Control -----------------------------------------------------------------------------------

struct Hello {
  std::uint32_t protocol_version = kProtocolVersion;
  std::string build;
  std::uint64_t member = 0;
  std::string name;
  std::uint16_t data_port = 0;
};

struct Welcome {
  std::chrono::milliseconds heartbeat_interval{};
  std::chrono::milliseconds heartbeat_timeout{};
};

struct Refusal {
  Error error;
};

struct Neighbour {
  std::uint32_t device = 0;
  std::string host;  // empty: the host on which the head runs
  std::uint16_t port = 0;
};

struct Assignment {
  std::uint64_t session = 0;
  std::uint32_t device = 0;
  std::vector<std::string> device_names;
  Route route;
  std::vector<Neighbour> neighbours;
  ModelIdentity model_identity;
  std::string model_name;
  std::uint32_t n_layer = 0;
  std::uint32_t n_embd = 0;
  std::uint32_t n_ctx = 0;
  std::uint32_t max_tokens = 0;
  ggml_type kv_type = GGML_TYPE_F16;
  ggml_type link_type = GGML_TYPE_F32;
  bool repack = true;
  DeviceShare share;
};

// What a planner asks of a worker that waits.
struct ProfileRequest {
  ModelIdentity model_identity;
  std::string model_name;
  std::uint32_t n_ctx = 0;
  ggml_type kv_type = GGML_TYPE_F16;
};

struct ProfileReply {
  std::string profile;         // profile/device_profile_json.h
  std::optional<Error> error;  // why there is none
};

struct LinkRequest {
  Neighbour neighbour;
  Bytes step_bytes = 0;  // of one token's hidden state
  Bytes most_bytes = 0;  // of the largest step
};

struct LinkReply {
  std::uint32_t device = 0;
  std::optional<profile::LinkProfile> link;  // absent: it can't be reached
};

struct Loading {
  std::uint64_t session = 0;
  Bytes done = 0;
  Bytes total = 0;
};

struct Loaded {
  std::uint64_t session = 0;
  compute::ExecutorMemory memory;
};

struct LinkUp {
  std::uint64_t session = 0;
  std::uint32_t from = 0;
};

struct LinkCount {
  std::uint32_t device = 0;
  std::uint64_t messages = 0;
  Bytes bytes = 0;
};

struct Heartbeat {
  std::uint64_t session = 0;
  std::uint32_t epoch = 0;
  bool idle = false;
  std::vector<LinkCount> sent;
  std::vector<LinkCount> received;
};

struct Release {
  std::uint64_t session = 0;
  std::string reason;
};

struct Failure {
  std::uint64_t session = 0;
  Error error;
};

struct StatusRequest {
  std::uint32_t protocol_version = kProtocolVersion;
};

struct StatusReply {
  std::string model_name;
  RingDescription ring;
  std::uint64_t steps_finished = 0;
  double tokens_per_second = 0;
};

using ControlMessage = std::variant<Hello, Welcome, Refusal, Assignment, Loading, Loaded, LinkUp,
                                    Heartbeat, Release, Failure, StatusRequest, StatusReply,
                                    ProfileRequest, ProfileReply, LinkRequest, LinkReply>;

std::vector<std::byte> encode(const ControlMessage& message);
Result<ControlMessage> decode_control(std::span<const std::byte> bytes);

// ---- Data --------------------------------------------------------------------------------------

struct HopRecord {
  std::uint32_t hop = 0;
  Duration waiting{};
  Duration reading{};
  Duration computing{};
  Duration sending{};
};

struct DataHeader {
  std::uint64_t session = 0;
  std::uint32_t epoch = 0;
  std::uint32_t from = 0;
  std::uint64_t serial = 0;
  std::uint32_t hop = 0;
  std::optional<compute::Step> step;  // absent: the message only opens its link
  std::vector<HopRecord> timings;     // of the hops passed
  bool waves = false;                 // the session's steps travel in waves
  bool more = false;                  // another of the wave follows through this hop
};

// What the devices of a session have agreed on.
struct SessionShape {
  std::uint64_t session = 0;
  std::uint32_t n_devices = 0;
  std::uint32_t n_hops = 0;
  std::uint32_t n_embd = 0;
  std::uint32_t n_ctx = 0;
  std::uint32_t max_tokens = 0;
  ggml_type link_type = GGML_TYPE_F32;

  // The hidden state's columns on arrival at a hop: after the last layer only outputs are left.
  std::uint32_t columns(std::uint32_t hop, const compute::Step& step) const;
  Bytes payload_bytes(std::uint32_t columns) const;
};

std::vector<std::byte> encode(const DataHeader& header, const SessionShape& shape);

// nullopt: well-formed, but of another session. Fails with corrupt.
Result<std::optional<DataHeader>> decode_data(std::span<const std::byte> bytes, Bytes payload_bytes,
                                              const SessionShape& shape);

// Types a hidden state may have on a link.
bool is_link_type(ggml_type type, std::uint32_t n_embd);

}  // namespace prima::ring
