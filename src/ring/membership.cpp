#include "ring/membership.h"

#include <algorithm>

#include "base/log.h"

namespace prima::ring {
namespace {

// How long a message may be on its way beyond what a slow link needs for its bytes.
constexpr Duration kLinkGrace = std::chrono::seconds(3);
constexpr double kSlowestLinkBytesPerSecond = 1e6;  // poor Wi-Fi

LinkCount count_of(const std::map<std::uint32_t, LinkCount>& counts, std::uint32_t device) {
  const auto found = counts.find(device);
  return found == counts.end() ? LinkCount{} : found->second;
}

}  // namespace

const char* to_string(Member::State state) {
  switch (state) {
    case Member::State::waiting: return "waiting";
    case Member::State::preparing: return "loading";
    case Member::State::serving: return "serving";
    case Member::State::gone: return "gone";
  }
  return "";
}

Membership::Membership(std::uint32_t n_wanted, HeartbeatTimes times)
    : n_wanted_(n_wanted), times_(times) {}

std::size_t Membership::count(Member::State state) const {
  return static_cast<std::size_t>(std::ranges::count(members_, state, &Member::state));
}

Member* Membership::find(const transport::PeerId& peer) {
  const auto found = std::ranges::find_if(members_, [&](const Member& member) {
    return member.peer == peer && member.state != Member::State::gone;
  });
  return found == members_.end() ? nullptr : &*found;
}

Member* Membership::of_session(const transport::PeerId& peer, std::uint64_t session) {
  return session == session_ && session_ != 0 ? find(peer) : nullptr;
}

Member* Membership::find(std::uint64_t member) {
  const auto found = std::ranges::find_if(members_, [&](const Member& each) {
    return each.id == member && each.state != Member::State::gone;
  });
  return found == members_.end() ? nullptr : &*found;
}

std::vector<Outgoing> Membership::ask(std::uint64_t member, ControlMessage question) {
  const Member* const asked = find(member);
  if (asked == nullptr) return {};
  return {{asked->peer, std::move(question)}};
}

std::vector<Outgoing> Membership::receive(const transport::PeerId& peer, const std::string& address,
                                          const ControlMessage& message, Instant now) {
  if (const auto* const hello = std::get_if<Hello>(&message)) {
    return greet(peer, address, *hello, now);
  }
  if (const auto* const request = std::get_if<StatusRequest>(&message)) {
    if (request->protocol_version != kProtocolVersion) {
      return {
          {peer, Refusal{{ErrorCode::unsupported,
                          "This head speaks protocol version " + std::to_string(kProtocolVersion) +
                              ", the other side " + std::to_string(request->protocol_version),
                          "Use the same build of Prima on all devices"}}}};
    }
    return {{peer, status_now()}};
  }
  if (Member* const member = find(peer)) member->last_heard = now;
  if (const auto* const loading = std::get_if<Loading>(&message)) {
    if (Member* const member = of_session(peer, loading->session)) {
      member->loaded = loading->done;
      member->to_load = loading->total;
    }
  } else if (const auto* const loaded = std::get_if<Loaded>(&message)) {
    if (Member* const member = of_session(peer, loaded->session)) {
      member->is_loaded = true;
      member->memory = loaded->memory;
    }
  } else if (const auto* const link = std::get_if<LinkUp>(&message)) {
    if (Member* const member = of_session(peer, link->session)) member->links_up.insert(link->from);
  } else if (const auto* const heartbeat = std::get_if<Heartbeat>(&message)) {
    if (Member* const member = of_session(peer, heartbeat->session)) {
      member->progress = {.idle = heartbeat->idle, .sent = {}, .received = {}};
      for (const LinkCount& count : heartbeat->sent) member->progress.sent[count.device] = count;
      for (const LinkCount& count : heartbeat->received) {
        member->progress.received[count.device] = count;
      }
    }
  } else if (const auto* const profile = std::get_if<ProfileReply>(&message)) {
    if (Member* const member = find(peer)) member->profile = *profile;
  } else if (const auto* const reply = std::get_if<LinkReply>(&message)) {
    if (Member* const member = find(peer)) member->link = *reply;
  } else if (const auto* const failure = std::get_if<Failure>(&message)) {
    if (Member* const member = of_session(peer, failure->session)) {
      lose(*member,
           {failure->error.code, member->name + ": " + failure->error.what, failure->error.remedy});
    }
  } else if (std::holds_alternative<Release>(message)) {
    if (Member* const member = find(peer)) {
      lose(*member, {ErrorCode::unavailable, member->name + " has left the ring",
                     "Ask again: the ring forms anew from the devices that are there"});
    }
  }
  update_serving();
  return {};
}

StatusReply Membership::status_now() const {
  StatusReply reply = status;
  for (const Member& member : members_) {
    if (member.device != kHead && member.device < reply.ring.devices.size()) {
      reply.ring.devices[member.device].state = to_string(member.state);
    } else if (member.state != Member::State::gone) {  // the ring still forms
      reply.ring.devices.push_back({.name = member.name,
                                    .address = member.address,
                                    .state = to_string(member.state),
                                    .windows = {},
                                    .memory = member.memory});
    }
  }
  return reply;
}

std::optional<Error> Membership::refusal_of(const Hello& hello) const {
  if (hello.protocol_version != kProtocolVersion) {
    return Error{ErrorCode::unsupported,
                 hello.name + " speaks protocol version " + std::to_string(hello.protocol_version) +
                     ", the head " + std::to_string(kProtocolVersion),
                 "Use the same build of Prima on all devices"};
  }
  if (hello.build != build_description()) {
    return Error{ErrorCode::unsupported,
                 hello.name + " runs " + hello.build + ", the head " + build_description(),
                 "Use the same build of Prima on all devices"};
  }
  const std::size_t n_members = members_.size() - count(Member::State::gone);
  const bool is_full = n_wanted_ == kAnyNumber
                           ? n_members + 1 >= kMaxDevices  // the head is one
                           : session_ != 0 || count(Member::State::waiting) >= n_wanted_;
  if (is_full) {
    return Error{ErrorCode::resource_exhausted, "The ring has all the devices it wants", ""};
  }
  return std::nullopt;
}

std::vector<Outgoing> Membership::greet(const transport::PeerId& peer, const std::string& address,
                                        const Hello& hello, Instant now) {
  const auto known = std::ranges::find_if(members_, [&](const Member& member) {
    return member.id == hello.member && member.state != Member::State::gone;
  });
  const Welcome welcome{times_.interval, times_.head_timeout};
  if (known != members_.end()) {
    if (known->state != Member::State::waiting) {
      lose(*known, {ErrorCode::unavailable, known->name + " has left the ring", ""});
    } else {
      known->peer = peer;
      known->last_heard = now;
      return {{peer, welcome}};
    }
  }
  if (auto refusal = refusal_of(hello)) {
    log::debug("Refused {}: {}", hello.name, refusal->message());
    if (refusal->code != ErrorCode::resource_exhausted) last_refusal_ = refusal;
    return {{peer, Refusal{std::move(*refusal)}}};
  }
  Member member;
  member.id = hello.member;
  member.name = hello.name;
  member.peer = peer;
  member.address = address;
  member.data_port = hello.data_port;
  member.last_heard = now;
  members_.push_back(std::move(member));
  return {{peer, welcome}};
}

std::vector<Outgoing> Membership::assign(std::uint64_t session,
                                         const std::vector<std::string>& device_names,
                                         const Route& route, std::vector<Assigned> assigned) {
  std::vector<Outgoing> outgoing;
  session_ = session;
  device_names_ = device_names;
  links_ = links_of(route);
  for (Assigned& each : assigned) {
    Member& member = *find(each.member);
    member.state = Member::State::preparing;
    member.device = each.assignment.device;
    outgoing.push_back({member.peer, std::move(each.assignment)});
  }
  return outgoing;
}

void Membership::head_heard_from(std::uint32_t device) {
  head_links_up_.insert(device);
  update_serving();
}

bool Membership::all_loaded() const {
  return std::ranges::all_of(members_, [](const Member& member) {
    return member.state == Member::State::gone || member.state == Member::State::waiting ||
           member.is_loaded;
  });
}

bool Membership::all_serving() const {
  return session_ != 0 && std::ranges::all_of(members_, [](const Member& member) {
           return member.state != Member::State::preparing;
         });
}

void Membership::update_serving() {
  if (session_ == 0 || !all_loaded()) return;
  if (!missing_links().empty()) return;
  for (Member& member : members_) {
    if (member.state == Member::State::preparing) member.state = Member::State::serving;
  }
}

std::string Membership::missing_links() const {
  std::string missing;
  for (const auto& [from, to] : links_) {
    const std::set<std::uint32_t>* up = &head_links_up_;
    for (const Member& member : members_) {
      if (member.device == to && to != kHead && member.state != Member::State::gone) {
        up = &member.links_up;
      }
    }
    if (up->contains(from)) continue;
    if (!missing.empty()) missing += "; ";
    missing += name(to) + " has heard nothing from " + name(from);
  }
  return missing;
}

std::vector<Outgoing> Membership::tick(Instant now, std::uint32_t epoch, const NodeProgress& head) {
  std::vector<Outgoing> outgoing;
  // Where this device itself stood still, what the others said meanwhile is yet to be read.
  const bool stood_still = last_tick_ != Instant{} && now - last_tick_ > 2 * times_.interval;
  const Duration pause = stood_still ? now - last_tick_ : Duration{};
  last_tick_ = now;
  for (Member& member : members_) {
    if (member.state == Member::State::gone) continue;
    member.last_heard = std::min(now, member.last_heard + pause);
    if (now - member.last_heard > times_.worker_timeout) {
      lose(member, {ErrorCode::unavailable, member.name + " (" + member.address + ") was lost",
                    "Ask again: the ring forms anew from the devices that are there"});
      continue;
    }
    outgoing.push_back(
        {member.peer,
         Heartbeat{
             .session = session_, .epoch = epoch, .idle = head.idle, .sent = {}, .received = {}}});
  }
  if (session_ == 0) {  // whoever left before there was a ring is nobody's loss
    std::erase_if(members_,
                  [](const Member& member) { return member.state == Member::State::gone; });
  } else if (!failure_) {
    check_links(now, head);
  }
  return outgoing;
}

void Membership::check_links(Instant now, const NodeProgress& head) {
  std::map<std::uint32_t, const NodeProgress*> progress{{kHead, &head}};
  for (const Member& member : members_) {
    if (member.state == Member::State::serving) progress[member.device] = &member.progress;
  }
  for (const DevicePair& link : links_) {
    const auto from = progress.find(link.first);
    const auto to = progress.find(link.second);
    if (from == progress.end() || to == progress.end()) continue;
    const LinkCount sent = count_of(from->second->sent, link.second);
    const LinkCount received = count_of(to->second->received, link.first);
    // A device that computes does not take messages, and that is no fault of the link.
    if (!to->second->idle || sent.messages <= received.messages) {
      stuck_.erase(link);
      continue;
    }
    StuckLink& stuck = stuck_[link];
    if (stuck.since == Instant{} || stuck.received != received.messages) {
      stuck = {sent.messages, received.messages, now};
      continue;
    }
    const Duration needed(static_cast<Duration::rep>(
        1e9 * static_cast<double>(sent.bytes - std::min(sent.bytes, received.bytes)) /
        kSlowestLinkBytesPerSecond));
    if (now - stuck.since > kLinkGrace + needed) {
      fail_session({ErrorCode::unavailable,
                    "Messages from " + name(link.first) + " do not reach " + name(link.second),
                    "Check the network between the two"});
    }
  }
}

void Membership::lose(Member& member, Error error) {
  const bool in_session = member.state != Member::State::waiting;
  member.state = Member::State::gone;
  if (in_session) fail_session(std::move(error));
}

void Membership::fail_session(Error error) {
  if (!failure_) failure_ = std::move(error);
}

std::vector<Outgoing> Membership::release(const std::string& reason) {
  std::vector<Outgoing> outgoing;
  for (Member& member : members_) {
    if (member.state == Member::State::gone) continue;
    outgoing.push_back({member.peer, Release{session_, reason}});
    member.state = Member::State::gone;
  }
  return outgoing;
}

}  // namespace prima::ring
