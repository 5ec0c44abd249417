// Reads what a person types at a terminal: editing, history, several lines.
//
//     Left Right Home End Ctrl-A Ctrl-E      move          Up Down            earlier messages
//     Backspace Delete Ctrl-W Ctrl-U Ctrl-K  delete        Alt-Enter, "\" at the end  another line
//     Ctrl-C  gives up the line              Ctrl-D  ends the input, where the line is empty
//
// Pasted text keeps its line ends (bracketed paste). Where standard input is no terminal, its lines
// are read as they are.
//
// Thread-compatible; one at a time, since it changes the terminal's mode while it reads.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace prima::cli {

// The text while it is edited, apart from any terminal.
class EditBuffer {
 public:
  explicit EditBuffer(const std::vector<std::string>& history) : history_(history) {}

  // Takes one key's bytes, as terminals send them: a character, or an escape sequence.
  enum class Outcome { goes_on, entered, given_up, ended };
  Outcome take(std::string_view key);

  const std::string& text() const { return text_; }
  std::size_t cursor() const { return cursor_; }  // in bytes

 private:
  void insert(std::string_view bytes);
  void erase(std::size_t from, std::size_t to);
  std::size_t before(std::size_t at) const;  // the beginning of the character before
  std::size_t after(std::size_t at) const;
  std::size_t line_begin() const;
  std::size_t line_end() const;
  void recall(std::ptrdiff_t by);

  const std::vector<std::string>& history_;
  std::string text_;
  std::size_t cursor_ = 0;
  std::size_t recalled_ = 0;  // how far back in the history; 0: not
  std::string own_;           // what was there before going back
  bool pasting_ = false;
};

// How many bytes at the beginning of `input` are one key; 0 where more must come.
std::size_t key_length(std::string_view input);

class LineEditor {
 public:
  // The history is kept in the file, if it can be; empty: nowhere.
  explicit LineEditor(std::filesystem::path history_file);

  enum class End { entered, given_up, ended };
  struct Line {
    End end = End::ended;
    std::string text;
  };
  Line read(const std::string& prompt);

 private:
  Line read_plain();
  void remember(const std::string& text);

  std::filesystem::path history_file_;
  std::vector<std::string> history_;
  std::string unread_;  // typed ahead
};

}  // namespace prima::cli
