#include "ring/link_probe.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace prima::ring {
namespace {

// A FlatBuffer begins with an offset that this is far too large for.
constexpr std::array<char, 8> kMagic{'p', 'r', 'i', 'm', 'a', '?', 0x7f, 0x7f};
constexpr std::size_t kHeaderBytes = kMagic.size() + sizeof(Bytes);
constexpr Bytes kMostAnswerBytes = 64 * kMiB;

// The first exchange makes the connection: two round trips of TCP and CURVE, and the neighbour may
// be about to finish something else.
constexpr Duration kConnectLimit = std::chrono::seconds(3);
constexpr Duration kAnswerLimit = std::chrono::seconds(5);

constexpr int kRoundTrips = 9;
// A transfer that takes this long says enough about the bandwidth; Wi-Fi varies over shorter times.
constexpr double kTransferSeconds = 0.15;
// Two transfers of each size: the first may find the connection's window still small.
constexpr int kTransfers = 2;

std::vector<std::byte> probe_header(Bytes answer_bytes) {
  std::vector<std::byte> header(kHeaderBytes);
  std::memcpy(header.data(), kMagic.data(), kMagic.size());
  std::memcpy(header.data() + kMagic.size(), &answer_bytes, sizeof(answer_bytes));
  return header;
}

class Prober {
 public:
  Prober(const Clock& clock, transport::Link& link) : clock_(clock), link_(link) {}

  // Seconds from sending `bytes` to the answer of `answer_bytes`.
  Result<double> exchange(Bytes bytes, Bytes answer_bytes, Duration limit) {
    transport::Message message{probe_header(answer_bytes), {}};
    if (bytes > 0) message.payload = transport::Payload::of(std::vector<std::byte>(bytes));
    const Instant start = clock_.now();
    PRIMA_RETURN_IF_ERROR(link_.send(std::move(message)));
    if (!link_.receive(start + limit)) {
      return fail(ErrorCode::unavailable, "no answer came",
                  "Check that a firewall lets these devices reach each other");
    }
    return seconds(clock_.now() - start);
  }

  Result<double> median_round_trip(Bytes bytes) {
    std::vector<double> times;
    for (int i = 0; i < kRoundTrips; ++i) {
      PRIMA_ASSIGN_OR_RETURN(times.emplace_back(), exchange(bytes, bytes, kAnswerLimit));
    }
    std::nth_element(times.begin(), times.begin() + kRoundTrips / 2, times.end());
    return times[kRoundTrips / 2];
  }

  Result<double> least_transfer(Bytes there, Bytes back) {
    double least = 0;
    for (int i = 0; i < kTransfers; ++i) {
      PRIMA_ASSIGN_OR_RETURN(const double taken, exchange(there, back, kAnswerLimit));
      least = i == 0 ? taken : std::min(least, taken);
    }
    return least;
  }

 private:
  const Clock& clock_;
  transport::Link& link_;
};

}  // namespace

bool is_probe(const transport::Message& message) {
  return message.header.size() == kHeaderBytes &&
         std::memcmp(message.header.data(), kMagic.data(), kMagic.size()) == 0;
}

void answer_probe(transport::Listener& listener, const transport::Incoming& incoming) {
  Bytes bytes = 0;
  std::memcpy(&bytes, incoming.message.header.data() + kMagic.size(), sizeof(bytes));
  if (bytes > kMostAnswerBytes) return;
  transport::Message answer{probe_header(0), {}};
  if (bytes > 0) answer.payload = transport::Payload::of(std::vector<std::byte>(bytes));
  // Whoever asked and is gone needs no answer.
  static_cast<void>(listener.send(incoming.peer, std::move(answer)));
}

Result<profile::LinkProfile> measure_link(transport::Network& network,
                                          const transport::Endpoint& to, Bytes step_bytes,
                                          Bytes most_bytes) {
  PRIMA_ASSIGN_OR_RETURN(const auto link, network.connect(to));
  Prober prober(network.clock(), *link);
  PRIMA_RETURN_IF_ERROR(prober.exchange(0, 0, kConnectLimit));
  PRIMA_ASSIGN_OR_RETURN(const double round_trip, prober.median_round_trip(step_bytes));

  // A size whose transfer stands out from the latency, no larger than steps are.
  Bytes large = std::min(most_bytes, 4 * step_bytes);
  double there = 0;
  while (true) {
    PRIMA_ASSIGN_OR_RETURN(there, prober.least_transfer(large, 0));
    if (there >= kTransferSeconds || large >= most_bytes) break;
    large = std::min(most_bytes, 4 * large);
  }
  PRIMA_ASSIGN_OR_RETURN(const double back, prober.least_transfer(0, large));

  const auto small_size = static_cast<double>(step_bytes);
  const auto large_size = static_cast<double>(large);
  // Seconds per byte, both ways together. Where a link is too fast to tell, what was seen of the
  // whole transfers is still true.
  const double whole = (there + back) / large_size;
  double per_byte = large_size > 2 * small_size
                        ? (there + back - 2 * round_trip) / (large_size - 2 * small_size)
                        : whole;
  if (per_byte <= 0 || per_byte > whole) per_byte = whole;
  const double latency = std::max(0.0, round_trip - small_size * per_byte);
  const auto rate = [&](double taken) {
    const double moving = taken - latency;
    return large_size / (moving > 0 ? moving : taken);
  };
  return profile::LinkProfile{latency, rate(there), rate(back), false};
}

}  // namespace prima::ring
