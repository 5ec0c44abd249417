#include <algorithm>
#include <array>
#include <cstdlib>

#include <winsock2.h>
#include <ws2tcpip.h>

#include "server/client_socket.h"

namespace prima::server {

namespace {

// For what a client still sends when it has its answer.
constexpr Duration kDrainLimit = std::chrono::milliseconds(100);
constexpr std::size_t kMostDrained = 1 << 20;

SocketAddress printed(const sockaddr_storage& address, int length) {
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  if (::getnameinfo(reinterpret_cast<const sockaddr*>(&address), length, host.data(),
                    static_cast<DWORD>(host.size()), port.data(), static_cast<DWORD>(port.size()),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return {};
  }
  return {host.data(), std::atoi(port.data())};
}

}  // namespace

bool wait_for(socket_t socket, SocketEvent event, Duration limit) {
  WSAPOLLFD entry{
      .fd = socket,
      .events = static_cast<SHORT>(event == SocketEvent::readable ? POLLRDNORM : POLLWRNORM),
      .revents = 0};
  const auto wait = std::chrono::ceil<std::chrono::milliseconds>(std::max(limit, Duration{}));
  return ::WSAPoll(&entry, 1, static_cast<INT>(wait.count())) > 0;
}

bool is_open(socket_t socket) {
  if (!wait_for(socket, SocketEvent::readable, Duration{})) return true;
  char next = 0;
  return ::recv(socket, &next, 1, MSG_PEEK) > 0;
}

SocketAddress remote_address(socket_t socket) {
  sockaddr_storage address{};
  int length = sizeof address;
  if (::getpeername(socket, reinterpret_cast<sockaddr*>(&address), &length) != 0) return {};
  return printed(address, length);
}

SocketAddress local_address(socket_t socket) {
  sockaddr_storage address{};
  int length = sizeof address;
  if (::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &length) != 0) return {};
  return printed(address, length);
}

void close_gently(socket_t socket) {
  ::shutdown(socket, SD_SEND);
  std::array<char, 16384> dropped;
  const Instant end = SystemClock().now() + kDrainLimit;
  for (std::size_t drained = 0; drained < kMostDrained;) {
    const Duration left = end - SystemClock().now();
    if (left <= Duration{} || !wait_for(socket, SocketEvent::readable, left)) break;
    const int n = ::recv(socket, dropped.data(), static_cast<int>(dropped.size()), 0);
    if (n <= 0) break;
    drained += static_cast<std::size_t>(n);
  }
  ::shutdown(socket, SD_BOTH);
  ::closesocket(socket);
}

}  // namespace prima::server
