// A ring of several devices, driven from the head.
//
// The caller's thread computes the head's own windows inside submit() and next(); membership and
// heartbeats have a thread of their own (head_control.h).
//
// Thread-compatible.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ring/head_control.h"
#include "ring/messages.h"
#include "ring/node.h"
#include "ring/ring.h"
#include "transport/network.h"

namespace prima::ring {

// What all devices of a ring must agree on about the model.
struct ModelSummary {
  ModelIdentity identity;
  std::string name;
  std::uint32_t n_layer = 0;
  std::uint32_t n_embd = 0;
};

using ExecutorFactory = std::function<Result<std::unique_ptr<compute::Executor>>(
    const compute::ExecutorOptions&, const compute::LoadProgress&)>;

class RemoteRing final : public Ring {
 public:
  // As form_ring(), on any network. `announce` is called with the port at which workers join; what
  // it returns is kept until the ring has formed.
  // `planning`: who runs what; without it options.windows and options.rounds say.
  static Result<std::unique_ptr<RemoteRing>> form(
      transport::Network& network, const ModelSummary& model, const RingOptions& options,
      const ExecutorFactory& make_executor,
      const std::function<Result<std::shared_ptr<void>>(std::uint16_t port)>& announce,
      HeartbeatTimes times = {}, std::optional<RingPlanning> planning = {});

  // Where it can be asked for its status.
  std::uint16_t port() const { return control_->port(); }

  Status submit(const compute::Step& step, std::span<const std::int32_t> tokens,
                Instant deadline) override;
  Result<Finished> next(Instant deadline) override;
  std::size_t in_flight() const override { return steps_.size() + finished_.size(); }
  void set_idle_work(IdleWork* work) override;
  Status reset(Instant deadline) override;
  RingDescription describe() const override;
  std::optional<std::string> reason_to_form_anew() override;

 private:
  // A device that has joined, or this one.
  struct Place {
    std::uint64_t member = 0;  // 0: this device
    std::string name;
    std::string address;
    std::uint16_t data_port = 0;

    // Where others reach it; an empty host: where the head is.
    Neighbour neighbour(std::uint32_t device) const;
  };

  // A step that was submitted. Its parts travel as steps of their own.
  struct Submitted {
    Instant at;
    std::uint32_t n_tokens = 0;
    std::size_t parts_left = 0;
    bool embeddings = false;
    std::vector<std::vector<float>> logits;  // by part
    std::vector<std::vector<HopTiming>> hops;
    Duration output{};
  };
  struct Part {
    std::uint64_t step_id = 0;
    std::size_t index = 0;  // in its step
  };
  struct WaitingPart {
    Part part;
    compute::Step step;
    std::vector<float> hidden;
  };

  RemoteRing(transport::Network& network, RingOptions options,
             std::optional<RingPlanning> planning);

  Status listen(HeartbeatTimes times);
  Status gather();
  // Asks the devices and their links, and takes the planner's plan.
  Status plan(const ModelSummary& model);
  Status ask_profiles(const ModelSummary& model, RingOffer& offer);
  ProfileRequest profile_request(const ModelSummary& model) const;
  // Those that are not in the offer yet.
  Status measure_links(RingOffer& offer, const std::vector<Place>& places);
  std::optional<profile::LinkProfile> measure_link_between(const Place& a, const Place& b);
  bool take_newcomers();
  bool take_learned();
  Status assign(const ModelSummary& model);
  Status load(const ExecutorFactory& make_executor);
  void choose_how_steps_travel();
  Status link();

  // Waits for news until `done` holds. Fails with deadline_exceeded, cancelled, or why the ring
  // failed.
  Status wait_until(const std::function<bool(Membership&)>& done, FormationProgress::Stage stage,
                    Instant deadline);
  Status show_progress(FormationProgress::Stage stage);

  // Takes what has come and computes one hop, or waits for something to come.
  Status work(Instant deadline);
  bool works_idly();
  Status start_waiting_parts();
  Status finish_part(Node::Returned returned);
  void finish_step(std::uint64_t step_id);
  void drop_steps();
  Status check();
  tl::unexpected<Error> give_up(Error error);

  transport::Network& network_;
  const RingOptions options_;
  const std::optional<RingPlanning> planning_;
  std::vector<Place> places_;   // by place in the ring, the head first
  RingOffer offer_;             // what the plan was made from, and who has come since
  std::vector<Place> offered_;  // beside offer_.devices
  Instant ask_learned_at_{};
  ModelSummary model_;
  std::vector<DeviceShare> shares_;  // beside places_
  std::uint32_t rounds_ = 1;
  std::uint32_t max_tokens_ = 0;  // of a step
  ggml_type link_type_ = GGML_TYPE_F32;
  std::uint32_t max_in_flight_ = 1;
  std::string device_name_;
  std::string model_name_;
  SessionShape shape_;
  Route route_;
  std::vector<std::string> device_names_;
  std::unique_ptr<transport::Listener> listener_;  // of data
  std::unique_ptr<compute::Executor> executor_;
  std::map<std::uint32_t, std::unique_ptr<transport::Link>> links_;
  std::unique_ptr<Node> node_;
  std::uint32_t epoch_ = 0;
  Bytes own_loaded_ = 0;
  Bytes own_to_load_ = 0;
  Instant next_progress_{};
  std::uint32_t n_devices_at_work_ = 1;
  bool cuts_steps_ = true;
  std::map<std::uint64_t, Submitted> steps_;
  std::map<std::uint64_t, Part> under_way_;  // by the id under which it travels
  std::deque<WaitingPart> waiting_;          // for room
  std::uint64_t next_part_id_ = 1;
  std::deque<Finished> finished_;
  IdleWork* idle_work_ = nullptr;
  std::optional<Instant> idle_since_;  // nothing to do and nothing come
  std::optional<Error> failed_;
  std::unique_ptr<HeadControl>
      control_;  // last: its thread looks at the node and wakes the listener
};

}  // namespace prima::ring
