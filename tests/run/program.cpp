#include "run/program.h"

#include <array>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

namespace prima::test {

namespace {

using Clock = std::chrono::steady_clock;

// The executable, after the emulator that runs it if it is another processor's.
Arguments program_command() {
  std::istringstream words(PRIMA_TEST_PROGRAM);
  return {std::istream_iterator<std::string>(words), {}};
}

void require(bool condition, const char* what) {
  if (!condition) throw std::runtime_error(what);
}

struct Pipe {
  Pipe() { require(::pipe2(ends.data(), O_CLOEXEC) == 0, "pipe2"); }
  std::array<int, 2> ends{};
};

}  // namespace

Program::Program(const Arguments& arguments, Input input) {
  ::signal(SIGPIPE, SIG_IGN);  // a program that ended before it read its input is no error here
  Arguments words = program_command();
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  int input_end = -1;
  if (input == Input::terminal) {
    require(::openpty(&input_, &input_end, nullptr, nullptr, nullptr) == 0, "openpty");
    ::fcntl(input_, F_SETFD, FD_CLOEXEC);
    ::fcntl(input_end, F_SETFD, FD_CLOEXEC);
  } else {
    const Pipe pipe;
    input_end = pipe.ends[0];
    input_ = pipe.ends[1];
  }
  const Pipe out;
  const Pipe err;
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, input_end, STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, out.ends[1], STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, err.ends[1], STDERR_FILENO);
  const int failed = ::posix_spawnp(&pid_, argv[0], &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  for (const int end : {input_end, out.ends[1], err.ends[1]}) ::close(end);
  output_ = out.ends[0];
  errors_ = err.ends[0];
  require(failed == 0, "posix_spawnp");
}

Program::~Program() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  for (const int end : {input_, output_, errors_}) {
    if (end >= 0) ::close(end);
  }
}

void Program::write(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(input_, text.data(), text.size());
    if (n <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
}

void Program::end_input() {
  if (input_ >= 0) ::close(input_);
  input_ = -1;
}

void Program::send(int signal) const { ::kill(pid_, signal); }

// False when both streams have ended or the limit has come.
bool Program::read_some(Clock::time_point limit) {
  std::array<pollfd, 2> streams{{{output_, POLLIN, 0}, {errors_, POLLIN, 0}}};
  if (output_ < 0 && errors_ < 0) return false;
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(limit - Clock::now());
  if (left.count() <= 0) return false;
  ::poll(streams.data(), streams.size(), static_cast<int>(left.count()));
  const auto take = [](const pollfd& stream, int& end, std::string& text) {
    if (stream.revents == 0) return;
    std::array<char, 4096> buffer;
    const ssize_t n = ::read(end, buffer.data(), buffer.size());
    if (n > 0) {
      text.append(buffer.data(), static_cast<std::size_t>(n));
    } else {
      ::close(end);
      end = -1;
    }
  };
  take(streams[0], output_, out_);
  take(streams[1], errors_, err_);
  return true;
}

bool Program::wait_for(const std::function<bool()>& condition) {
  const auto limit = Clock::now() + kProgramLimit;
  while (!condition()) {
    if (!read_some(limit)) return condition();
  }
  return true;
}

int Program::wait() {
  const auto limit = Clock::now() + kProgramLimit;
  while (read_some(limit)) {
  }
  if (output_ >= 0 || errors_ >= 0) {
    ADD_FAILURE() << "the program did not end; it wrote: " << out_ << err_;
    ::kill(pid_, SIGKILL);
  }
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

Outcome run(const Arguments& arguments, std::string_view input) {
  Program program(arguments);
  program.write(input);
  program.end_input();
  const int status = program.wait();
  return {status, program.out(), program.err()};
}

TemporaryFolder::TemporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "prima-test-XXXXXX").string();
  require(::mkdtemp(name.data()) != nullptr, "mkdtemp");
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TemporaryFolder::file(std::string_view name, std::string_view content) const {
  const std::string path = file(name);
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace prima::test
