#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <memory>
#include <new>
#include <string>

#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "text/trial.h"

namespace prima::text {

namespace {

constexpr const char* kRemedy = "Do not use it: it is broken, or meant to do harm";

// What the child sends: how the work ended, then the error's two texts, a zero byte between them.
enum Ending : unsigned char { kDone = 0, kFailed = 1 };

// Address space that this process has filled already; 0 where the system does not say.
Bytes data_bytes() {
  std::ifstream statm("/proc/self/statm");
  Bytes pages = 0;
  for (int field = 0; field < 6; ++field) {
    if (!(statm >> pages)) return 0;
  }
  return pages * static_cast<Bytes>(sysconf(_SC_PAGESIZE));
}

void set_limit(int resource, Bytes value) {
  rlimit limit{};
  getrlimit(resource, &limit);
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, value);
  setrlimit(resource, &limit);
}

void send(int descriptor, const std::string& message) {
  std::size_t sent = 0;
  while (sent < message.size()) {
    const ssize_t n = ::write(descriptor, message.data() + sent, message.size() - sent);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    sent += static_cast<std::size_t>(n);
  }
}

[[noreturn]] void be_the_child(int descriptor, int standard_error,
                               const std::function<Status()>& work, const TrialLimits& limits,
                               Bytes data) {
  ::dup2(standard_error, STDERR_FILENO);
  std::signal(SIGINT, SIG_IGN);  // the parent's answer to Ctrl-C is enough
  // No crash handler of the parent's, no core file, and an end even if the parent is killed.
  for (const int signal : {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGPIPE}) std::signal(signal, SIG_DFL);
  set_limit(RLIMIT_CORE, 0);
  set_limit(RLIMIT_CPU, static_cast<Bytes>(seconds(limits.time)) + 1);
  if (data > 0) set_limit(RLIMIT_DATA, data + limits.memory);
  std::set_new_handler([] { ::_exit(1); });  // some code goes on after a bad_alloc

  std::string message(1, static_cast<char>(kDone));
  try {
    if (const Status status = work(); !status) {
      message[0] = static_cast<char>(kFailed);
      message += status.error().what + '\0' + status.error().remedy;
    }
  } catch (const std::exception& error) {
    message = std::string(1, static_cast<char>(kFailed)) + error.what() + '\0';
  }
  send(descriptor, message);
  ::_exit(0);
}

// Until the child closes its end: false if that takes too long.
bool receive(int descriptor, Duration limit, std::string& message) {
  const SystemClock clock;
  const Instant deadline = clock.now() + limit;
  std::array<char, 4096> buffer;
  for (;;) {
    const Duration left = deadline - clock.now();
    if (left <= Duration::zero()) return false;
    pollfd wanted{descriptor, POLLIN, 0};
    const int ready = ::poll(&wanted, 1, static_cast<int>(seconds(left) * 1e3) + 1);
    if (ready < 0 && errno != EINTR) return false;
    if (ready <= 0) continue;
    const ssize_t n = ::read(descriptor, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return true;
    message.append(buffer.data(), static_cast<std::size_t>(n));
  }
}

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

std::string content(std::FILE* file) {
  constexpr std::size_t kEnough = 1 << 16;
  std::string text(kEnough, '\0');
  std::rewind(file);
  text.resize(std::fread(text.data(), 1, text.size(), file));
  return text;
}

}  // namespace

Status try_in_child(const char* what, const std::function<Status()>& work,
                    const TrialLimits& limits, std::string* said) {
  int ends[2];
  const File standard_error(std::tmpfile());
  if (!standard_error || ::pipe(ends) != 0) {
    return fail(ErrorCode::resource_exhausted,
                std::string("no file to try ") + what + " with: " + std::strerror(errno));
  }
  const Bytes data = data_bytes();
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[0]);
    be_the_child(ends[1], ::fileno(standard_error.get()), work, limits, data);
  }
  ::close(ends[1]);
  if (child < 0) {
    const int number = errno;
    ::close(ends[0]);
    return fail(ErrorCode::resource_exhausted,
                std::string("no process to try ") + what + " in: " + std::strerror(number));
  }
  std::string message;
  const bool ended = receive(ends[0], limits.time, message);
  ::close(ends[0]);
  ::kill(child, SIGKILL);  // it has ended or must
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (said != nullptr) *said = content(standard_error.get());
  if (!ended) {
    return fail(ErrorCode::invalid_argument, std::string(what) + " takes too long to read",
                kRemedy);
  }
  if (message.empty()) {
    return fail(ErrorCode::invalid_argument,
                std::string(what) + " crashes the program that reads it, or fills its memory",
                kRemedy);
  }
  if (message[0] == static_cast<char>(kDone)) return {};
  const std::size_t end = std::min(message.find('\0', 1), message.size());
  std::string remedy = end < message.size() ? message.substr(end + 1) : "";
  return fail(ErrorCode::invalid_argument, message.substr(1, end - 1), std::move(remedy));
}

}  // namespace prima::text
