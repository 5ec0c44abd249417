#include "transport/lan_rendezvous.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <string_view>
#include <thread>

#include <asio.hpp>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include "transport/lan_announcement.h"

namespace prima::transport {
namespace {

using asio::ip::address_v4;
using asio::ip::udp;

// Of the organization-local scope (RFC 2365), which routers at the edge of a home do not pass on.
const address_v4 kGroup({239, 192, 77, 7});
constexpr std::uint16_t kPort = 47707;

constexpr auto kAnnounceInterval = std::chrono::seconds(1);
// Whoever hears of a head acts at once; a head that fell silent has most likely finished.
constexpr auto kForgetAfter = std::chrono::milliseconds(1500);

// This device's addresses on networks that take multicast.
std::set<address_v4> own_addresses() {
  std::set<address_v4> addresses;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return addresses;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != AF_INET ||
        (entry->ifa_flags & IFF_UP) == 0 || (entry->ifa_flags & IFF_MULTICAST) == 0 ||
        (entry->ifa_flags & IFF_LOOPBACK) != 0) {
      continue;
    }
    const auto* const address = reinterpret_cast<const sockaddr_in*>(entry->ifa_addr);
    addresses.insert(address_v4(ntohl(address->sin_addr.s_addr)));
  }
  ::freeifaddrs(list);
  return addresses;
}

class LanAnnouncer {
 public:
  LanAnnouncer(const Key& key, std::uint16_t port)
      : announcement_(make_lan_announcement(key, port)), socket_(io_, udp::v4()), timer_(io_) {
    announce();
    thread_ = std::thread([this] { io_.run(); });
  }
  ~LanAnnouncer() {
    io_.stop();
    thread_.join();
  }
  LanAnnouncer(const LanAnnouncer&) = delete;
  LanAnnouncer& operator=(const LanAnnouncer&) = delete;

 private:
  void announce() {
    // Asked anew each time: Wi-Fi comes and goes. What can't be sent now is sent in a second.
    for (const address_v4& address : own_addresses()) {
      asio::error_code error;
      socket_.set_option(asio::ip::multicast::outbound_interface(address), error);
      if (!error) socket_.send_to(asio::buffer(announcement_), {kGroup, kPort}, 0, error);
    }
    timer_.expires_after(kAnnounceInterval);
    timer_.async_wait([this](const asio::error_code& error) {
      if (!error) announce();
    });
  }

  const LanAnnouncement announcement_;
  asio::io_context io_;
  udp::socket socket_;
  asio::steady_timer timer_;
  std::thread thread_;
};

class AsioLanListener final : public LanListener {
 public:
  explicit AsioLanListener(const Key& key) : key_(key), socket_(io_), timer_(io_) {
    socket_.open(udp::v4());
    socket_.set_option(udp::socket::reuse_address(true));  // several workers on one device
    socket_.bind({address_v4::any(), kPort});
    join_groups();
    receive();
    thread_ = std::thread([this] { io_.run(); });
  }
  ~AsioLanListener() override {
    io_.stop();
    thread_.join();
  }

  std::vector<Endpoint> heads() override {
    const std::lock_guard lock(mutex_);
    std::erase_if(heard_, [now = std::chrono::steady_clock::now()](const auto& head) {
      return now - head.second > kForgetAfter;
    });
    std::vector<Endpoint> heads;
    for (const auto& [endpoint, when] : heard_) heads.push_back(endpoint);
    return heads;
  }

 private:
  void join_groups() {
    for (const address_v4& address : own_addresses()) {
      if (joined_.contains(address)) continue;
      asio::error_code error;
      socket_.set_option(asio::ip::multicast::join_group(kGroup, address), error);
      if (!error) joined_.insert(address);
    }
    timer_.expires_after(kAnnounceInterval);
    timer_.async_wait([this](const asio::error_code& error) {
      if (!error) join_groups();
    });
  }

  void receive() {
    socket_.async_receive_from(asio::buffer(buffer_), sender_,
                               [this](const asio::error_code& error, std::size_t size) {
                                 if (error == asio::error::operation_aborted) return;
                                 if (!error) hear(size);
                                 receive();
                               });
  }

  void hear(std::size_t size) {
    const auto port = announced_port(key_, std::span(buffer_).first(size));
    if (!port) return;
    const std::lock_guard lock(mutex_);
    heard_[{sender_.address().to_string(), *port}] = std::chrono::steady_clock::now();
  }

  const Key key_;
  asio::io_context io_;
  udp::socket socket_;
  asio::steady_timer timer_;
  udp::endpoint sender_;
  std::array<unsigned char, 64> buffer_{};
  std::set<address_v4> joined_;
  std::mutex mutex_;
  std::map<Endpoint, std::chrono::steady_clock::time_point> heard_;
  std::thread thread_;
};

tl::unexpected<Error> no_network(const std::exception& error) {
  return fail(ErrorCode::unavailable,
              std::string("Devices on the local network can't be found: ") + error.what(),
              "Name the head with --head HOST:PORT");
}

}  // namespace

bool lan_is_wanted() {
  const char* const wanted = std::getenv("PRIMA_LAN");
  return wanted == nullptr || std::string_view(wanted) != "off";
}

bool is_this_device(const std::string& address) {
  asio::error_code error;
  const address_v4 parsed = asio::ip::make_address_v4(address, error);
  return !error && own_addresses().contains(parsed);
}

Result<std::shared_ptr<void>> announce_on_lan(const Key& key, std::uint16_t port) {
  try {
    return std::make_shared<LanAnnouncer>(key, port);
  } catch (const std::exception& error) {
    return no_network(error);
  }
}

Result<std::unique_ptr<LanListener>> LanListener::create(const Key& key) {
  try {
    return std::make_unique<AsioLanListener>(key);
  } catch (const std::exception& error) {
    return no_network(error);
  }
}

}  // namespace prima::transport
