#include "transport/simulated_network.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <queue>
#include <random>
#include <set>
#include <stdexcept>
#include <thread>
#include <utility>

namespace prima::transport {
namespace {

constexpr std::uint16_t kFirstPort = 1000;

// A thread of the simulation.
struct Task {
  std::string host;
  std::condition_variable turn;
  bool running = false;
  bool finished = false;
  bool ready = true;  // to run at once
  Instant wake_at{};  // else not before this
  const void* waiting_on = nullptr;
};

thread_local Task* current_task = nullptr;

}  // namespace

class SimulatedHost;
class SimulatedListener;
class SimulatedLinkEnd;

struct Event {
  Instant at;
  std::uint64_t order = 0;
  std::function<void()> happen;

  bool operator<(const Event& other) const {  // the earliest on top of a priority_queue
    return std::pair(at, order) > std::pair(other.at, other.order);
  }
};

struct SimulatedWorld::State {
  explicit State(std::uint64_t seed) : random(seed) {}

  // All below is guarded by mutex, or touched only by the one running task.
  std::mutex mutex;
  ManualClock clock;
  std::mt19937_64 random;
  std::deque<std::shared_ptr<Task>> tasks;
  std::priority_queue<Event> events;
  std::uint64_t event_count = 0;
  std::uint64_t connection_count = 0;
  std::map<std::string, std::unique_ptr<SimulatedHost>> hosts;
  std::map<Endpoint, SimulatedListener*> listeners;
  std::map<std::string, SimulatedLinkEnd*> links;  // by peer id
  std::uint16_t next_port = kFirstPort;
  std::map<std::pair<std::string, std::string>, SimulatedLink> behaviours;
  SimulatedLink usual;
  std::map<std::pair<std::string, std::string>, std::vector<std::function<void()>>> held_back;
  std::set<std::string> stopped;

  const SimulatedLink& behaviour(const std::string& from, const std::string& to) const {
    const auto found = behaviours.find({from, to});
    return found == behaviours.end() ? usual : found->second;
  }

  void at(Instant when, std::function<void()> happen) {
    events.push({when, event_count++, std::move(happen)});
  }

  // Gives the turn to the next task. Called with the lock held by whoever stops running.
  void pass_turn() {
    while (true) {
      for (auto task = tasks.begin(); task != tasks.end(); ++task) {
        if ((*task)->finished || !(*task)->ready || stopped.contains((*task)->host)) continue;
        const std::shared_ptr<Task> next = *task;  // to the end of the queue: all get their turn
        tasks.erase(task);
        tasks.push_back(next);
        next->ready = false;
        next->running = true;
        next->turn.notify_one();
        return;
      }
      advance();
    }
  }

  void advance() {
    std::optional<Instant> next;
    if (!events.empty()) next = events.top().at;
    for (const auto& task : tasks) {
      if (task->finished || stopped.contains(task->host)) continue;
      if (!next || task->wake_at < *next) next = task->wake_at;
    }
    if (!next) throw std::logic_error("nothing will ever happen in this simulation");
    if (*next > clock.now()) clock.set(*next);
    while (!events.empty() && events.top().at <= clock.now()) {
      auto happen = events.top().happen;
      events.pop();
      happen();
    }
    for (const auto& task : tasks) {
      if (!task->finished && task->wake_at <= clock.now()) task->ready = true;
    }
  }

  // The running task waits until `deadline`, or until something wakes waiters on `object`.
  void wait(const void* object, Instant deadline) {
    std::unique_lock lock(mutex);
    Task& self = *current_task;
    self.waiting_on = object;
    self.wake_at = deadline;
    self.running = false;
    pass_turn();
    self.turn.wait(lock, [&] { return self.running; });
    self.waiting_on = nullptr;
  }

  void wake(const void* object) {
    for (const auto& task : tasks) {
      if (task->waiting_on == object) task->ready = true;
    }
  }

  // Brings a message over, some time later; `arrive` runs then.
  void carry(const std::string& from, const std::string& to, Instant& last_arrival, Message message,
             std::function<void(Message)> arrive) {
    const SimulatedLink& link = behaviour(from, to);
    std::vector<Message> messages;
    if (link.tamper) {
      messages = link.tamper(std::move(message));
    } else {
      messages.push_back(std::move(message));
    }
    for (Message& each : messages) {
      const auto size = static_cast<double>(each.header.size() + each.payload.size());
      const Duration transfer(static_cast<Duration::rep>(1e9 * size / link.bytes_per_second));
      std::uniform_int_distribution<Duration::rep> delay(link.delay_min.count(),
                                                         link.delay_max.count());
      const Instant arrival =
          std::max(clock.now() + Duration(delay(random)) + transfer, last_arrival + transfer);
      last_arrival = arrival;
      auto deliver = [arrive, shared = std::make_shared<Message>(std::move(each))] {
        arrive(*shared);
      };
      if (link.cut) {
        held_back[{from, to}].push_back(std::move(deliver));
      } else {
        at(arrival, std::move(deliver));
      }
    }
  }
};

class SimulatedListener final : public Listener {
 public:
  SimulatedListener(SimulatedWorld::State& world, Endpoint endpoint)
      : world_(world), endpoint_(std::move(endpoint)) {
    world_.listeners[endpoint_] = this;
  }
  ~SimulatedListener() override { world_.listeners.erase(endpoint_); }

  std::uint16_t port() const override { return endpoint_.port; }

  std::optional<Incoming> receive(Instant deadline) override {
    while (arrived_.empty()) {
      if (std::exchange(interrupted_, false) || world_.clock.now() >= deadline) return std::nullopt;
      world_.wait(this, deadline);
    }
    Incoming incoming = std::move(arrived_.front());
    arrived_.pop_front();
    return incoming;
  }

  Status send(const PeerId& peer, Message message) override;

  void interrupt() override {
    interrupted_ = true;
    world_.wake(this);
  }

  void arrive(Incoming incoming) {
    arrived_.push_back(std::move(incoming));
    world_.wake(this);
  }

 private:
  SimulatedWorld::State& world_;
  const Endpoint endpoint_;
  std::deque<Incoming> arrived_;
  std::map<PeerId, Instant> last_arrivals_;
  bool interrupted_ = false;
};

class SimulatedLinkEnd final : public Link {
 public:
  SimulatedLinkEnd(SimulatedWorld::State& world, std::string host, Endpoint endpoint)
      : world_(world),
        host_(std::move(host)),
        endpoint_(std::move(endpoint)),
        id_(host_ + "/" + std::to_string(world.connection_count++)) {
    world_.links[id_] = this;
  }
  ~SimulatedLinkEnd() override { world_.links.erase(id_); }

  Status send(Message message) override {
    world_.carry(host_, endpoint_.host, last_arrival_, std::move(message),
                 [&world = world_, to = endpoint_, id = id_, from = host_](Message arrived) {
                   const auto listener = world.listeners.find(to);
                   if (listener == world.listeners.end()) return;
                   listener->second->arrive({id, from, std::move(arrived)});
                 });
    return {};
  }

  std::optional<Message> receive(Instant deadline) override {
    while (arrived_.empty()) {
      if (std::exchange(interrupted_, false) || world_.clock.now() >= deadline) return std::nullopt;
      world_.wait(this, deadline);
    }
    Message message = std::move(arrived_.front());
    arrived_.pop_front();
    return message;
  }

  void interrupt() override {
    interrupted_ = true;
    world_.wake(this);
  }

  void arrive(Message message) {
    arrived_.push_back(std::move(message));
    world_.wake(this);
  }

  const std::string& host() const { return host_; }

 private:
  SimulatedWorld::State& world_;
  const std::string host_;
  const Endpoint endpoint_;
  const PeerId id_;
  std::deque<Message> arrived_;
  Instant last_arrival_{};
  bool interrupted_ = false;
};

Status SimulatedListener::send(const PeerId& peer, Message message) {
  const auto link = world_.links.find(peer);
  if (link == world_.links.end()) {
    return fail(ErrorCode::unavailable, "The connection to a device is gone");
  }
  world_.carry(endpoint_.host, link->second->host(), last_arrivals_[peer], std::move(message),
               [&world = world_, peer](Message arrived) {
                 const auto to = world.links.find(peer);
                 if (to != world.links.end()) to->second->arrive(std::move(arrived));
               });
  return {};
}

class SimulatedThread final : public Thread {
 public:
  SimulatedThread(SimulatedWorld::State& world, const std::string& host, std::function<void()> body)
      : world_(world), task_(std::make_shared<Task>()) {
    task_->host = host;
    const std::lock_guard lock(world_.mutex);
    world_.tasks.push_back(task_);
    thread_ = std::thread([this, body = std::move(body)] {
      current_task = task_.get();
      {
        std::unique_lock start(world_.mutex);
        task_->turn.wait(start, [this] { return task_->running; });
      }
      body();
      const std::lock_guard end(world_.mutex);
      task_->finished = true;
      world_.wake(task_.get());
      world_.pass_turn();
    });
  }

  ~SimulatedThread() override {
    // Long after everything that could end the thread: a thread that never ends fails the test by
    // the simulation's own error or the test's time limit.
    while (!task_->finished) world_.wait(task_.get(), world_.clock.now() + std::chrono::hours(1));
    thread_.join();
    const std::lock_guard lock(world_.mutex);
    std::erase(world_.tasks, task_);
  }

 private:
  SimulatedWorld::State& world_;
  const std::shared_ptr<Task> task_;
  std::thread thread_;
};

class SimulatedHost final : public Network {
 public:
  SimulatedHost(SimulatedWorld::State& world, std::string name)
      : world_(world), name_(std::move(name)) {}

  const Clock& clock() const override { return world_.clock; }

  Result<std::unique_ptr<Listener>> listen(std::uint16_t port) override {
    if (port == 0) port = world_.next_port++;
    const Endpoint endpoint{name_, port};
    if (world_.listeners.contains(endpoint)) {
      return fail(ErrorCode::unavailable, "Port " + std::to_string(port) + " is taken");
    }
    return std::make_unique<SimulatedListener>(world_, endpoint);
  }

  Result<std::unique_ptr<Link>> connect(const Endpoint& endpoint) override {
    return std::make_unique<SimulatedLinkEnd>(world_, name_, endpoint);
  }

  std::unique_ptr<Thread> start_thread(const char*, std::function<void()> body) override {
    return std::make_unique<SimulatedThread>(world_, name_, std::move(body));
  }

 private:
  SimulatedWorld::State& world_;
  const std::string name_;
};

SimulatedWorld::SimulatedWorld(std::uint64_t seed) : state_(std::make_unique<State>(seed)) {}
SimulatedWorld::~SimulatedWorld() = default;

void SimulatedWorld::run(const std::function<void()>& body) {
  const auto task = std::make_shared<Task>();
  task->host = "(test)";
  task->running = true;
  task->ready = false;
  state_->tasks.push_back(task);
  current_task = task.get();
  body();
  current_task = nullptr;
  const std::lock_guard lock(state_->mutex);
  std::erase(state_->tasks, task);
}

Network& SimulatedWorld::host(const std::string& name) {
  auto& host = state_->hosts[name];
  if (!host) host = std::make_unique<SimulatedHost>(*state_, name);
  return *host;
}

const Clock& SimulatedWorld::clock() const { return state_->clock; }

void SimulatedWorld::sleep(Duration duration) {
  const Instant until = state_->clock.now() + duration;
  while (state_->clock.now() < until) state_->wait(nullptr, until);
}

void SimulatedWorld::set_link(const std::string& from, const std::string& to, SimulatedLink link) {
  const bool restored = !link.cut;
  state_->behaviours[{from, to}] = std::move(link);
  if (!restored) return;
  auto held = state_->held_back.extract({from, to});
  if (held.empty()) return;
  for (auto& deliver : held.mapped()) {
    state_->at(state_->clock.now() + state_->behaviour(from, to).delay_min, std::move(deliver));
  }
}

void SimulatedWorld::set_all_links(SimulatedLink link) { state_->usual = std::move(link); }

void SimulatedWorld::stop(const std::string& host) { state_->stopped.insert(host); }
void SimulatedWorld::resume(const std::string& host) { state_->stopped.erase(host); }

}  // namespace prima::transport
