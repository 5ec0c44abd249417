// In which order steps pass the first device of the way when they travel in waves.
//
// Where a device streams, each window is read from disk for whoever passes it, so steps in flight
// pass each round together: one read serves them all, and windows are read in cyclic order.
//
//     open     steps enter round 0             until one of them enters round 1
//     closed   those inside go on, round by round, until all have entered the last; then open again
//
// Links keep the order, so deciding here decides for every device.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <map>

namespace prima::ring {

class WaveOrder {
 public:
  // `last_round`: the last in which a step passes this device.
  explicit WaveOrder(std::uint32_t last_round) : last_round_(last_round) {}

  bool may_enter(std::uint32_t round) const;

  // Whether steps of the wave have yet to enter this round. Of the first round nobody knows; waves
  // are mostly as large as the one before.
  bool has_behind(std::uint32_t round) const;
  void entered(std::uint64_t step, std::uint32_t round);
  void clear();

 private:
  const std::uint32_t last_round_;
  std::map<std::uint64_t, std::uint32_t> inside_;  // steps that have not entered the last round yet
  bool closed_ = false;
  std::size_t size_ = 0;       // of this wave so far
  std::size_t last_size_ = 0;  // of the one before
};

}  // namespace prima::ring
