// A ring of one: every step runs at once, in submit(), on this device's executor.
//
// Thread-compatible.
#pragma once

#include <deque>
#include <memory>
#include <string>

#include "ring/ring.h"

namespace prima::ring {

class LocalRing final : public Ring {
 public:
  // REQUIRES: the executor is a head's, with one window of all n_layer layers, for steps of up to
  // max_tokens.
  LocalRing(std::unique_ptr<compute::Executor> executor, std::uint32_t n_layer,
            std::uint32_t max_tokens, std::string device_name, const Clock& clock);

  Status submit(const compute::Step& step, std::span<const std::int32_t> tokens,
                Instant deadline) override;
  Result<Finished> next(Instant deadline) override;
  std::size_t in_flight() const override { return finished_.size(); }
  void set_idle_work(IdleWork* work) override { executor_->set_idle_work(work); }
  Status reset(Instant deadline) override;
  RingDescription describe() const override;

 private:
  const std::unique_ptr<compute::Executor> executor_;
  const compute::LayerRange layers_;
  const std::uint32_t max_tokens_;
  const std::string device_name_;
  const Clock& clock_;
  std::vector<float> hidden_;
  std::deque<Finished> finished_;
};

}  // namespace prima::ring
