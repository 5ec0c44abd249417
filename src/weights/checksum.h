// A checksum that notices damage to weights at the speed of memory. Not for what somebody might
// forge.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace prima::weights {

// Fed in pieces of any size but the last in whole multiples of kBlock.
class Checksum {
 public:
  static constexpr std::size_t kBlock = 32;

  void add(std::span<const std::byte> bytes) {
    size_ += bytes.size();
    while (bytes.size() >= kBlock) {
      add_block(bytes.data());
      bytes = bytes.subspan(kBlock);
    }
    if (bytes.empty()) return;
    std::array<std::byte, kBlock> last{};
    std::memcpy(last.data(), bytes.data(), bytes.size());
    add_block(last.data());
  }

  std::uint64_t value() const {
    std::uint64_t mixed = size_ * kOdd;
    for (const std::uint64_t lane : lanes_) {
      mixed = (mixed ^ lane) * kOdd;
      mixed ^= mixed >> 32;
    }
    return mixed;
  }

 private:
  static constexpr std::uint64_t kOdd = 0x9e3779b97f4a7c15;

  // Four lanes, so that the multiplications need not wait for each other. Each step is a bijection
  // of the lane, so that no single change is lost.
  void add_block(const std::byte* block) {
    for (std::size_t i = 0; i < lanes_.size(); ++i) {
      std::uint64_t word = 0;
      std::memcpy(&word, block + i * sizeof(word), sizeof(word));
      lanes_[i] = (lanes_[i] ^ word) * kOdd;
      lanes_[i] ^= lanes_[i] >> 29;
    }
  }

  std::array<std::uint64_t, kBlock / sizeof(std::uint64_t)> lanes_{1, 2, 3, 4};
  std::uint64_t size_ = 0;
};

}  // namespace prima::weights
