// Search among decisions: starts from given ones and moves layers, rounds, order, GPU layers,
// devices and slots, one at a time, for as long as the simulator finds something better. Neighbours
// that the relaxed model already rules out are never simulated.
//
// Deterministic: its limits count work, not time.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "plan/evaluation.h"

namespace prima::plan {

class Search {
 public:
  explicit Search(const Problem& problem);

  // A decision from how many layers each device takes (by device index): ring order along the
  // cheapest hops, GPUs filled, slots sized.
  Decision decide(const std::vector<std::uint32_t>& layers, std::uint32_t rounds) const;

  // Sizes and, where it may be better than the best so far, simulates.
  void consider(const Decision& decision);

  // All devices, orders, rounds and layer counts, where there are few enough; GPUs filled.
  void consider_all();

  // From the best few considered, downhill.
  void improve();

  // False: nothing considered fits the budgets.
  bool found() const { return best_.seconds < kNothing; }
  // The best found, or one on fewer devices that is as good within what measurements waver by:
  // each device more is one more to wait for, and to lose.
  const Decision& best() const;
  double best_seconds() const { return best_.seconds; }
  std::uint64_t n_simulated() const { return evaluation_.n_simulated(); }
  const Evaluation& evaluation() const { return evaluation_; }

 private:
  static constexpr double kNothing = 1e30;
  // An improvement below this share is not worth another step.
  static constexpr double kLeastGain = 1e-4;
  // Decisions that don't fit are ordered among themselves by how much they exceed.
  struct Found {
    Decision decision;
    double seconds = 1e300;
  };

  Found descend(Found from);
  bool step(Found& from);
  Found judge(const Sized& candidate, double target, const Decision* before = nullptr);
  bool spent() const { return evaluation_.work() >= max_work_; }
  Decision with_slots_of(const Decision& before, Decision decision) const;
  Decision with_slots(Decision decision, double share_of_room) const;
  bool tune_slots(Found& from);
  bool tune_slots_once(Found& from);
  bool tune_formats(Found& from);
  double value(const Sized& sized, double target);
  void remember(const Found& found);
  std::vector<Decision> neighbours(const Decision& decision) const;
  void add_layer_moves(const Decision& decision, std::vector<Decision>& into) const;
  void add_device_moves(const Decision& decision, std::vector<Decision>& into) const;
  void add_gpu_moves(const Decision& decision, std::vector<Decision>& into) const;
  void add_round_moves(const Decision& decision, std::vector<Decision>& into) const;
  double count_structures() const;
  double count_offloads() const;
  std::vector<PromptRoom> rooms_at(const Share& share) const;
  void for_each_offload(Decision& decision, bool every,
                        const std::function<void(const Decision&)>& visit) const;
  std::uint32_t most_rounds() const;
  void order_ring(std::vector<Share>& ring) const;

  const Problem& problem_;
  Evaluation evaluation_;
  std::uint64_t max_work_;
  bool small_;
  std::vector<Found> top_;  // best first, different in rounds or devices
  Found best_;
  std::map<std::size_t, Found> best_by_devices_;  // by how many there are in the ring
};

}  // namespace prima::plan
