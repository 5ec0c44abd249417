#include "ring/remote_ring.h"

#include <algorithm>
#include <set>

#include <sodium.h>

#include "base/log.h"
#include "ring/micro_batch.h"
#include "ring/waterfall.h"

namespace prima::ring {
namespace {

constexpr Duration kProgressInterval = std::chrono::milliseconds(200);

// For a first message over each link, once every device has its layers.
constexpr Duration kLinkTimeout = std::chrono::seconds(10);

std::uint64_t random_session() {
  std::uint64_t session = 0;
  while (session == 0) randombytes_buf(&session, sizeof(session));
  return session;
}

bool is_loopback(const std::string& address) {
  return address.starts_with("127.") || address == "::1" || address == "localhost";
}

}  // namespace

RemoteRing::RemoteRing(transport::Network& network, RingOptions options,
                       std::optional<RingPlanning> planning)
    : network_(network),
      options_(std::move(options)),
      planning_(std::move(planning)),
      rounds_(options_.rounds),
      max_tokens_(options_.executor.max_tokens),
      link_type_(options_.link_type),
      device_name_(options_.device_name) {}

Result<std::unique_ptr<RemoteRing>> RemoteRing::form(
    transport::Network& network, const ModelSummary& model, const RingOptions& options,
    const ExecutorFactory& make_executor,
    const std::function<Result<std::shared_ptr<void>>(std::uint16_t port)>& announce,
    HeartbeatTimes times, std::optional<RingPlanning> planning) {
  std::unique_ptr<RemoteRing> ring(new RemoteRing(network, options, std::move(planning)));
  // The route first: a mistake in the flags is told before anybody waits.
  if (!ring->planning_) {
    PRIMA_ASSIGN_OR_RETURN(ring->route_,
                           make_route(model.n_layer, options.n_workers + 1, options.windows,
                                      options.rounds, options.private_layers));
  }
  if (!is_link_type(options.link_type, model.n_embd)) {
    return fail(ErrorCode::invalid_argument,
                std::string("Hidden states can't travel as ") + ggml_type_name(options.link_type),
                "Use f32, f16 or q8_0");
  }
  PRIMA_RETURN_IF_ERROR(ring->listen(times));
  {
    PRIMA_ASSIGN_OR_RETURN(const std::shared_ptr<void> announced, announce(ring->control_->port()));
    PRIMA_RETURN_IF_ERROR(ring->gather());
  }
  if (ring->planning_) PRIMA_RETURN_IF_ERROR(ring->plan(model));
  PRIMA_RETURN_IF_ERROR(ring->assign(model));
  PRIMA_RETURN_IF_ERROR(ring->load(make_executor));
  PRIMA_RETURN_IF_ERROR(ring->link());
  return ring;
}

Status RemoteRing::listen(HeartbeatTimes times) {
  PRIMA_ASSIGN_OR_RETURN(listener_, network_.listen(0));
  PRIMA_ASSIGN_OR_RETURN(auto control_listener, network_.listen(options_.port));
  control_ = std::make_unique<HeadControl>(network_, std::move(control_listener),
                                           planning_ ? Membership::kAnyNumber : options_.n_workers,
                                           times, [this] { listener_->interrupt(); });
  return {};
}

Status RemoteRing::gather() {
  const auto n_waiting = [&] {
    return control_->with_members(
        [](Membership& members) { return members.count(Member::State::waiting); });
  };
  Status gathered;
  if (options_.n_workers == 0) {
    std::size_t joined = 0;
    do {
      joined = n_waiting();
      gathered = wait_until(
          [&](Membership& members) { return members.count(Member::State::waiting) > joined; },
          FormationProgress::Stage::waiting_for_workers,
          network_.clock().now() + options_.gather_time);
    } while (gathered);
    if (gathered.error().code == ErrorCode::deadline_exceeded) gathered = {};
  } else {
    gathered = wait_until(
        [&](Membership& members) {
          return members.count(Member::State::waiting) >= options_.n_workers;
        },
        FormationProgress::Stage::waiting_for_workers,
        network_.clock().now() + options_.join_timeout);
  }
  if (!gathered && gathered.error().code == ErrorCode::deadline_exceeded) {
    return control_->with_members([&](Membership& members) -> Status {
      std::string what = "Only " + std::to_string(members.count(Member::State::waiting)) + " of " +
                         std::to_string(options_.n_workers) + " workers joined";
      if (members.last_refusal()) {
        what += "; one was refused: " + members.last_refusal()->message();
      }
      return fail(ErrorCode::deadline_exceeded, what,
                  "Start `prima join` on more devices, or ask for fewer with --workers");
    });
  }
  PRIMA_RETURN_IF_ERROR(gathered);
  // Device i of the ring is the i-th waiting member, unless a plan says otherwise.
  places_ = {{0, device_name_, "", listener_->port()}};
  control_->with_members([&](Membership& members) {
    for (const Member& member : members.members()) {
      if (member.state != Member::State::waiting || places_.size() >= kMaxDevices) continue;
      if (!planning_ && places_.size() > options_.n_workers) continue;
      places_.push_back({member.id, member.name, member.address, member.data_port});
    }
    return 0;
  });
  shares_.resize(places_.size());
  return {};
}

Neighbour RemoteRing::Place::neighbour(std::uint32_t device) const {
  return {device, is_loopback(address) ? "" : address, data_port};
}

Status RemoteRing::assign(const ModelSummary& model) {
  model_name_ = model.name;
  shape_ = {.session = random_session(),
            .n_devices = static_cast<std::uint32_t>(places_.size()),
            .n_hops = static_cast<std::uint32_t>(route_.hops.size()),
            .n_embd = model.n_embd,
            .n_ctx = options_.executor.n_ctx,
            .max_tokens = std::min(max_tokens_, options_.executor.n_ctx),
            .link_type = link_type_};
  max_in_flight_ =
      options_.max_steps_in_flight > 0 ? options_.max_steps_in_flight : 2 * shape_.n_devices;
  for (const Place& place : places_) device_names_.push_back(place.name);
  const auto links = links_of(route_);
  Result<void> assigned;
  control_->with_members([&](Membership& members) -> std::vector<Outgoing> {
    std::vector<Membership::Assigned> assignments;
    for (std::uint32_t device = 1; device < shape_.n_devices; ++device) {
      const Member* const member = members.find(places_[device].member);
      if (member == nullptr || member->state != Member::State::waiting) {
        assigned = fail(ErrorCode::unavailable,
                        places_[device].name + " left while the ring formed", "Try again");
        return {};
      }
      Assignment assignment;
      assignment.session = shape_.session;
      assignment.device = device;
      assignment.device_names = device_names_;
      assignment.route = route_;
      for (const auto& [from, to] : links) {
        if (from == device) assignment.neighbours.push_back(places_[to].neighbour(to));
      }
      assignment.model_identity = model.identity;
      assignment.model_name = model.name;
      assignment.n_layer = model.n_layer;
      assignment.n_embd = model.n_embd;
      assignment.n_ctx = shape_.n_ctx;
      assignment.max_tokens = shape_.max_tokens;
      assignment.kv_type = options_.executor.kv_type;
      assignment.link_type = shape_.link_type;
      assignment.repack = options_.executor.repack;
      assignment.share = shares_[device];
      assignments.push_back({member->id, std::move(assignment)});
    }
    return members.assign(shape_.session, device_names_, route_, std::move(assignments));
  });
  PRIMA_RETURN_IF_ERROR(assigned);
  for (const auto& [from, to] : links) {
    if (from != kHead) continue;
    const Neighbour neighbour = places_[to].neighbour(to);
    PRIMA_ASSIGN_OR_RETURN(
        links_[to],
        network_.connect({neighbour.host.empty() ? "127.0.0.1" : neighbour.host, neighbour.port}));
  }
  return {};
}

Status RemoteRing::load(const ExecutorFactory& make_executor) {
  compute::ExecutorOptions executor = options_.executor;
  executor.windows = windows_of(route_, kHead);
  executor.is_head = true;
  executor.max_tokens = shape_.max_tokens;
  apply(shares_[kHead], executor);
  if (options_.make_observer) executor.on_computed = options_.make_observer();
  Status stopped;
  auto made = make_executor(executor, [&](Bytes done, Bytes total) {
    own_loaded_ = done;
    own_to_load_ = total;
    stopped = check();
    if (stopped) stopped = show_progress(FormationProgress::Stage::loading);
    return stopped.has_value();
  });
  PRIMA_RETURN_IF_ERROR(stopped);
  PRIMA_ASSIGN_OR_RETURN(executor_, std::move(made));
  node_ = std::make_unique<Node>(
      NodeOptions{.shape = shape_, .route = route_, .device = kHead, .device_names = device_names_},
      *executor_, network_.clock(), std::move(links_));
  control_->watch([this] { return node_->progress(); });
  PRIMA_RETURN_IF_ERROR(node_->open_links());
  executor_->rest();
  const Status loaded =
      wait_until([](Membership& members) { return members.all_loaded(); },
                 FormationProgress::Stage::loading, network_.clock().now() + options_.load_timeout);
  if (loaded) choose_how_steps_travel();
  if (loaded || loaded.error().code != ErrorCode::deadline_exceeded) return loaded;
  return fail(ErrorCode::deadline_exceeded, "Not all devices have loaded their layers in time",
              "Look at what `prima join` says on them");
}

void RemoteRing::choose_how_steps_travel() {
  std::set<std::uint32_t> at_work;
  for (const Hop& hop : route_.hops) at_work.insert(hop.device);
  n_devices_at_work_ = static_cast<std::uint32_t>(at_work.size());

  std::vector<compute::ExecutorMemory> memories{executor_->memory()};
  control_->with_members([&](Membership& members) {
    for (const Member& member : members.members()) memories.push_back(member.memory);
    return 0;
  });
  bool any_streams = false;
  for (const compute::ExecutorMemory& memory : memories) {
    any_streams = any_streams || memory.streamed > 0;
    cuts_steps_ = cuts_steps_ && keeps_its_windows(memory, rounds_);
  }
  node_->set_waves(any_streams);
}

Status RemoteRing::link() {
  const Status linked =
      wait_until([](Membership& members) { return members.all_serving(); },
                 FormationProgress::Stage::linking, network_.clock().now() + kLinkTimeout);
  if (!linked && linked.error().code == ErrorCode::deadline_exceeded) {
    return fail(ErrorCode::unavailable,
                control_->with_members([](Membership& members) { return members.missing_links(); }),
                "Check that a firewall lets these devices reach each other");
  }
  PRIMA_RETURN_IF_ERROR(linked);
  const StatusReply status{.model_name = model_name_, .ring = describe()};
  control_->with_members([&](Membership& members) { members.status = status; });
  return {};
}

Status RemoteRing::wait_until(const std::function<bool(Membership&)>& done,
                              FormationProgress::Stage stage, Instant deadline) {
  std::size_t links_counted = 0;
  while (true) {
    PRIMA_RETURN_IF_ERROR(check());
    if (control_->with_members(done)) return {};
    PRIMA_RETURN_IF_ERROR(show_progress(stage));
    const Instant now = network_.clock().now();
    if (now >= deadline) return fail(ErrorCode::deadline_exceeded, "The wait took too long");
    auto incoming = listener_->receive(std::min(deadline, now + kProgressInterval));
    if (!incoming || !node_) continue;
    PRIMA_RETURN_IF_ERROR(node_->accept(std::move(incoming->message)));
    for (; links_counted < node_->open_from().size(); ++links_counted) {
      const std::uint32_t from = node_->open_from()[links_counted];
      control_->with_members([&](Membership& members) { members.head_heard_from(from); });
    }
  }
}

Status RemoteRing::show_progress(FormationProgress::Stage stage) {
  if (!options_.progress || network_.clock().now() < next_progress_) return {};
  next_progress_ = network_.clock().now() + kProgressInterval;
  FormationProgress progress{.stage = stage,
                             .workers_joined = 0,
                             .workers_wanted = options_.n_workers,
                             .loaded = own_loaded_,
                             .to_load = own_to_load_,
                             .devices = {}};
  control_->with_members([&](Membership& members) {
    for (const Member& member : members.members()) {
      if (member.state == Member::State::gone) continue;
      ++progress.workers_joined;
      progress.loaded += member.loaded;
      progress.to_load += member.to_load;
      progress.devices.push_back({.name = member.name,
                                  .address = member.address,
                                  .state = to_string(member.state),
                                  .windows = {},
                                  .memory = member.memory});
    }
    return 0;
  });
  if (!options_.progress(progress)) return fail(ErrorCode::cancelled, "Cancelled");
  return {};
}

Status RemoteRing::check() {
  if (!failed_) failed_ = control_->failure();
  if (failed_) return tl::unexpected<Error>(*failed_);
  return {};
}

void RemoteRing::drop_steps() {
  steps_.clear();
  under_way_.clear();
  waiting_.clear();
  finished_.clear();
  idle_since_.reset();
}

tl::unexpected<Error> RemoteRing::give_up(Error error) {
  if (!failed_) failed_ = std::move(error);
  drop_steps();
  control_->with_members([&](Membership& members) { return members.release(failed_->what); });
  return tl::unexpected<Error>(*failed_);
}

Status RemoteRing::work(Instant deadline) {
  if (Status ok = check(); !ok) return give_up(std::move(ok.error()));
  if (Status started = start_waiting_parts(); !started) return give_up(std::move(started.error()));
  Instant wait_until = network_.clock().now();  // no wait: only look whether something has come
  if (!node_->ready() && !works_idly()) {
    executor_->rest();
    node_->set_idle(true);
    wait_until = deadline;
  }
  auto incoming = listener_->receive(wait_until);
  node_->set_idle(false);
  if (incoming && idle_since_) {
    idle_work_->ended(IdleWork::kRing, network_.clock().now() - *idle_since_);
    idle_since_.reset();
  }
  Status worked;
  if (incoming) {
    worked = node_->accept(std::move(incoming->message));
  } else if (node_->ready()) {
    worked = node_->run_one();
  }
  while (worked) {
    auto returned = node_->take_returned();
    if (!returned) return {};
    worked = finish_part(std::move(*returned));
  }
  return give_up(std::move(worked.error()));
}

// Whether something other than waiting was done, or nobody has looked yet whether there is a need
// to wait. At most a slice in one call of work(): what interrupts the listener is noticed there.
bool RemoteRing::works_idly() {
  if (idle_work_ == nullptr) return false;
  const Instant now = network_.clock().now();
  if (idle_since_) return idle_work_->work(IdleWork::kRing, now - *idle_since_);
  idle_since_ = now;
  return true;
}

void RemoteRing::set_idle_work(IdleWork* work) {
  idle_work_ = work;
  idle_since_.reset();
  executor_->set_idle_work(work);
}

Status RemoteRing::finish_part(Node::Returned returned) {
  const auto entry = under_way_.find(returned.step.id);
  if (entry == under_way_.end()) {
    return fail(ErrorCode::corrupt, "A step came back that is not under way");
  }
  const Part part = entry->second;
  under_way_.erase(entry);
  Submitted& step = steps_.at(part.step_id);
  const Instant started = network_.clock().now();
  if (!returned.step.outputs.empty()) {
    executor_->keep_weights(node_->has_returned());
    std::vector<float>& result = step.logits[part.index];
    PRIMA_RETURN_IF_ERROR(step.embeddings ? executor_->embeddings(returned.hidden, result)
                                          : executor_->logits(returned.hidden, result));
  }
  step.output += network_.clock().now() - started;
  for (const HopRecord& record : returned.timings) {
    const Hop& hop = route_.hops[record.hop];
    step.hops[part.index].push_back({.device = hop.device,
                                     .layers = hop.layers,
                                     .waiting = record.waiting,
                                     .reading = record.reading,
                                     .computing = record.computing,
                                     .sending = record.sending});
  }
  if (--step.parts_left == 0) finish_step(part.step_id);
  return {};
}

void RemoteRing::finish_step(std::uint64_t step_id) {
  const auto entry = steps_.find(step_id);
  Submitted step = std::move(entry->second);
  steps_.erase(entry);
  Finished finished{.step_id = step_id, .logits = std::move(step.logits.front()), .timings = {}};
  for (std::size_t i = 1; i < step.logits.size(); ++i) {
    finished.logits.insert(finished.logits.end(), step.logits[i].begin(), step.logits[i].end());
  }
  for (const auto& hops : step.hops) {
    finished.timings.hops.insert(finished.timings.hops.end(), hops.begin(), hops.end());
  }
  finished.timings.output = step.output;
  finished.timings.total = network_.clock().now() - step.at;
  finished.timings.n_parts = static_cast<std::uint32_t>(step.hops.size());
  if (log::is_verbose()) {
    log::debug("{}", waterfall(step_id, step.n_tokens, finished.timings, device_names_));
  }
  const double rate = step.n_tokens / std::max(seconds(finished.timings.total), 1e-9);
  finished_.push_back(std::move(finished));
  control_->with_members([&](Membership& members) {
    ++members.status.steps_finished;
    members.status.tokens_per_second = rate;
  });
}

Status RemoteRing::start_waiting_parts() {
  while (!waiting_.empty() && under_way_.size() < max_in_flight_) {
    WaitingPart next = std::move(waiting_.front());
    waiting_.pop_front();
    under_way_[next.step.id] = next.part;
    const bool more = !waiting_.empty() && under_way_.size() < max_in_flight_;
    PRIMA_RETURN_IF_ERROR(node_->start(next.step, std::move(next.hidden), more));
  }
  return {};
}

Status RemoteRing::submit(const compute::Step& step, std::span<const std::int32_t> tokens,
                          Instant deadline) {
  if (Status ok = check(); !ok) return give_up(std::move(ok.error()));
  if (steps_.contains(step.id)) {
    return fail(ErrorCode::invalid_argument,
                "Step " + std::to_string(step.id) + " is under way already");
  }
  while (under_way_.size() + waiting_.size() >= max_in_flight_) {
    if (network_.clock().now() >= deadline) {
      return fail(ErrorCode::deadline_exceeded, "The ring took no step in time");
    }
    PRIMA_RETURN_IF_ERROR(work(deadline));
  }
  const Instant submitted = network_.clock().now();
  std::vector<float> hidden;
  PRIMA_RETURN_IF_ERROR(executor_->embed(tokens, hidden));
  std::uint32_t size = options_.micro_batch;
  if (size == 0 && cuts_steps_) {
    size = micro_batch_tokens(step.n_tokens(), n_devices_at_work_, rounds_);
  }
  std::vector<compute::Step> parts = cut(step, size == 0 ? step.n_tokens() : size);
  steps_[step.id] = {.at = submitted,
                     .n_tokens = step.n_tokens(),
                     .parts_left = parts.size(),
                     .embeddings = step.embeddings,
                     .logits = std::vector<std::vector<float>>(parts.size()),
                     .hops = std::vector<std::vector<HopTiming>>(parts.size())};
  auto column = hidden.begin();
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto end = column + static_cast<std::ptrdiff_t>(parts[i].n_tokens() * shape_.n_embd);
    parts[i].id = next_part_id_++;
    waiting_.push_back({{step.id, i}, std::move(parts[i]), {column, end}});
    column = end;
  }
  return {};
}

Result<Ring::Finished> RemoteRing::next(Instant deadline) {
  if (in_flight() == 0 && !failed_) {
    return fail(ErrorCode::invalid_argument, "No step is in flight");
  }
  while (finished_.empty()) {
    PRIMA_RETURN_IF_ERROR(work(deadline));
    if (finished_.empty() && network_.clock().now() >= deadline) {
      return fail(ErrorCode::deadline_exceeded, "No step was finished in time");
    }
  }
  Finished finished = std::move(finished_.front());
  finished_.pop_front();
  return finished;
}

Status RemoteRing::reset(Instant) {
  if (Status ok = check(); !ok) return give_up(std::move(ok.error()));
  drop_steps();
  node_->advance_epoch(++epoch_);
  control_->set_epoch(epoch_);
  executor_->rest();
  return {};
}

RingDescription RemoteRing::describe() const {
  RingDescription ring{.devices = {{.name = device_name_,
                                    .address = "",
                                    .state = "serving",
                                    .windows = windows_of(route_, kHead),
                                    .memory = executor_->memory()}},
                       .rounds = rounds_,
                       .max_steps_in_flight = max_in_flight_,
                       .max_tokens = shape_.max_tokens};
  ring.devices.resize(shape_.n_devices);
  control_->with_members([&](Membership& members) {
    for (const Member& member : members.members()) {
      if (member.device == kHead) continue;
      ring.devices[member.device] = {.name = member.name,
                                     .address = member.address,
                                     .state = to_string(member.state),
                                     .windows = windows_of(route_, member.device),
                                     .memory = member.memory};
    }
    return 0;
  });
  return ring;
}

}  // namespace prima::ring
