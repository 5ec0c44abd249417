// Guesses on while the guesses before are verified: a bet that all of those are right and that the
// token after them is the drafter's own next guess. Where it is won, the next step's draft is there
// at once; where it is lost, it took time in which this device had nothing else to do (as PEARL's
// post-verify, arXiv 2408.11850; here without a second processor).
//
// It is done in slices, one more token for each of those who bet, in the thread that drives the
// ring, where it would wait for its disk or for other devices (base/idle_work.h): so it never
// competes with the step for processors. A slice that the wait has ended before delays the step,
// so one is begun only where waits at that place have lasted longer, as far as is known.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "base/clock.h"
#include "base/idle_work.h"
#include "generate/drafter.h"

namespace prima::generate {

// How long waits at one place take, on the cautious side.
class WaitLength {
 public:
  void observe(Duration length);

  // Most last at least so long; nothing before two were seen.
  Duration surely() const;

 private:
  double mean_ = 0.0;  // seconds
  double deviation_ = 0.0;
  std::uint32_t times_ = 0;
};

class GuessAhead final : public IdleWork {
 public:
  // The drafter must outlive it.
  explicit GuessAhead(Drafter& drafter) : drafter_(drafter) {}

  // A step sets out with a sequence's draft of `n_drafted` tokens, each right with probability
  // `acceptance`. `most`: tokens to guess beyond the draft. Does nothing where the bet is bad.
  void bet(std::int32_t sequence, std::uint32_t n_drafted, double acceptance, std::uint32_t most);

  // The step is back, or nobody wants to know any more.
  void settle(std::int32_t sequence) { left_.erase(sequence); }
  void settle_all() { left_.clear(); }

  bool work(Place place, Duration waited) override;
  void ended(Place place, Duration waited) override;

  std::uint64_t guessed() const { return guessed_; }

 private:
  struct Wait {
    WaitLength length;
    bool in_slice = false;  // the last that was done was a slice,
    Duration slice_began{};
  };

  Drafter& drafter_;
  std::map<std::int32_t, std::uint32_t> left_;  // tokens still to guess, by sequence
  std::map<Place, Wait> waits_;
  std::uint64_t guessed_ = 0;
};

}  // namespace prima::generate
