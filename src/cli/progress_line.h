// A line on the terminal that is written over while something takes its time; nothing where
// standard error is no terminal.
//
// Thread-compatible.
#pragma once

#include <string>

namespace prima::cli {

class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();  // takes the line away
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void show(const std::string& text);
  void clear();

 private:
  const bool is_terminal_;
  std::string shown_;
};

}  // namespace prima::cli
