// Who belongs to a head's ring, and how they are: the head's side of joining and of being lost.
// Pure bookkeeping: messages and time go in, messages come out. head_control.h puts a thread and a
// socket around it.
//
// A member's state, and what each event does in it:
//
//                 | Hello       | assign()  | Loading, Loaded,| Heartbeat | Failure | silence,
//                 |             |           | LinkUp          |           |         | Release
//     ------------+-------------+-----------+-----------------+-----------+---------+----------
//     (unknown)   | -> waiting, | -         | ignored         | ignored   | ignored | -
//                 | or refused  |           |                 |           |         |
//     waiting     | welcomed    | -> prep.  | ignored         | noted     | -> gone | -> gone
//                 | again       |           |                 |           |         |
//     preparing   | -> gone *   | -         | noted; -> serv. | noted     | -> gone*| -> gone *
//                 |             |           | when all is up  |           |         |
//     serving     | -> gone *   | -         | ignored         | noted     | -> gone*| -> gone *
//     gone        | ignored     | -         | ignored         | ignored   | ignored | -
//
//     * the session fails; its first failure stays
//
// A Hello from a member that serves means that its process has started anew or has given this head
// up. Messages of other sessions count as signs of life only.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "ring/messages.h"
#include "ring/node.h"
#include "transport/network.h"

namespace prima::ring {

struct HeartbeatTimes {
  std::chrono::milliseconds interval{500};
  // A worker that is silent for so long is lost: with detection and telling, well inside 5 s.
  std::chrono::milliseconds worker_timeout{3000};
  // Workers leave a head that is silent for so long; they must be free 10 s after it dies.
  std::chrono::milliseconds head_timeout{5000};
};

struct Member {
  enum class State { waiting, preparing, serving, gone };

  std::uint64_t id = 0;
  std::string name;
  transport::PeerId peer;
  std::string address;
  std::uint16_t data_port = 0;
  State state = State::waiting;
  std::uint32_t device = 0;  // from preparing on
  Instant last_heard{};
  Bytes loaded = 0;
  Bytes to_load = 0;
  bool is_loaded = false;
  compute::ExecutorMemory memory;
  std::set<std::uint32_t> links_up;  // devices it has heard from
  NodeProgress progress;
  std::optional<ProfileReply> profile;
  std::optional<LinkReply> link;  // the last that was asked for
};

const char* to_string(Member::State state);

struct Outgoing {
  transport::PeerId peer;
  ControlMessage message;
};

class Membership {
 public:
  // `n_wanted` of kAnyNumber: all that come, also while a session runs: they wait for the next
  // plan.
  static constexpr std::uint32_t kAnyNumber = 0xffffffff;
  Membership(std::uint32_t n_wanted, HeartbeatTimes times);

  std::vector<Outgoing> receive(const transport::PeerId& peer, const std::string& address,
                                const ControlMessage& message, Instant now);

  // Heartbeats, and noticing who is silent and which links are stuck. `head`: the head's own node.
  // To be called every times.interval.
  std::vector<Outgoing> tick(Instant now, std::uint32_t epoch, const NodeProgress& head);

  // Begins a session: an assignment for each of these members; others go on waiting.
  struct Assigned {
    std::uint64_t member = 0;
    Assignment assignment;
  };
  std::vector<Outgoing> assign(std::uint64_t session, const std::vector<std::string>& device_names,
                               const Route& route, std::vector<Assigned> assigned);

  // Asks a waiting member; nothing if it is gone.
  std::vector<Outgoing> ask(std::uint64_t member, ControlMessage question);
  Member* find(std::uint64_t member);

  // A link of the session has been opened to the head.
  void head_heard_from(std::uint32_t device);
  bool all_loaded() const;
  bool all_serving() const;

  // Why links are not all up yet: "desktop has heard nothing from laptop".
  std::string missing_links() const;

  std::vector<Outgoing> release(const std::string& reason);
  void fail_session(Error error);

  const std::optional<Error>& failure() const { return failure_; }
  const std::vector<Member>& members() const { return members_; }
  std::size_t count(Member::State state) const;
  const std::optional<Error>& last_refusal() const { return last_refusal_; }

  // What `prima status` is told, with the states of members added. Until the ring has formed it
  // names no devices, and the members that are there are told.
  StatusReply status;

 private:
  struct StuckLink {
    std::uint64_t sent = 0;
    std::uint64_t received = 0;
    Instant since{};
  };

  Member* find(const transport::PeerId& peer);
  Member* of_session(const transport::PeerId& peer, std::uint64_t session);
  std::vector<Outgoing> greet(const transport::PeerId& peer, const std::string& address,
                              const Hello& hello, Instant now);
  std::optional<Error> refusal_of(const Hello& hello) const;
  StatusReply status_now() const;
  void lose(Member& member, Error error);
  void check_links(Instant now, const NodeProgress& head);
  void update_serving();
  const std::string& name(std::uint32_t device) const { return device_names_[device]; }

  const std::uint32_t n_wanted_;
  const HeartbeatTimes times_;
  std::vector<Member> members_;
  std::uint64_t session_ = 0;
  Instant last_tick_{};
  std::vector<std::string> device_names_;
  std::set<DevicePair> links_;
  std::set<std::uint32_t> head_links_up_;
  std::map<DevicePair, StuckLink> stuck_;
  std::optional<Error> failure_;
  std::optional<Error> last_refusal_;
};

}  // namespace prima::ring
