#include "ring/worker.h"

#include <algorithm>

#include <sodium.h>

#include "base/log.h"
#include "ring/link_probe.h"
#include "ring/node.h"
#include "ring/worker_control.h"

namespace prima::ring {
namespace {

constexpr Duration kSearchInterval = std::chrono::milliseconds(250);

// A head that did not want this device is left alone for so long.
constexpr Duration kRefusedPause = std::chrono::seconds(2);

// For how long it is remembered how it went with a head.
constexpr Duration kRemembered = std::chrono::seconds(60);

// The longest wait without a look around; every real event interrupts it.
constexpr Duration kLongWait = std::chrono::seconds(10);

// Only first messages of links come before an assignment does, one from each device.
constexpr std::size_t kMaxEarlyMessages = kMaxDevices;

constexpr Duration kProgressInterval = std::chrono::milliseconds(200);

std::uint64_t random_id() {
  std::uint64_t id = 0;
  while (id == 0) randombytes_buf(&id, sizeof(id));
  return id;
}

}  // namespace

const char* to_string(WorkerStatus::State state) {
  switch (state) {
    case WorkerStatus::State::searching: return "looking for a head";
    case WorkerStatus::State::greeting: return "greeting";
    case WorkerStatus::State::waiting: return "waiting for work";
    case WorkerStatus::State::profiling: return "measuring this device";
    case WorkerStatus::State::loading: return "loading";
    case WorkerStatus::State::linking: return "linking";
    case WorkerStatus::State::serving: return "serving";
  }
  return "";
}

Result<std::unique_ptr<Worker>> Worker::create(transport::Network& network, WorkerOptions options) {
  PRIMA_ASSIGN_OR_RETURN(auto listener, network.listen(0));
  return std::unique_ptr<Worker>(new Worker(network, std::move(listener), std::move(options)));
}

Worker::Worker(transport::Network& network, std::unique_ptr<transport::Listener> listener,
               WorkerOptions options)
    : network_(network),
      listener_(std::move(listener)),
      options_(std::move(options)),
      id_(random_id()) {}

void Worker::stop() {
  stopping_ = true;
  listener_->interrupt();
}

void Worker::set_state(WorkerStatus::State state) {
  status_.state = state;
  if (options_.on_status) options_.on_status(status_);
}

void Worker::set_aside(transport::Message message) {
  if (message.payload.size() > 0 || early_.size() >= kMaxEarlyMessages) return;
  early_.push_back(std::move(message));
}

// Asking a head that has died takes time for which another may be waiting, so those that did not
// answer come last.
std::optional<transport::Endpoint> Worker::choose_head() {
  const Instant now = network_.clock().now();
  std::erase_if(past_, [&](const auto& head) { return head.second.ended + kRemembered < now; });
  std::optional<transport::Endpoint> chosen;
  Instant chosen_silent{};
  for (transport::Endpoint& head : options_.find_heads()) {
    const auto past = past_.find(head);
    Instant silent{};
    if (past != past_.end()) {
      const bool was_silent = past->second.silent;
      if (now < past->second.ended + (was_silent ? kSearchInterval : kRefusedPause)) continue;
      if (was_silent) silent = past->second.ended;
    }
    if (chosen && silent >= chosen_silent) continue;
    chosen = std::move(head);
    chosen_silent = silent;
  }
  return chosen;
}

void Worker::run() {
  set_state(WorkerStatus::State::searching);
  while (!stopping_) {
    if (const auto head = choose_head()) {
      const auto left_because = join(*head);
      const Instant now = network_.clock().now();
      if (left_because) {
        past_[*head] = {.ended = now, .silent = *left_because == ErrorCode::unavailable};
      }
      set_state(WorkerStatus::State::searching);
      if (left_because) continue;  // others may have come meanwhile
    }
    const Instant until = network_.clock().now() + kSearchInterval;
    while (!stopping_ && network_.clock().now() < until) {
      if (auto incoming = listener_->receive(until)) {
        log::debug("Dropped a message from {}: there is no head", incoming->address);
      }
    }
  }
}

std::optional<ErrorCode> Worker::join(const transport::Endpoint& head) {
  auto link = network_.connect(head);
  if (!link) {
    log::warn("{}", link.error().message());
    return ErrorCode::unavailable;
  }
  status_ = {.state = WorkerStatus::State::greeting,
             .head = to_string(head),
             .windows = {},
             .memory = {},
             .last_error = std::move(status_.last_error)};
  early_.clear();
  WorkerControl control(network_, std::move(*link),
                        {.protocol_version = kProtocolVersion,
                         .build = build_description(),
                         .member = id_,
                         .name = options_.device_name,
                         .data_port = listener_->port()},
                        [this] { listener_->interrupt(); });
  while (!stopping_) {
    const WorkerControl::State state = control.state();
    if (state == WorkerControl::State::left) break;
    if (const auto assignment = control.take_assignment()) {
      const Status served = serve(*assignment, head, control);
      if (!served && control.state() != WorkerControl::State::left) {
        status_.last_error = served.error().message();
        log::error("{}", served.error().message());
        control.send(Failure{assignment->session, served.error()});
      }
      break;
    }
    if (const auto question = control.take_question()) answer(*question, head, control);
    if (state == WorkerControl::State::member && status_.state != WorkerStatus::State::waiting) {
      set_state(WorkerStatus::State::waiting);
    }
    auto incoming = listener_->receive(network_.clock().now() + kLongWait);
    if (incoming && is_probe(incoming->message)) {
      answer_probe(*listener_, *incoming);
    } else if (incoming) {
      set_aside(std::move(incoming->message));
    }
  }
  const auto reason = control.reason();
  if (!reason || reason->code == ErrorCode::cancelled) return std::nullopt;
  const std::string message = reason->message();
  if (message != status_.last_error && reason->code != ErrorCode::resource_exhausted) {
    log::warn("{}: {}", to_string(head), message);
  }
  status_.last_error = message;
  return reason->code;
}

void Worker::answer(const ControlMessage& question, const transport::Endpoint& head,
                    WorkerControl& control) {
  if (const auto* const request = std::get_if<ProfileRequest>(&question)) {
    set_state(WorkerStatus::State::profiling);
    Result<std::string> profile =
        fail(ErrorCode::unsupported, "it does not measure itself", "Say who runs what: --windows");
    if (options_.profile) {
      profile = options_.profile(
          *request, [&] { return !stopping_ && control.state() != WorkerControl::State::left; });
    }
    control.send(profile ? ProfileReply{std::move(*profile), std::nullopt}
                         : ProfileReply{"", profile.error()});
  } else if (const auto* const link = std::get_if<LinkRequest>(&question)) {
    const Neighbour& to = link->neighbour;
    const auto measured = measure_link(network_, {to.host.empty() ? head.host : to.host, to.port},
                                       link->step_bytes, link->most_bytes);
    if (!measured) log::warn("{}:{}: {}", to.host, to.port, measured.error().message());
    control.send(LinkReply{to.device, measured ? std::optional(*measured) : std::nullopt});
  }
}

// What is known; nothing is measured while others wait.
void Worker::answer_while_serving(const ControlMessage& question, WorkerControl& control) {
  const auto* const request = std::get_if<ProfileRequest>(&question);
  if (request == nullptr || !options_.profile) return;
  auto profile = options_.profile(*request, [] { return false; });
  if (profile) control.send(ProfileReply{std::move(*profile), std::nullopt});
}

Result<std::unique_ptr<compute::Executor>> Worker::load(const Assignment& assignment,
                                                        WorkerControl& control) {
  status_.windows = windows_of(assignment.route, assignment.device);
  set_state(WorkerStatus::State::loading);
  Instant next_report{};
  const auto report = [&](Bytes done, Bytes total) {
    if (network_.clock().now() >= next_report) {
      next_report = network_.clock().now() + kProgressInterval;
      status_.loaded = done;
      status_.to_load = total;
      set_state(WorkerStatus::State::loading);
      control.send(Loading{assignment.session, done, total});
    }
    return !stopping_ && control.state() != WorkerControl::State::left;
  };
  return options_.make_executor(assignment, report);
}

Status Worker::serve(const Assignment& assignment, const transport::Endpoint& head,
                     WorkerControl& control) {
  control.report(assignment.session, {});
  PRIMA_ASSIGN_OR_RETURN(const auto executor, load(assignment, control));
  status_.memory = executor->memory();
  control.send(Loaded{assignment.session, status_.memory});

  std::map<std::uint32_t, std::unique_ptr<transport::Link>> links;
  for (const Neighbour& neighbour : assignment.neighbours) {
    const transport::Endpoint endpoint{neighbour.host.empty() ? head.host : neighbour.host,
                                       neighbour.port};
    PRIMA_ASSIGN_OR_RETURN(links[neighbour.device], network_.connect(endpoint));
  }
  for (const auto& [from, to] : links_of(assignment.route)) {
    if (from == assignment.device && !links.contains(to)) {
      return fail(ErrorCode::corrupt,
                  "The head named no address of " + assignment.device_names[to]);
    }
  }
  NodeOptions options{
      .shape = {.session = assignment.session,
                .n_devices = static_cast<std::uint32_t>(assignment.device_names.size()),
                .n_hops = static_cast<std::uint32_t>(assignment.route.hops.size()),
                .n_embd = assignment.n_embd,
                .n_ctx = assignment.n_ctx,
                .max_tokens = assignment.max_tokens,
                .link_type = assignment.link_type},
      .route = assignment.route,
      .device = assignment.device,
      .device_names = assignment.device_names};
  Node node(std::move(options), *executor, network_.clock(), std::move(links));
  control.report(assignment.session, [&node] { return node.progress(); });
  set_state(WorkerStatus::State::linking);
  const Status ran = run_steps(assignment, node, *executor, control);
  control.report(assignment.session, {});
  return ran;
}

Status Worker::run_steps(const Assignment& assignment, Node& node, compute::Executor& executor,
                         WorkerControl& control) {
  PRIMA_RETURN_IF_ERROR(node.open_links());
  for (transport::Message& message : early_) PRIMA_RETURN_IF_ERROR(node.accept(std::move(message)));
  early_.clear();
  const auto links = links_of(assignment.route);
  const bool awaits_links = std::ranges::any_of(
      links, [&](const DevicePair& link) { return link.second == assignment.device; });
  if (!awaits_links) set_state(WorkerStatus::State::serving);  // left out of the route
  std::size_t links_reported = 0;
  while (!stopping_ && control.state() != WorkerControl::State::left) {
    for (; links_reported < node.open_from().size(); ++links_reported) {
      control.send(LinkUp{assignment.session, node.open_from()[links_reported]});
      set_state(WorkerStatus::State::serving);
    }
    node.advance_epoch(control.epoch());
    Instant wait_until = network_.clock().now();  // no wait: only look whether something has come
    if (!node.ready()) {
      if (const auto question = control.take_question()) answer_while_serving(*question, control);
      executor.rest();
      node.set_idle(true);
      wait_until += kLongWait;
    }
    auto incoming = listener_->receive(wait_until);
    node.set_idle(false);
    if (incoming && is_probe(incoming->message)) {
      answer_probe(*listener_, *incoming);
      continue;
    }
    if (incoming) {
      PRIMA_RETURN_IF_ERROR(node.accept(std::move(incoming->message)));
      continue;  // take all that has come before computing, so that waves see who is there
    }
    if (!node.ready()) continue;
    PRIMA_RETURN_IF_ERROR(node.run_one());
    status_.tokens = node.tokens();
    if (options_.on_status) options_.on_status(status_);
  }
  return {};
}

}  // namespace prima::ring
