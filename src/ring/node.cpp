#include "ring/node.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "ring/hidden_payload.h"

namespace prima::ring {
namespace {

constexpr std::uint32_t kNowhere = UINT32_MAX;

std::uint32_t first_hop_on(const Route& route, std::uint32_t device) {
  const auto found = std::ranges::find(route.hops, device, &Hop::device);
  return found == route.hops.end() ? kNowhere
                                   : static_cast<std::uint32_t>(found - route.hops.begin());
}

std::uint32_t last_hop_on(const Route& route, std::uint32_t device) {
  std::uint32_t last = kNowhere;
  for (std::uint32_t i = 0; i < route.hops.size(); ++i) {
    if (route.hops[i].device == device) last = i;
  }
  return last;
}

// For each hop on a device: how often a step has been there in an earlier round. Rounds that have
// no layers for the device do not count.
std::vector<std::uint32_t> passes_of(const Route& route, std::uint32_t device) {
  std::vector<std::uint32_t> passes(route.hops.size());
  std::set<std::uint32_t> rounds;
  for (std::size_t i = 0; i < route.hops.size(); ++i) {
    if (route.hops[i].device == device) rounds.insert(route.hops[i].round);
    if (!rounds.empty()) passes[i] = static_cast<std::uint32_t>(rounds.size() - 1);
  }
  return passes;
}

}  // namespace

Node::Node(NodeOptions options, compute::Executor& executor, const Clock& clock,
           std::map<std::uint32_t, std::unique_ptr<transport::Link>> links)
    : options_(std::move(options)),
      executor_(executor),
      clock_(clock),
      links_(std::move(links)),
      first_hop_here_(first_hop_on(options_.route, options_.device)),
      last_hop_here_(last_hop_on(options_.route, options_.device)) {
  if (first_hop_here_ == 0) {
    passes_ = passes_of(options_.route, options_.device);
    waves_.emplace(passes_[last_hop_here_]);
  }
}

Status Node::open_links() {
  for (const auto& [device, link] : links_) PRIMA_RETURN_IF_ERROR(send(device, {}, {}));
  return {};
}

Status Node::accept(transport::Message message) {
  const Bytes payload_bytes = message.payload.size();
  PRIMA_ASSIGN_OR_RETURN(auto header, decode_data(message.header, payload_bytes, options_.shape));
  if (!header) return {};
  bool repeated = false;
  PRIMA_RETURN_IF_ERROR(count_arrival(*header, payload_bytes, repeated));
  if (repeated) {
    log::debug("Dropped a message from {} that had come before", name(header->from));
    return {};
  }
  if (!header->step) {
    open_from_.push_back(header->from);
    return {};
  }
  if (header->epoch < epoch_) return {};
  advance_epoch(header->epoch);
  PRIMA_RETURN_IF_ERROR(check_step(*header));
  if (options_.device != kHead) in_waves_ = header->waves;
  const std::uint32_t columns = options_.shape.columns(header->hop, *header->step);
  std::vector<float> hidden =
      unpack_hidden(message.payload, options_.shape.link_type, options_.shape.n_embd, columns);
  if (header->hop == n_hops()) {
    returned_.push_back({std::move(*header->step), std::move(hidden), std::move(header->timings)});
  } else {
    queue_.push_back({header->hop, std::move(*header->step), std::move(hidden),
                      std::move(header->timings), clock_.now(), header->more});
  }
  return {};
}

Status Node::count_arrival(const DataHeader& header, Bytes bytes, bool& repeated) {
  const std::lock_guard lock(progress_mutex_);
  LinkCount& count = progress_.received[header.from];
  repeated = header.serial < count.messages;
  if (repeated) return {};
  if (header.serial > count.messages) {
    return fail(ErrorCode::unavailable,
                std::to_string(header.serial - count.messages) + " messages from " +
                    name(header.from) + " to " + name(options_.device) + " were lost",
                "Check the network between the two");
  }
  count.device = header.from;
  ++count.messages;
  count.bytes += bytes;
  return {};
}

Status Node::check_step(const DataHeader& header) const {
  const auto wrong = [&](const char* what) {
    return fail(ErrorCode::corrupt,
                name(header.from) + " sent " + name(options_.device) + " " + what);
  };
  const std::uint32_t device = header.hop == n_hops() ? kHead : hop(header.hop).device;
  if (device != options_.device) return wrong("a step meant for another device");
  if (header.hop == first_hop_here_) {
    const bool known =
        begun_.contains(header.step->id) || std::ranges::any_of(queue_, [&](const Queued& queued) {
          return queued.step.id == header.step->id;
        });
    if (known) return wrong("a step twice");
    return {};
  }
  if (header.hop == n_hops() && first_hop_here_ == kNowhere) return {};  // a head without windows
  const auto begun = begun_.find(header.step->id);
  if (header.hop == n_hops() && begun == begun_.end()) return {};  // its last hop here is behind it
  if (begun == begun_.end()) return wrong("a step that has not begun here");
  if (begun->second != *header.step) return wrong("a step that has changed on its way");
  return {};
}

Status Node::start(const compute::Step& step, std::vector<float> hidden, bool more) {
  Queued queued{.hop = 0,
                .step = step,
                .hidden = std::move(hidden),
                .timings = {},
                .since = clock_.now(),
                .more = more};
  if (hop(0).device != options_.device) return send_on(std::move(queued));
  queue_.push_back(std::move(queued));
  return {};
}

std::optional<Node::Returned> Node::take_returned() {
  if (returned_.empty()) return std::nullopt;
  Returned returned = std::move(returned_.front());
  returned_.pop_front();
  return returned;
}

std::optional<std::size_t> Node::next_index() const {
  if (!waves_ || !in_waves_) return queue_.empty() ? std::nullopt : std::optional<std::size_t>(0);
  std::optional<std::size_t> next;
  for (std::size_t i = 0; i < queue_.size(); ++i) {
    const std::uint32_t pass = passes_[queue_[i].hop];
    if (!waves_->may_enter(pass)) continue;
    if (!next || pass < passes_[queue_[*next].hop]) next = i;
  }
  return next;
}

// Whether another step of the wave passes the same layers next: the way's first device knows, the
// others are told.
bool Node::has_followers(const Queued& queued) const {
  if (!in_waves_ || !waves_) return in_waves_ && queued.more;
  return (queued.hop == 0 && queued.more) || waves_->has_behind(passes_[queued.hop]) ||
         std::ranges::any_of(queue_, [&](const Queued& o) { return o.hop == queued.hop; });
}

Status Node::run_one() {
  const auto index = next_index();
  Queued queued = std::move(queue_[*index]);
  queue_.erase(queue_.begin() + static_cast<std::ptrdiff_t>(*index));
  if (waves_ && in_waves_) waves_->entered(queued.step.id, passes_[queued.hop]);
  queued.more = has_followers(queued);
  const Instant started = clock_.now();
  if (queued.hop == first_hop_here_) {
    PRIMA_RETURN_IF_ERROR(executor_.begin(queued.step));
    tokens_ += queued.step.n_tokens();
    if (first_hop_here_ != last_hop_here_) begun_[queued.step.id] = queued.step;
  }
  if (queued.hop == last_hop_here_) begun_.erase(queued.step.id);
  const Duration read_before = executor_.weight_reads().waited;
  executor_.keep_weights(queued.more);
  PRIMA_RETURN_IF_ERROR(executor_.run(hop(queued.hop).layers, queued.step, queued.hidden));
  const Duration reading = executor_.weight_reads().waited - read_before;
  queued.timings.push_back({.hop = queued.hop,
                            .waiting = started - queued.since,
                            .reading = reading,
                            .computing = clock_.now() - started - reading,
                            .sending = {}});
  ++queued.hop;
  return send_on(std::move(queued));
}

Status Node::send_on(Queued queued) {
  const std::uint32_t to = queued.hop == n_hops() ? kHead : hop(queued.hop).device;
  if (to == options_.device) {  // the way ends where it began, at the head
    returned_.push_back(
        {std::move(queued.step), std::move(queued.hidden), std::move(queued.timings)});
    return {};
  }
  const Instant started = clock_.now();
  transport::Payload payload =
      pack_hidden(std::move(queued.hidden), options_.shape.link_type, options_.shape.n_embd);
  DataHeader header;
  header.hop = queued.hop;
  header.step = std::move(queued.step);
  header.timings = std::move(queued.timings);
  header.waves = in_waves_;
  header.more = queued.more;
  if (!header.timings.empty()) header.timings.back().sending = clock_.now() - started;
  return send(to, std::move(header), std::move(payload));
}

Status Node::send(std::uint32_t device, DataHeader header, transport::Payload payload) {
  header.session = options_.shape.session;
  header.epoch = epoch_;
  header.from = options_.device;
  {
    const std::lock_guard lock(progress_mutex_);
    LinkCount& count = progress_.sent[device];
    count.device = device;
    header.serial = count.messages++;
    count.bytes += payload.size();
  }
  return links_.at(device)->send({encode(header, options_.shape), std::move(payload)});
}

void Node::advance_epoch(std::uint32_t epoch) {
  if (epoch <= epoch_) return;
  epoch_ = epoch;
  queue_.clear();
  returned_.clear();
  begun_.clear();
  if (waves_) waves_->clear();
  executor_.clear();
}

void Node::set_idle(bool idle) {
  const std::lock_guard lock(progress_mutex_);
  progress_.idle = idle;
}

NodeProgress Node::progress() const {
  const std::lock_guard lock(progress_mutex_);
  return progress_;
}

}  // namespace prima::ring
