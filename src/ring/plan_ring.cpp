// How a ring of several devices comes to its plan: the part of RemoteRing::form() between gathering
// the workers and giving them their layers.
#include <algorithm>

#include "base/log.h"
#include "profile/device_profile_json.h"
#include "ring/link_probe.h"
#include "ring/remote_ring.h"

namespace prima::ring {
namespace {

// A profile takes ten seconds at most; devices on one computer measure one after the other.
constexpr Duration kProfileTimeout = std::chrono::seconds(20);

// A link probe's own waits are shorter.
constexpr Duration kLinkProbeTimeout = std::chrono::seconds(30);

// Prompts travel in steps of megabytes; a sample of them is enough to know a link's bandwidth.
constexpr Bytes kMostProbeBytes = 8 * kMiB;

// Profiles change slowly, and each time a plan is to be made.
constexpr Duration kAskLearnedInterval = std::chrono::seconds(30);

std::size_t link_index(std::size_t n, std::size_t a, std::size_t b) {
  return a * n - a * (a + 1) / 2 + (b - a - 1);
}

}  // namespace

void apply(const DeviceShare& share, compute::ExecutorOptions& executor) {
  // All in memory: within the device's own budget, from which it gives weights up when other
  // programs need memory. A plan made for other figures than this device's takes no more either.
  if (share.memory && share.memory != kAllInMemory) {
    weights::MemoryBudget budget = executor.memory.value_or(weights::MemoryBudget{});
    const Bytes planned = budget.program + *share.memory;
    budget.total = executor.memory ? std::min(executor.memory->total, planned) : planned;
    executor.memory = budget;
  }
  if (share.slot_bytes) executor.streaming.slot_bytes = share.slot_bytes;
  // By plan: none, unless it names some.
  if (share.memory || !share.gpus.empty()) {
    executor.gpus = share.gpus;
    executor.gpu.n_layers = 0;
    executor.offload_room = share.prompt_room;
    if (!share.prompt_room) executor.offload_from_tokens.reset();
  }
}

Status RemoteRing::plan(const ModelSummary& model) {
  model_ = model;
  if (places_.size() == 1) {
    PRIMA_ASSIGN_OR_RETURN(shares_[kHead], planning_->alone());
    PRIMA_ASSIGN_OR_RETURN(route_, make_route(model.n_layer, 1, {}, 1, 0));
    return {};
  }
  offered_ = places_;
  for (const Place& place : places_) offer_.devices.push_back({place.name, place.address, "", ""});
  PRIMA_RETURN_IF_ERROR(ask_profiles(model, offer_));
  PRIMA_RETURN_IF_ERROR(measure_links(offer_, offered_));
  PRIMA_ASSIGN_OR_RETURN(RingPlan plan, planning_->plan(offer_));
  std::vector<Place> places;
  for (const std::uint32_t device : plan.devices) places.push_back(places_[device]);
  places_ = std::move(places);
  shares_ = std::move(plan.shares);
  route_ = std::move(plan.route);
  rounds_ = plan.rounds;
  if (plan.max_tokens > 0) max_tokens_ = std::min(max_tokens_, plan.max_tokens);
  link_type_ = plan.link_type;
  return check_route(route_, model.n_layer, static_cast<std::uint32_t>(places_.size()));
}

std::optional<std::string> RemoteRing::reason_to_form_anew() {
  if (!planning_ || !planning_->better || failed_ || in_flight() > 0) return std::nullopt;
  const bool others_have_joined = take_newcomers();
  const bool speeds_have_changed = take_learned();
  if (!others_have_joined && !speeds_have_changed) return std::nullopt;
  if (offered_.empty()) return "other devices have joined";  // nothing was planned yet
  if (!measure_links(offer_, offered_)) return std::nullopt;
  return planning_->better(offer_);
}

// Asks devices that have joined since for their profiles, and adds those that have answered to the
// offer. Whether there are any.
bool RemoteRing::take_newcomers() {
  const std::size_t n_before = offer_.devices.size();
  bool any = false;
  control_->with_members([&](Membership& members) {
    std::vector<Outgoing> questions;
    for (const Member& member : members.members()) {
      const bool is_known = std::ranges::any_of(
          offered_, [&](const Place& place) { return place.member == member.id; });
      if (member.state != Member::State::waiting || is_known) continue;
      if (!member.profile) {
        std::ranges::move(members.ask(member.id, profile_request(model_)),
                          std::back_inserter(questions));
        continue;
      }
      any = true;
      if (n_before == 0) continue;
      offered_.push_back({member.id, member.name, member.address, member.data_port});
      offer_.devices.push_back({member.name, member.address, member.profile->profile,
                                member.profile->error ? member.profile->error->message() : ""});
    }
    return questions;
  });
  // The order of links depends on how many devices there are.
  const std::size_t n = offer_.devices.size();
  std::vector<std::optional<profile::LinkProfile>> links(n < 2 ? 0 : n * (n - 1) / 2);
  for (std::size_t a = 0; a < n_before; ++a) {
    for (std::size_t b = a + 1; b < n_before; ++b) {
      links[link_index(n, a, b)] = offer_.links[link_index(n_before, a, b)];
    }
  }
  offer_.links = std::move(links);
  return any;
}

// Takes into the offer what devices of the ring have learned of themselves from generation. Whether
// anything has changed. What they are asked now is looked at when they are asked next.
bool RemoteRing::take_learned() {
  if (offered_.empty() || !planning_->learned_profile) return false;
  if (network_.clock().now() < ask_learned_at_) return false;
  ask_learned_at_ = network_.clock().now() + kAskLearnedInterval;
  std::vector<std::string> learned(offered_.size());
  control_->with_members([&](Membership& members) {
    std::vector<Outgoing> questions;
    for (std::size_t i = 1; i < offered_.size(); ++i) {
      const Member* const member = members.find(offered_[i].member);
      if (member == nullptr || member->state != Member::State::serving) continue;
      if (member->profile) learned[i] = member->profile->profile;
      std::ranges::move(members.ask(member->id, profile_request(model_)),
                        std::back_inserter(questions));
    }
    return questions;
  });
  if (auto own = planning_->learned_profile()) learned[kHead] = std::move(*own);
  bool changed = false;
  for (std::size_t i = 0; i < learned.size(); ++i) {
    OfferedDevice& device = offer_.devices[i];
    const auto planned = profile::profile_from_json(device.profile, device.name);
    const auto now = profile::profile_from_json(learned[i], device.name);
    if (!planned || !now) continue;
    std::string text = profile::to_json(profile::with_speeds_of(*now, *planned));
    changed = changed || text != profile::to_json(*planned);
    device.profile = std::move(text);
  }
  return changed;
}

ProfileRequest RemoteRing::profile_request(const ModelSummary& model) const {
  return {model.identity, model.name, options_.executor.n_ctx, options_.executor.kv_type};
}

Status RemoteRing::ask_profiles(const ModelSummary& model, RingOffer& offer) {
  if (!planning_->profile) return {};
  control_->with_members([&](Membership& members) {
    std::vector<Outgoing> questions;
    for (const Place& place : places_) {
      std::ranges::move(members.ask(place.member, profile_request(model)),
                        std::back_inserter(questions));
    }
    return questions;
  });
  PRIMA_ASSIGN_OR_RETURN(offer.devices[kHead].profile, planning_->profile());
  const auto answered = [&](Membership& members, const Place& place) {
    const Member* const member = members.find(place.member);
    return member == nullptr || member->profile.has_value();
  };
  const Status all = wait_until(
      [&](Membership& members) {
        return std::all_of(places_.begin() + 1, places_.end(),
                           [&](const Place& place) { return answered(members, place); });
      },
      FormationProgress::Stage::profiling,
      network_.clock().now() + kProfileTimeout * places_.size());
  if (!all && all.error().code != ErrorCode::deadline_exceeded) return all;
  control_->with_members([&](Membership& members) {
    for (std::size_t i = 1; i < places_.size(); ++i) {
      const Member* const member = members.find(places_[i].member);
      if (member == nullptr) {
        offer.devices[i].problem = "it has left";
      } else if (!member->profile) {
        offer.devices[i].problem = "its profile did not come in time";
      } else if (member->profile->error) {
        offer.devices[i].problem = member->profile->error->message();
      } else {
        offer.devices[i].profile = member->profile->profile;
      }
    }
    return 0;
  });
  return {};
}

// One after the other: links that share the air, or a device, would slow each other.
Status RemoteRing::measure_links(RingOffer& offer, const std::vector<Place>& places) {
  const std::size_t n = places.size();
  offer.links.resize(n * (n - 1) / 2);
  const auto waits = [&](const Place& place) {
    return control_->with_members([&](Membership& members) {
      const Member* const member = members.find(place.member);
      return member != nullptr && member->state == Member::State::waiting;
    });
  };
  for (std::size_t a = 0; a < n; ++a) {
    for (std::size_t b = a + 1; b < n; ++b) {
      auto& link = offer.links[link_index(n, a, b)];
      if (link || offer.devices[a].profile.empty() || offer.devices[b].profile.empty()) continue;
      if (planning_->known_link) link = planning_->known_link(offer.devices[a], offer.devices[b]);
      if (link) continue;
      PRIMA_RETURN_IF_ERROR(check());
      PRIMA_RETURN_IF_ERROR(show_progress(FormationProgress::Stage::measuring_links));
      // Who serves answers probes, but sends none.
      if (a == kHead || waits(places[a])) {
        link = measure_link_between(places[a], places[b]);
      } else if (waits(places[b])) {
        link = measure_link_between(places[b], places[a]);
        if (link) std::swap(link->forward_bytes_per_second, link->backward_bytes_per_second);
      }
    }
  }
  return {};
}

// `a`: this device, or a member that waits.
std::optional<profile::LinkProfile> RemoteRing::measure_link_between(const Place& a,
                                                                     const Place& b) {
  const Bytes step_bytes = model_.n_embd * sizeof(float);
  const Bytes most_bytes =
      std::clamp(step_bytes * options_.executor.max_tokens, step_bytes, kMostProbeBytes);
  const Neighbour to = b.neighbour(1);
  if (a.member == 0) {
    const auto measured = measure_link(network_, {to.host.empty() ? "127.0.0.1" : to.host, to.port},
                                       step_bytes, most_bytes);
    if (!measured) log::warn("{}: {}", b.name, measured.error().message());
    return measured ? std::optional(*measured) : std::nullopt;
  }
  control_->with_members([&](Membership& members) {
    if (Member* const member = members.find(a.member)) member->link.reset();
    return members.ask(a.member, LinkRequest{to, step_bytes, most_bytes});
  });
  static_cast<void>(wait_until(
      [&](Membership& members) {
        const Member* const member = members.find(a.member);
        return member == nullptr || member->link.has_value();
      },
      FormationProgress::Stage::measuring_links, network_.clock().now() + kLinkProbeTimeout));
  return control_->with_members([&](Membership& members) -> std::optional<profile::LinkProfile> {
    const Member* const member = members.find(a.member);
    return member != nullptr && member->link ? member->link->link : std::nullopt;
  });
}

}  // namespace prima::ring
