// For tests: a child process with its output in a file. Killed, at the latest, when destroyed.
#pragma once

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

namespace prima {

inline std::string read_file(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class Process {
 public:
  using Seconds = std::chrono::duration<double>;

  Process(const std::vector<std::string>& arguments, std::filesystem::path output)
      : output_(std::move(output)) {
    // Emptied here, not in the child: what an older process wrote there must not speak for this one
    // until the child gets to run.
    const int out = ::open(output_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    const pid_t parent = ::getpid();
    std::vector<char*> argv;
    for (const std::string& argument : arguments)
      argv.push_back(const_cast<char*>(argument.data()));
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      end_with(parent);
      const int in = ::open("/dev/null", O_RDONLY);
      ::dup2(in, STDIN_FILENO);
      ::dup2(out, STDOUT_FILENO);
      ::dup2(out, STDERR_FILENO);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    ::close(out);
  }
  ~Process() {
    if (!status_) {
      send(SIGCONT);
      send(SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  void send(int signal) const { ::kill(pid_, signal); }
  std::string output() const { return read_file(output_); }

  // The exit status (128 + the signal that ended it), or nullopt if it still runs then.
  std::optional<int> wait(Seconds limit) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    while (!status_) {
      int status = 0;
      if (::waitpid(pid_, &status, WNOHANG) == pid_) {
        status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      } else if (std::chrono::steady_clock::now() >= deadline) {
        return std::nullopt;
      } else {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
    }
    return status_;
  }

  // Whether the output has `text` at least `times` times before the limit.
  bool says(const std::string& text, Seconds limit, int times = 1) const {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    while (true) {
      const std::string all = output();
      int found = 0;
      for (auto at = all.find(text); at != std::string::npos; at = all.find(text, at + 1)) ++found;
      if (found >= times) return true;
      if (std::chrono::steady_clock::now() >= deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }

  // What grows where something is not given back.
  struct Footprint {
    long resident_kib = 0;
    std::ptrdiff_t threads = 0;
    std::ptrdiff_t descriptors = 0;
  };
  Footprint footprint() const {
    namespace fs = std::filesystem;
    const fs::path folder = "/proc/" + std::to_string(pid_);
    Footprint now;
    std::istringstream status(read_file(folder / "status"));
    for (std::string word; status >> word;) {
      if (word == "VmRSS:") status >> now.resident_kib;
    }
    const auto count = [](const fs::path& in) {
      return std::distance(fs::directory_iterator(in), fs::directory_iterator());
    };
    now.threads = count(folder / "task");
    now.descriptors = count(folder / "fd");
    return now;
  }

  // Processor time used so far.
  Seconds processor_time() const {
    std::string text = read_file("/proc/" + std::to_string(pid_) + "/stat");
    std::istringstream fields(text.substr(text.rfind(')') + 2));
    std::string skipped;
    for (int i = 3; i < 14; ++i) fields >> skipped;  // utime is field 14, stime 15
    long user = 0;
    long system = 0;
    fields >> user >> system;
    return Seconds(static_cast<double>(user + system) /
                   static_cast<double>(::sysconf(_SC_CLK_TCK)));
  }

 private:
  // In the child: a test that is killed at its time limit takes its processes along.
  static void end_with(pid_t parent) {
#ifdef __linux__
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);
#else
    static_cast<void>(parent);
#endif
  }

  const std::filesystem::path output_;
  pid_t pid_ = -1;
  std::optional<int> status_;
};

}  // namespace prima
