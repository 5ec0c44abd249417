#include "ring/messages.h"

#include <random>

#include <gtest/gtest.h>

#include "ring/hidden_payload.h"

namespace prima::ring {
namespace {

SessionShape some_shape() {
  return {.session = 99,
          .n_devices = 3,
          .n_hops = 4,
          .n_embd = 64,
          .n_ctx = 128,
          .max_tokens = 8,
          .link_type = GGML_TYPE_F32};
}

DataHeader some_header() {
  DataHeader header;
  header.session = 99;
  header.epoch = 2;
  header.from = 1;
  header.serial = 7;
  header.hop = 3;
  header.step = compute::Step{.id = 5,
                              .kv_operations = {{compute::KvOperation::Kind::copy, 1, 2, 0, 9}},
                              .sequences = {0, 1, 1},
                              .positions = {4, 9, 10},
                              .cells = {3, 17, 127},
                              .n_kv = 128,
                              .outputs = {0, 2}};
  header.timings = {{.hop = 0,
                     .waiting = Duration(10),
                     .reading = Duration(30),
                     .computing = Duration(20),
                     .sending = Duration(40)}};
  header.waves = true;
  header.more = true;
  return header;
}

Assignment some_assignment() {
  Assignment assignment;
  assignment.session = 99;
  assignment.device = 1;
  assignment.device_names = {"head", "laptop"};
  assignment.route = {{{0, 0, {0, 2}}, {1, 0, {2, 4}}}};
  assignment.neighbours = {{0, "", 5000}};
  assignment.model_identity = ModelIdentity(kModelIdentityBytes, 3);
  assignment.model_name = "model";
  assignment.n_layer = 4;
  assignment.n_embd = 64;
  assignment.n_ctx = 128;
  assignment.max_tokens = 8;
  return assignment;
}

bool is_refused(const ControlMessage& message) {
  const auto decoded = decode_control(encode(message));
  return !decoded && decoded.error().code == ErrorCode::corrupt;
}

TEST(ControlMessages, SurviveTheWire) {
  const auto hello =
      decode_control(encode(Hello{.build = "b", .member = 7, .name = "n", .data_port = 3})).value();
  EXPECT_EQ(std::get<Hello>(hello).member, 7u);
  const auto decoded = decode_control(encode(some_assignment())).value();
  const auto& assignment = std::get<Assignment>(decoded);
  EXPECT_EQ(assignment.route, some_assignment().route);
  EXPECT_EQ(assignment.device_names[1], "laptop");
  EXPECT_EQ(assignment.model_identity, some_assignment().model_identity);
  const auto failure =
      decode_control(encode(Failure{4, {ErrorCode::io, "disk", "replace it"}})).value();
  EXPECT_EQ(std::get<Failure>(failure).error.remedy, "replace it");
  Assignment shared = some_assignment();
  shared.share = {.memory = kAllInMemory,
                  .slot_bytes = 7,
                  .gpus = {{"GPU0", {{2, 4}}, true}},
                  .prompt_room = compute::GpuRoom{"GPU1", 9}};
  const auto with_share = decode_control(encode(shared)).value();
  const DeviceShare& share = std::get<Assignment>(with_share).share;
  EXPECT_EQ(share.memory, kAllInMemory);
  EXPECT_EQ(share.slot_bytes, 7u);
  ASSERT_EQ(share.gpus.size(), 1u);
  EXPECT_EQ(share.gpus[0].layers[0], (compute::LayerRange{2, 4}));
  EXPECT_TRUE(share.gpus[0].output_layer);
  ASSERT_TRUE(share.prompt_room);
  EXPECT_EQ(share.prompt_room->name, "GPU1");
  EXPECT_EQ(share.prompt_room->memory, 9u);
  EXPECT_FALSE(assignment.share.prompt_room);
  const auto request = decode_control(encode(ProfileRequest{ModelIdentity(kModelIdentityBytes, 3),
                                                            "m", 128, GGML_TYPE_Q8_0}))
                           .value();
  EXPECT_EQ(std::get<ProfileRequest>(request).kv_type, GGML_TYPE_Q8_0);
  const auto profile = decode_control(encode(ProfileReply{"{}", std::nullopt})).value();
  EXPECT_EQ(std::get<ProfileReply>(profile).profile, "{}");
  const auto none =
      decode_control(encode(ProfileReply{"", Error{ErrorCode::io, "disk", ""}})).value();
  EXPECT_EQ(std::get<ProfileReply>(none).error->what, "disk");
  const auto ask = decode_control(encode(LinkRequest{{1, "a", 5}, 16, 32})).value();
  EXPECT_EQ(std::get<LinkRequest>(ask).most_bytes, 32u);
  const auto link =
      decode_control(encode(LinkReply{1, profile::LinkProfile{0.1, 2, 5, false}})).value();
  EXPECT_EQ(std::get<LinkReply>(link).link->backward_bytes_per_second, 5);
  EXPECT_FALSE(std::get<LinkReply>(decode_control(encode(LinkReply{1, {}})).value()).link);
  Heartbeat heartbeat{.session = 1, .epoch = 2, .idle = true, .sent = {{1, 2, 3}}, .received = {}};
  const auto beat = decode_control(encode(heartbeat)).value();
  EXPECT_EQ(std::get<Heartbeat>(beat).sent[0].bytes, 3u);
  const compute::ExecutorMemory memory{
      .weights = 1, .kv_cache = 2, .compute_buffers = 3, .gpu = 4, .slots = 5, .streamed = 6};
  const auto loaded = decode_control(encode(Loaded{4, memory})).value();
  EXPECT_EQ(std::get<Loaded>(loaded).memory.gpu, 4u);
  EXPECT_EQ(std::get<Loaded>(loaded).memory.slots, 5u);
  EXPECT_EQ(std::get<Loaded>(loaded).memory.streamed, 6u);
}

TEST(ControlMessages, CutTextsThatAreTooLong) {
  const std::string text(5000, 'x');
  Assignment assignment = some_assignment();
  assignment.device_names[1] = text;
  assignment.model_name = text;
  EXPECT_FALSE(is_refused(assignment));
  EXPECT_FALSE(is_refused(Hello{.build = "b", .member = 7, .name = text, .data_port = 3}));
  EXPECT_FALSE(is_refused(Failure{4, {ErrorCode::io, text, text}}));
  EXPECT_FALSE(is_refused(Release{4, text}));
}

TEST(ControlMessages, AreRefusedWhereTheyCannotBe) {
  EXPECT_FALSE(is_refused(some_assignment()));
  const auto refused = [](auto change) {
    Assignment assignment = some_assignment();
    change(assignment);
    return is_refused(assignment);
  };
  EXPECT_TRUE(refused([](Assignment& a) { a.device = 0; }));
  EXPECT_TRUE(refused([](Assignment& a) { a.device = 2; }));
  EXPECT_TRUE(refused([](Assignment& a) { a.route.hops[1].layers.last = 5; }));
  EXPECT_TRUE(refused([](Assignment& a) { a.route.hops[1].layers.first = 1; }));
  EXPECT_TRUE(refused([](Assignment& a) { a.route.hops[1].device = 7; }));
  EXPECT_TRUE(refused([](Assignment& a) { a.route.hops.clear(); }));
  EXPECT_TRUE(refused([](Assignment& a) { a.neighbours[0].device = 2; }));
  EXPECT_TRUE(refused([](Assignment& a) { a.neighbours[0].port = 0; }));
  EXPECT_TRUE(refused([](Assignment& a) { a.model_identity.pop_back(); }));
  EXPECT_TRUE(refused([](Assignment& a) { a.n_embd = 0; }));
  EXPECT_TRUE(refused([](Assignment& a) { a.max_tokens = 129; }));
  EXPECT_TRUE(refused([](Assignment& a) { a.kv_type = GGML_TYPE_Q4_K; }));
  EXPECT_TRUE(refused([](Assignment& a) { a.link_type = GGML_TYPE_Q4_0; }));
  EXPECT_TRUE(refused([](Assignment& a) { a.share.gpus = {{"GPU", {{2, 5}}, false}}; }));
  EXPECT_TRUE(refused([](Assignment& a) { a.share.gpus.resize(17); }));
  EXPECT_TRUE(is_refused(ProfileRequest{ModelIdentity(5), "model", 128, GGML_TYPE_F16}));
  EXPECT_TRUE(is_refused(ProfileReply{std::string(100'000, 'x'), std::nullopt}));
  EXPECT_TRUE(is_refused(LinkRequest{{1, "", 0}, 16, 32}));
  EXPECT_TRUE(is_refused(LinkRequest{{1, "", 5}, 64, 32}));
  EXPECT_TRUE(is_refused(LinkReply{1, profile::LinkProfile{0.1, 0, 5, false}}));
  EXPECT_TRUE(refused([](Assignment& a) { a.device_names.resize(kMaxDevices + 1, "x"); }));
  EXPECT_TRUE(is_refused(Hello{.build = "b", .member = 0, .name = "n", .data_port = 3}));
  EXPECT_TRUE(is_refused(Loading{1, 5, 4}));
  EXPECT_TRUE(is_refused(Welcome{}));
  EXPECT_TRUE(is_refused(LinkUp{1, kMaxDevices}));
}

TEST(DataMessages, SurviveTheWire) {
  const SessionShape shape = some_shape();
  const DataHeader header = some_header();
  const auto decoded = decode_data(encode(header, shape), shape.payload_bytes(3), shape).value();
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->step, header.step);
  EXPECT_EQ(decoded->serial, 7u);
  EXPECT_EQ(decoded->timings[0].waiting, Duration(10));
  EXPECT_EQ(decoded->timings[0].reading, Duration(30));
  EXPECT_EQ(decoded->timings[0].computing, Duration(20));
  EXPECT_EQ(decoded->timings[0].sending, Duration(40));
  EXPECT_TRUE(decoded->waves && decoded->more);
  // At the end of the way only outputs are left.
  DataHeader last = header;
  last.hop = 4;
  EXPECT_TRUE(decode_data(encode(last, shape), shape.payload_bytes(2), shape).value());
}

TEST(DataMessages, OfOtherSessionsAreNotErrors) {
  DataHeader header = some_header();
  header.session = 98;
  EXPECT_FALSE(decode_data(encode(header, some_shape()), 0, some_shape()).value());
}

TEST(DataMessages, AreRefusedWhereTheyCannotBe) {
  const SessionShape shape = some_shape();
  const auto refused = [&](auto change) {
    DataHeader header = some_header();
    change(header);
    return !decode_data(encode(header, shape), shape.payload_bytes(3), shape);
  };
  EXPECT_FALSE(refused([](DataHeader&) {}));
  EXPECT_TRUE(refused([](DataHeader& h) { h.from = 3; }));
  EXPECT_TRUE(refused([](DataHeader& h) { h.hop = 5; }));
  EXPECT_TRUE(refused([](DataHeader& h) { h.hop = 4; }));  // 2 outputs, 3 columns
  EXPECT_TRUE(refused([](DataHeader& h) { h.step.reset(); }));
  EXPECT_TRUE(refused([](DataHeader& h) { h.step->positions.pop_back(); }));
  EXPECT_TRUE(refused([](DataHeader& h) { h.step->positions[1] = -1; }));
  EXPECT_TRUE(refused([](DataHeader& h) { h.step->sequences[0] = 64; }));
  EXPECT_TRUE(refused([](DataHeader& h) { h.step->cells[0] = 128; }));
  EXPECT_TRUE(refused([](DataHeader& h) { h.step->n_kv = 129; }));
  EXPECT_TRUE(refused([](DataHeader& h) { h.step->outputs = {2, 0}; }));
  EXPECT_TRUE(refused([](DataHeader& h) { h.step->outputs = {0, 3}; }));
  EXPECT_TRUE(refused([](DataHeader& h) { h.step->outputs = {1, 1}; }));
  EXPECT_TRUE(refused([](DataHeader& h) { h.step->kv_operations[0].from = 10; }));
  EXPECT_TRUE(refused([](DataHeader& h) { h.step->kv_operations[0].target = -1; }));
  EXPECT_TRUE(refused([](DataHeader& h) { h.timings[0].hop = 4; }));
  EXPECT_FALSE(decode_data(encode(some_header(), shape), shape.payload_bytes(3) + 4, shape));
}

// The fuzzers do this for longer; this much runs in every build, sanitizers included.
TEST(Messages, SurviveDamage) {
  std::mt19937 random(5);
  const std::vector<std::vector<std::byte>> whole{encode(some_assignment()),
                                                  encode(some_header(), some_shape())};
  for (int i = 0; i < 20'000; ++i) {
    std::vector<std::byte> bytes = whole[static_cast<std::size_t>(i % 2)];
    for (std::uint32_t n = random() % 4; n > 0; --n) {
      bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    }
    if (random() % 4 == 0) bytes.resize(random() % bytes.size());
    const auto control = decode_control(bytes);
    if (control) {
      EXPECT_TRUE(decode_control(encode(*control)));
    }
    const auto data = decode_data(bytes, some_shape().payload_bytes(3), some_shape());
    if (data && *data && (*data)->step) {
      EXPECT_LE((*data)->step->n_tokens(), some_shape().max_tokens);
    }
  }
}

TEST(HiddenPayload, KeepsWhatItsTypeKeeps) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> hidden(64 * 3);
  for (float& value : hidden) value = normal(random);
  for (const auto& [type, tolerance] :
       {std::pair{GGML_TYPE_F32, 0.0f}, {GGML_TYPE_F16, 2e-3f}, {GGML_TYPE_Q8_0, 2e-2f}}) {
    SessionShape shape = some_shape();
    shape.link_type = type;
    const auto payload = pack_hidden(hidden, type, 64);
    ASSERT_EQ(payload.size(), shape.payload_bytes(3)) << ggml_type_name(type);
    const std::vector<float> back = unpack_hidden(payload, type, 64, 3);
    for (std::size_t i = 0; i < hidden.size(); ++i) {
      EXPECT_NEAR(back[i], hidden[i], tolerance) << ggml_type_name(type);
    }
  }
}

}  // namespace
}  // namespace prima::ring
