// A network switch in user space that makes links slow, unsteady and unreliable, for kernels
// without netem: every frame is late by its link's delay and a random jitter, some are lost, frames
// that share a medium wait for its time, and a port can be cut off.
//
//     lab_relay < commands
//
// Commands, one a line; those of the first block end with `start`, the others may come at any time.
// The end of the input ends the relay, so that it does not outlive the lab.
//
//     port NAME INTERFACE                      a device is behind this interface
//     link FROM TO DELAY_US JITTER_US LOSS_PPM MEDIUM BYTES_PER_SECOND
//                                              MEDIUM 0: none, then the last figure is not used
//     outage PORT FIRST_MS EVERY_MS FOR_MS     nothing passes, again and again
//     start                                    answered with "ready"
//     cut PORT                                 nothing passes any more
//     restore PORT
//     quit                                     answered with the counts of frames
//
// Frames on one link never overtake each other: TCP would take that for loss. The delay counts from
// the kernel's time stamp of the arrival, so that the relay's own waiting for the processor is not
// added to it.
//
// One thread.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <iostream>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace {

using Nanoseconds = std::int64_t;
using Address = std::array<std::uint8_t, 6>;  // Ethernet

// Before each frame stands a struct virtio_net_hdr, which says what of checksums and segmentation
// is left to the receiver. (linux/virtio_net.h is no C++.) The relay passes it on as it is.
constexpr std::size_t kOffloadHeader = 10;

// With segmentation left to the receiver a frame is as long as an IP packet may be.
constexpr std::size_t kLargestFrame = 65536 + 128;

// A link that is this far behind drops what comes, as a router with a full buffer does.
constexpr Nanoseconds kLongestQueue = 500'000'000;

Nanoseconds now(clockid_t clock = CLOCK_MONOTONIC) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return Nanoseconds{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "lab_relay: %s\n", what.c_str());
  std::exit(1);
}

struct Port {
  std::string name;
  int socket = -1;
  bool cut = false;
  Nanoseconds outage_first = 0;
  Nanoseconds outage_every = 0;  // 0: none
  Nanoseconds outage_for = 0;

  bool passes(Nanoseconds since_start) const {
    if (cut) return false;
    if (outage_every == 0 || since_start < outage_first) return true;
    return (since_start - outage_first) % outage_every >= outage_for;
  }
};

struct Link {
  Nanoseconds delay = 0;
  Nanoseconds jitter = 0;
  std::uint32_t loss_ppm = 0;
  std::uint32_t medium = 0;
  double bytes_per_second = 0;
  Nanoseconds last_delivery = 0;
};

struct Frame {
  Nanoseconds due = 0;
  std::uint64_t number = 0;  // of equal times, the first to arrive leaves first
  std::size_t to = 0;
  std::shared_ptr<const std::vector<char>> bytes;  // offload header, then the frame
};

struct LaterFirst {
  bool operator()(const Frame& a, const Frame& b) const {
    return a.due != b.due ? a.due > b.due : a.number > b.number;
  }
};

class Relay {
 public:
  // Returns false at the end of the relay's life.
  bool command(const std::string& line) {
    std::istringstream words(line);
    std::string verb;
    words >> verb;
    if (verb.empty() || verb.front() == '#') return true;
    if (verb == "port") {
      std::string name, interface;
      words >> name >> interface;
      add_port(name, interface);
    } else if (verb == "link") {
      std::string from, to;
      Nanoseconds delay_us = 0, jitter_us = 0;
      Link link;
      words >> from >> to >> delay_us >> jitter_us >> link.loss_ppm >> link.medium >>
          link.bytes_per_second;
      link.delay = delay_us * 1000;
      link.jitter = jitter_us * 1000;
      links_[{port(from), port(to)}] = link;
    } else if (verb == "outage") {
      std::string name;
      Nanoseconds first_ms = 0, every_ms = 0, for_ms = 0;
      words >> name >> first_ms >> every_ms >> for_ms;
      Port& outage = ports_[port(name)];
      outage.outage_first = first_ms * 1'000'000;
      outage.outage_every = every_ms * 1'000'000;
      outage.outage_for = for_ms * 1'000'000;
    } else if (verb == "cut" || verb == "restore") {
      std::string name;
      words >> name;
      ports_[port(name)].cut = verb == "cut";
    } else if (verb == "start") {
      start_ = now();
      std::puts("ready");
      std::fflush(stdout);
    } else if (verb == "quit") {
      std::printf(
          "delivered %llu lost %llu dropped %llu\n", static_cast<unsigned long long>(delivered_),
          static_cast<unsigned long long>(lost_), static_cast<unsigned long long>(dropped_));
      return false;
    } else {
      fail("unknown command '" + line + "'");
    }
    if (words.fail()) fail("can't read '" + line + "'");
    return true;
  }

  void run() {
    while (true) {
      deliver_due();
      std::vector<pollfd> waiting{{STDIN_FILENO, POLLIN, 0}};
      for (const Port& port : ports_) waiting.push_back({port.socket, POLLIN, 0});
      timespec timeout{};
      const Nanoseconds wait =
          queue_.empty() ? 0 : std::max<Nanoseconds>(0, queue_.top().due - now());
      timeout.tv_sec = wait / 1'000'000'000;
      timeout.tv_nsec = wait % 1'000'000'000;
      const int ready =
          ::ppoll(waiting.data(), waiting.size(), queue_.empty() ? nullptr : &timeout, nullptr);
      if (ready < 0 && errno != EINTR) fail(std::string("ppoll: ") + std::strerror(errno));
      if (ready <= 0) continue;
      for (std::size_t i = 0; i < ports_.size(); ++i) {
        if (waiting[i + 1].revents != 0) receive(i);
      }
      if (waiting[0].revents != 0 && !read_commands()) return;
    }
  }

 private:
  void add_port(const std::string& name, const std::string& interface) {
    const int fd = ::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) fail(std::string("a packet socket: ") + std::strerror(errno));
    const unsigned index = ::if_nametoindex(interface.c_str());
    const auto set = [&](int level, int option, const auto& value) {
      if (::setsockopt(fd, level, option, &value, sizeof value) != 0) {
        fail("option " + std::to_string(option) + " of " + interface + ": " + std::strerror(errno));
      }
    };
    const int on = 1;
    const int buffer = 8 << 20;
    set(SOL_PACKET, PACKET_VNET_HDR, on);
    set(SOL_PACKET, PACKET_IGNORE_OUTGOING, on);
    set(SOL_SOCKET, SO_TIMESTAMPNS, on);
    set(SOL_SOCKET, SO_RCVBUFFORCE, buffer);
    packet_mreq promiscuous{};
    promiscuous.mr_ifindex = static_cast<int>(index);
    promiscuous.mr_type = PACKET_MR_PROMISC;
    set(SOL_PACKET, PACKET_ADD_MEMBERSHIP, promiscuous);
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(index);
    if (::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      fail(interface + ": " + std::strerror(errno));
    }
    Port& port = ports_.emplace_back();
    port.name = name;
    port.socket = fd;
  }

  std::size_t port(const std::string& name) const {
    for (std::size_t i = 0; i < ports_.size(); ++i) {
      if (ports_[i].name == name) return i;
    }
    fail("no port is called '" + name + "'");
  }

  bool read_commands() {
    char buffer[4096];
    const ssize_t count = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (count <= 0) return false;
    input_.append(buffer, static_cast<std::size_t>(count));
    for (std::size_t end = 0; (end = input_.find('\n')) != std::string::npos;) {
      const std::string line = input_.substr(0, end);
      input_.erase(0, end + 1);
      if (!command(line)) return false;
    }
    return true;
  }

  void receive(std::size_t from) {
    // A burst at a time, so that one busy port does not hold up what is due.
    for (int i = 0; i < 32; ++i) {
      iovec part{buffer_.data(), buffer_.size()};
      alignas(cmsghdr) char control[CMSG_SPACE(sizeof(timespec))];
      msghdr message{};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      const ssize_t length = ::recvmsg(ports_[from].socket, &message, 0);
      if (length < static_cast<ssize_t>(kOffloadHeader + sizeof(ether_header))) return;
      forward(from,
              std::make_shared<const std::vector<char>>(buffer_.begin(), buffer_.begin() + length),
              arrival(message));
    }
  }

  static Nanoseconds arrival(msghdr& message) {
    for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
         part = CMSG_NXTHDR(&message, part)) {
      if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SO_TIMESTAMPNS) continue;
      timespec time{};
      std::memcpy(&time, CMSG_DATA(part), sizeof time);
      const Nanoseconds stamp = Nanoseconds{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
      return now() - std::clamp<Nanoseconds>(now(CLOCK_REALTIME) - stamp, 0, 1'000'000'000);
    }
    return now();
  }

  void forward(std::size_t from, std::shared_ptr<const std::vector<char>> bytes,
               Nanoseconds arrived) {
    const char* ethernet = bytes->data() + kOffloadHeader;
    Address to{}, sender{};
    std::memcpy(to.data(), ethernet, to.size());
    std::memcpy(sender.data(), ethernet + to.size(), sender.size());
    known_[sender] = from;
    const bool to_one = (to[0] & 1) == 0;
    const auto known = to_one ? known_.find(to) : known_.end();
    for (std::size_t port = 0; port < ports_.size(); ++port) {
      if (port == from || (known != known_.end() && known->second != port)) continue;
      enqueue(from, port, bytes, arrived);
    }
  }

  void enqueue(std::size_t from, std::size_t to, std::shared_ptr<const std::vector<char>> bytes,
               Nanoseconds arrived) {
    Link& link = links_[{from, to}];
    if (!ports_[from].passes(arrived - start_) || !ports_[to].passes(arrived - start_) ||
        (link.loss_ppm > 0 && random_(generator_) * 1e6 < link.loss_ppm)) {
      ++lost_;
      return;
    }
    Nanoseconds sent = arrived;
    if (link.medium != 0) {
      Nanoseconds& free_at = medium_free_at_[link.medium];
      if (free_at - arrived > kLongestQueue) {
        ++dropped_;
        return;
      }
      free_at = std::max(free_at, arrived) +
                static_cast<Nanoseconds>(1e9 * static_cast<double>(bytes->size()) /
                                         link.bytes_per_second);
      sent = free_at;
    }
    const auto jitter =
        static_cast<Nanoseconds>(random_(generator_) * static_cast<double>(link.jitter));
    link.last_delivery = std::max(link.last_delivery, sent + link.delay + jitter);
    queue_.push(Frame{link.last_delivery, ++frames_, to, std::move(bytes)});
  }

  void deliver_due() {
    while (!queue_.empty() && queue_.top().due <= now()) {
      const Frame& frame = queue_.top();
      // A device whose link is slower than what comes loses frames at its queue, as it would
      // anywhere.
      if (::send(ports_[frame.to].socket, frame.bytes->data(), frame.bytes->size(), 0) < 0) {
        ++dropped_;
      } else {
        ++delivered_;
      }
      queue_.pop();
    }
  }

  std::vector<Port> ports_;
  std::map<std::pair<std::size_t, std::size_t>, Link> links_;
  std::map<std::uint32_t, Nanoseconds> medium_free_at_;
  std::map<Address, std::size_t> known_;  // behind which port an address is
  std::priority_queue<Frame, std::vector<Frame>, LaterFirst> queue_;
  std::mt19937_64 generator_{std::random_device{}()};
  std::uniform_real_distribution<double> random_{0, 1};
  std::string input_;
  std::vector<char> buffer_ = std::vector<char>(kOffloadHeader + kLargestFrame);
  Nanoseconds start_ = 0;
  std::uint64_t frames_ = 0;
  std::uint64_t delivered_ = 0;
  std::uint64_t lost_ = 0;     // by design: loss and outages
  std::uint64_t dropped_ = 0;  // queues that were full
};

}  // namespace

int main() {
  Relay relay;
  relay.run();
}
