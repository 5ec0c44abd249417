// A stand-in for a GPU in tests: ggml's RPC device, served by a process of the test. It has memory
// of its own and real copies, so what works with it needs no CPU pointers.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <thread>

#include <arpa/inet.h>
#include <ggml-backend.h>
#include <ggml-rpc.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "compute/gpu.h"

namespace prima::compute {

inline int free_port() {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ::bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof address);
  socklen_t length = sizeof address;
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &length);
  ::close(socket);
  return ntohs(address.sin_port);
}

// A child process that serves the CPU as an RPC device; ended with the object.
class RpcServer {
 public:
  RpcServer() : port_(free_port()), endpoint_("127.0.0.1:" + std::to_string(port_)) {
    process_ = ::fork();
    if (process_ == 0) {
      ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
      if (::freopen("/dev/null", "w", stdout) == nullptr) ::_exit(1);
      ggml_backend_rpc_start_server(endpoint_.c_str(), nullptr, 1, 1, &cpu);
      ::_exit(1);
    }
  }
  ~RpcServer() {
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }

  // ggml ends the process where it can't connect, so it is asked only once the server listens.
  Status connect() const {
    for (int attempt = 0; attempt < 200 && !listens(); ++attempt) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return add_remote_gpus(endpoint_);
  }

 private:
  bool listens() const {
    const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<std::uint16_t>(port_));
    const bool connected =
        ::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    ::close(socket);
    return connected;
  }

  int port_;
  std::string endpoint_;
  pid_t process_ = -1;
};

// For testing::AddGlobalTestEnvironment: a server for all tests of a program.
class GpuStandIn : public testing::Environment {
 public:
  void SetUp() override {
    server_.emplace();  // before any thread of this process
    const Status connected = server_->connect();
    ASSERT_TRUE(connected) << connected.error().message();
  }
  void TearDown() override { server_.reset(); }

 private:
  std::optional<RpcServer> server_;
};

}  // namespace prima::compute
