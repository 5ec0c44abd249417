// What travels between nodes: a small header and, behind it, raw bytes that are not copied on the
// way from their owner to the socket.
//
// Value types; thread-compatible.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/units.h"

namespace prima::transport {

// Bytes in pieces, each kept alive by its owner.
class Payload {
 public:
  struct Piece {
    std::shared_ptr<const void> owner;
    std::span<const std::byte> bytes;
  };

  Payload() = default;

  template <typename Element>
  static Payload of(std::vector<Element> elements) {
    auto owner = std::make_shared<const std::vector<Element>>(std::move(elements));
    const auto bytes = std::as_bytes(std::span(*owner));
    Payload payload;
    payload.append({std::move(owner), bytes});
    return payload;
  }

  void append(Piece piece) {
    if (!piece.bytes.empty()) pieces_.push_back(std::move(piece));
  }
  std::span<const Piece> pieces() const { return pieces_; }
  Bytes size() const;

  // REQUIRES: target.size() == size().
  void copy_to(std::span<std::byte> target) const;

 private:
  std::vector<Piece> pieces_;
};

struct Message {
  std::vector<std::byte> header;
  Payload payload;
};

}  // namespace prima::transport
