// The network over sockets, on loopback.
#include "transport/network.h"

#include <cstring>
#include <numeric>

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/zmq_network.h"

namespace prima::transport {
namespace {

using std::chrono::seconds;

// Generous: the machine may be busy.
Instant soon() { return SystemClock().now() + seconds(20); }
Instant shortly() { return SystemClock().now() + std::chrono::milliseconds(300); }

DerivedKeys keys_of(unsigned char seed) {
  ClusterKey key;
  key.stretched.fill(seed);
  return derive_keys(key);
}

std::vector<std::byte> bytes_of(const std::string& text) {
  std::vector<std::byte> bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

class ZmqNetwork : public testing::Test {
 protected:
  void SetUp() override {
#ifdef __SANITIZE_THREAD__
    GTEST_SKIP() << "ZeroMQ is not instrumented, so what its queues order is taken for races";
#endif
  }
};

TEST(Endpoint, IsParsedWhole) {
  EXPECT_EQ(parse_endpoint("laptop:5000").value(), (Endpoint{"laptop", 5000}));
  for (const char* wrong : {"", "laptop", "laptop:", ":5000", "laptop:0", "laptop:65536", "a:1x"}) {
    EXPECT_EQ(parse_endpoint(wrong).error().code, ErrorCode::invalid_argument) << wrong;
  }
}

TEST_F(ZmqNetwork, CarriesMessagesInOrderBothWays) {
  const auto network = make_zmq_network(keys_of(1));
  const auto listener = network->listen(0).value();
  const auto link = network->connect({"127.0.0.1", listener->port()}).value();
  std::vector<float> values(300'000);  // more than one frame
  std::iota(values.begin(), values.end(), 0.0f);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(link->send({bytes_of("step " + std::to_string(i)), Payload::of(values)}));
  }
  for (int i = 0; i < 3; ++i) {
    const auto incoming = listener->receive(soon());
    ASSERT_TRUE(incoming);
    EXPECT_EQ(incoming->address, "127.0.0.1");
    EXPECT_EQ(incoming->message.header, bytes_of("step " + std::to_string(i)));
    ASSERT_EQ(incoming->message.payload.size(), values.size() * sizeof(float));
    std::vector<float> copy(values.size());
    incoming->message.payload.copy_to(std::as_writable_bytes(std::span(copy)));
    EXPECT_EQ(copy, values);
    ASSERT_TRUE(listener->send(incoming->peer, {bytes_of("thanks"), {}}));
  }
  EXPECT_EQ(link->receive(soon())->header, bytes_of("thanks"));
}

TEST_F(ZmqNetwork, EndsAWaitAtItsDeadlineOrWhenInterrupted) {
  const auto network = make_zmq_network(keys_of(1));
  const auto listener = network->listen(0).value();
  EXPECT_FALSE(listener->receive(SystemClock().now()));
  const auto thread = network->start_thread("interrupter", [&] { listener->interrupt(); });
  const Instant deadline = soon();
  EXPECT_FALSE(listener->receive(deadline));
  EXPECT_LT(SystemClock().now(), deadline);
}

TEST_F(ZmqNetwork, KeepsStrangersOut) {
  const auto network = make_zmq_network(keys_of(1));
  const auto stranger = make_zmq_network(keys_of(2));
  const auto listener = network->listen(0).value();
  const auto link = stranger->connect({"127.0.0.1", listener->port()}).value();
  ASSERT_TRUE(link->send({bytes_of("let me in"), {}}));
  EXPECT_FALSE(listener->receive(shortly()));

  // Knowing the listener's public key alone does not help either.
  DerivedKeys half = keys_of(2);
  half.listener.public_key = keys_of(1).listener.public_key;
  const auto intruder = make_zmq_network(half);
  const auto forced = intruder->connect({"127.0.0.1", listener->port()}).value();
  ASSERT_TRUE(forced->send({bytes_of("let me in"), {}}));
  EXPECT_FALSE(listener->receive(shortly()));
}

TEST_F(ZmqNetwork, OutlivesBytesThatAreNoMessage) {
  const auto network = make_zmq_network(keys_of(1));
  const auto listener = network->listen(0).value();
  // ZMTP's greeting, then a frame that claims 2^60 bytes.
  std::string greeting("\xff\0\0\0\0\0\0\0\1\x7f\3\0CURVE", 17);
  greeting.resize(64, '\0');
  const std::string frame("\x06\x10\0\0\0\0\0\0\0garbage", 16);
  for (const std::string& rubbish : {std::string(1000, 'x'), greeting + frame}) {
    const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(listener->port());
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    ASSERT_GT(::send(socket, rubbish.data(), rubbish.size(), MSG_NOSIGNAL), 0);
    EXPECT_FALSE(listener->receive(shortly()));
    ::close(socket);
  }
  const auto link = network->connect({"127.0.0.1", listener->port()}).value();
  ASSERT_TRUE(link->send({bytes_of("hello"), {}}));
  EXPECT_TRUE(listener->receive(soon()));
}

TEST_F(ZmqNetwork, SaysWhenAPeerIsGone) {
  const auto network = make_zmq_network(keys_of(1));
  const auto listener = network->listen(0).value();
  EXPECT_EQ(listener->send("nobody", {bytes_of("hello"), {}}).error().code, ErrorCode::unavailable);
  EXPECT_EQ(network->listen(listener->port()).error().code, ErrorCode::unavailable);
}

}  // namespace
}  // namespace prima::transport
