#include "cli/line_editor.h"

#include <algorithm>
#include <array>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cwchar>
#include <fstream>
#include <utility>

#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

namespace prima::cli {

namespace {

constexpr std::size_t kMaxHistory = 1000;
constexpr std::string_view kPasteBegins = "\x1b[200~";
constexpr std::string_view kPasteEnds = "\x1b[201~";

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// The terminal hands over keys one by one, unechoed, while this lives.
class RawTerminal {
 public:
  RawTerminal() {
    ::tcgetattr(STDIN_FILENO, &before_);
    termios raw = before_;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO | ISIG);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    ::tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
    std::fputs("\x1b[?2004h", stderr);  // say where pasted text begins and ends
  }
  ~RawTerminal() {
    std::fputs("\x1b[?2004l", stderr);
    std::fflush(stderr);
    ::tcsetattr(STDIN_FILENO, TCSADRAIN, &before_);
  }
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

 private:
  termios before_{};
};

std::size_t terminal_width() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

// Where the cursor stands after text that began at the left edge.
struct Place {
  std::size_t row = 0;
  std::size_t column = 0;
};

Place after_text(std::string_view text, std::size_t width) {
  Place place;
  std::mbstate_t state{};
  for (std::size_t at = 0; at < text.size();) {
    if (text[at] == '\n') {
      ++place.row;
      place.column = 0;
      ++at;
      continue;
    }
    wchar_t c = 0;
    const std::size_t n = std::mbrtowc(&c, text.data() + at, text.size() - at, &state);
    const bool valid = n != 0 && n < static_cast<std::size_t>(-2);
    const int columns = valid ? std::max(0, ::wcwidth(c)) : 1;
    if (!valid) state = {};
    at += valid ? n : 1;
    if (place.column + static_cast<std::size_t>(columns) > width) {
      ++place.row;
      place.column = 0;
    }
    place.column += static_cast<std::size_t>(columns);
  }
  if (place.column == width) {
    ++place.row;
    place.column = 0;
  }
  return place;
}

// Draws the text anew over what was there; the cursor's row of what is drawn.
std::size_t redraw(const std::string& prompt, const EditBuffer& buffer, std::size_t row_before) {
  const std::size_t width = terminal_width();
  std::string out = "\r";
  if (row_before > 0) out += "\x1b[" + std::to_string(row_before) + "A";
  out += "\x1b[J" + prompt;
  for (const char c : buffer.text()) {
    if (c == '\n') out += '\r';
    out += c;
  }
  const Place end = after_text(prompt + buffer.text(), width);
  const Place cursor = after_text(prompt + buffer.text().substr(0, buffer.cursor()), width);
  if (end.column == 0 && end.row > 0 && !buffer.text().ends_with('\n')) out += "\r\n";
  if (end.row > cursor.row) out += "\x1b[" + std::to_string(end.row - cursor.row) + "A";
  out += "\r";
  if (cursor.column > 0) out += "\x1b[" + std::to_string(cursor.column) + "C";
  std::fputs(out.c_str(), stderr);
  std::fflush(stderr);
  return cursor.row;
}

}  // namespace

std::size_t key_length(std::string_view input) {
  if (input.empty()) return 0;
  const auto first = static_cast<unsigned char>(input[0]);
  if (first == 0x1b) {
    if (input.size() < 2) return 0;
    if (input[1] != '[' && input[1] != 'O') return 2;  // Alt and a key
    for (std::size_t i = 2; i < input.size(); ++i) {
      if (input[i] >= '@' && input[i] <= '~') return i + 1;
    }
    return 0;
  }
  const std::size_t n = first < 0xC0 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  return n <= input.size() ? n : 0;
}

EditBuffer::Outcome EditBuffer::take(std::string_view key) {
  constexpr char kCtrlA = 1, kCtrlC = 3, kCtrlD = 4, kCtrlE = 5, kCtrlK = 11, kCtrlU = 21,
                 kCtrlW = 23;
  if (key == kPasteBegins || key == kPasteEnds) {
    pasting_ = key == kPasteBegins;
    return Outcome::goes_on;
  }
  const bool enter = key == "\r" || key == "\n";
  if (enter && pasting_) {
    insert("\n");
  } else if (enter && cursor_ == text_.size() && text_.ends_with('\\')) {
    text_.back() = '\n';
  } else if (enter) {
    return Outcome::entered;
  } else if (key == "\x1b\r" || key == "\x1b\n") {
    insert("\n");
  } else if (key == "\x1b[D") {
    cursor_ = before(cursor_);
  } else if (key == "\x1b[C") {
    cursor_ = after(cursor_);
  } else if (key == "\x1b[H" || key == "\x1b[1~" || key == "\x1bOH" || key[0] == kCtrlA) {
    cursor_ = line_begin();
  } else if (key == "\x1b[F" || key == "\x1b[4~" || key == "\x1bOF" || key[0] == kCtrlE) {
    cursor_ = line_end();
  } else if (key == "\x1b[A" || key == "\x1bOA") {
    recall(1);
  } else if (key == "\x1b[B" || key == "\x1bOB") {
    recall(-1);
  } else if (key == "\x7f" || key == "\b") {
    erase(before(cursor_), cursor_);
  } else if (key == "\x1b[3~") {
    erase(cursor_, after(cursor_));
  } else if (key[0] == kCtrlU) {
    erase(line_begin(), cursor_);
  } else if (key[0] == kCtrlK) {
    erase(cursor_, line_end());
  } else if (key[0] == kCtrlW) {
    std::size_t from = cursor_;
    while (from > 0 && text_[from - 1] == ' ') --from;
    while (from > 0 && text_[from - 1] != ' ' && text_[from - 1] != '\n') --from;
    erase(from, cursor_);
  } else if (key[0] == kCtrlC) {
    return Outcome::given_up;
  } else if (key[0] == kCtrlD) {
    if (text_.empty()) return Outcome::ended;
    erase(cursor_, after(cursor_));
  } else if (static_cast<unsigned char>(key[0]) >= ' ' || key == "\t") {
    insert(key);
  }
  return Outcome::goes_on;
}

void EditBuffer::insert(std::string_view bytes) {
  text_.insert(cursor_, bytes);
  cursor_ += bytes.size();
}

void EditBuffer::erase(std::size_t from, std::size_t to) {
  text_.erase(from, to - from);
  cursor_ = from;
}

std::size_t EditBuffer::before(std::size_t at) const {
  if (at == 0) return 0;
  --at;
  while (at > 0 && is_continuation(text_[at])) --at;
  return at;
}

std::size_t EditBuffer::after(std::size_t at) const {
  if (at >= text_.size()) return text_.size();
  ++at;
  while (at < text_.size() && is_continuation(text_[at])) ++at;
  return at;
}

std::size_t EditBuffer::line_begin() const {
  if (cursor_ == 0) return 0;
  const std::size_t end = text_.rfind('\n', cursor_ - 1);
  return end == std::string::npos ? 0 : end + 1;
}

std::size_t EditBuffer::line_end() const {
  return std::min(text_.find('\n', cursor_), text_.size());
}

void EditBuffer::recall(std::ptrdiff_t by) {
  const auto to = static_cast<std::ptrdiff_t>(recalled_) + by;
  if (to < 0 || to > static_cast<std::ptrdiff_t>(history_.size())) return;
  if (recalled_ == 0) own_ = text_;
  recalled_ = static_cast<std::size_t>(to);
  text_ = recalled_ == 0 ? own_ : history_[history_.size() - recalled_];
  cursor_ = text_.size();
}

LineEditor::LineEditor(std::filesystem::path history_file)
    : history_file_(std::move(history_file)) {
  std::setlocale(LC_CTYPE, "");  // for the width of characters
  std::ifstream file(history_file_);
  for (std::string line; std::getline(file, line);) {
    // Line ends within a message are kept as \r.
    std::ranges::replace(line, '\r', '\n');
    history_.push_back(line);
  }
}

LineEditor::Line LineEditor::read(const std::string& prompt) {
  if (::isatty(STDIN_FILENO) == 0) return read_plain();
  const RawTerminal raw;
  EditBuffer buffer(history_);
  std::size_t row = redraw(prompt, buffer, 0);
  for (;;) {
    std::size_t n;
    while ((n = key_length(unread_)) > 0) {
      const auto outcome = buffer.take(std::string_view(unread_).substr(0, n));
      unread_.erase(0, n);
      if (outcome == EditBuffer::Outcome::goes_on) continue;
      redraw(prompt, buffer, row);
      std::fputs("\r\n", stderr);
      if (outcome == EditBuffer::Outcome::given_up) return {End::given_up, ""};
      if (outcome == EditBuffer::Outcome::ended) return {End::ended, ""};
      remember(buffer.text());
      return {End::entered, buffer.text()};
    }
    row = redraw(prompt, buffer, row);
    std::array<char, 1024> bytes;
    const ssize_t got = ::read(STDIN_FILENO, bytes.data(), bytes.size());
    if (got <= 0) return {End::ended, ""};
    unread_.append(bytes.data(), static_cast<std::size_t>(got));
  }
}

LineEditor::Line LineEditor::read_plain() {
  std::array<char, 4096> bytes;
  for (;;) {
    const std::size_t end = unread_.find('\n');
    if (end != std::string::npos) {
      Line line{End::entered, unread_.substr(0, end)};
      unread_.erase(0, end + 1);
      return line;
    }
    const ssize_t got = ::read(STDIN_FILENO, bytes.data(), bytes.size());
    if (got > 0) {
      unread_.append(bytes.data(), static_cast<std::size_t>(got));
    } else {
      if (unread_.empty()) return {End::ended, ""};
      return {End::entered, std::exchange(unread_, {})};
    }
  }
}

void LineEditor::remember(const std::string& text) {
  if (text.empty() || (!history_.empty() && history_.back() == text)) return;
  history_.push_back(text);
  if (history_.size() > kMaxHistory) history_.erase(history_.begin());
  if (history_file_.empty()) return;
  std::error_code ignored;
  std::filesystem::create_directories(history_file_.parent_path(), ignored);
  std::ofstream file(history_file_, std::ios::trunc);
  for (std::string line : history_) {
    std::ranges::replace(line, '\n', '\r');
    file << line << '\n';
  }
  std::filesystem::permissions(
      history_file_, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write,
      ignored);
}

}  // namespace prima::cli
