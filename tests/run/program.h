// Runs the prima executable as a user's shell would, for whole-program tests.
//
// Every wait has a limit; a program that outlives it is ended, and the test fails.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

namespace prima::test {

using Arguments = std::vector<std::string>;

// Generous: the machine may be busy with other tests, or emulate another processor.
inline constexpr std::chrono::seconds kProgramLimit{120};

class Program {
 public:
  enum class Input { pipe, terminal };

  // Starts `prima` with these arguments.
  explicit Program(const Arguments& arguments, Input input = Input::pipe);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void write(std::string_view text);
  void end_input();
  void send(int signal) const;

  // Until `condition` holds for what the program has written so far; false when it ended, or took
  // too long.
  bool wait_for(const std::function<bool()>& condition);

  // Until it ends; its exit status, or 128 + the signal that ended it, as shells count.
  int wait();

  const std::string& out() const { return out_; }
  const std::string& err() const { return err_; }

 private:
  bool read_some(std::chrono::steady_clock::time_point limit);

  pid_t pid_ = -1;
  int input_ = -1;
  int output_ = -1;
  int errors_ = -1;
  std::string out_;
  std::string err_;
};

struct Outcome {
  int status = -1;
  std::string out;
  std::string err;
};

// To its end, with `input` on standard input.
Outcome run(const Arguments& arguments, std::string_view input = "");

// A folder of the test's own, gone with it.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string file(std::string_view name) const { return (path_ / name).string(); }
  // Writes it.
  std::string file(std::string_view name, std::string_view content) const;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::string read_file(const std::filesystem::path& path);

}  // namespace prima::test
