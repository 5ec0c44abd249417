// form_ring() of ring.h: on sockets, with the user's cluster key.
#include <filesystem>
#include <optional>

#include <unistd.h>

#include "base/log.h"
#include "ring/local_ring.h"
#include "ring/model_identity.h"
#include "ring/remote_ring.h"
#include "ring/ring.h"
#include "transport/cluster_key.h"
#include "transport/lan_rendezvous.h"
#include "transport/local_rendezvous.h"
#include "transport/zmq_network.h"

namespace prima::ring {
namespace {

// A RemoteRing with the network it runs on, which has to outlive it, and the word of it.
class SocketRing final : public Ring {
 public:
  SocketRing(std::unique_ptr<transport::Network> network, std::unique_ptr<RemoteRing> ring,
             std::shared_ptr<void> announcement)
      : network_(std::move(network)),
        ring_(std::move(ring)),
        announcement_(std::move(announcement)) {}

  Status submit(const compute::Step& step, std::span<const std::int32_t> tokens,
                Instant deadline) override {
    return ring_->submit(step, tokens, deadline);
  }
  Result<Finished> next(Instant deadline) override { return ring_->next(deadline); }
  std::size_t in_flight() const override { return ring_->in_flight(); }
  Status reset(Instant deadline) override { return ring_->reset(deadline); }
  RingDescription describe() const override { return ring_->describe(); }
  std::optional<std::string> reason_to_form_anew() override { return ring_->reason_to_form_anew(); }

 private:
  const std::unique_ptr<transport::Network> network_;
  const std::unique_ptr<RemoteRing> ring_;
  const std::shared_ptr<void> announcement_;
};

Result<std::unique_ptr<Ring>> form_local(const model::ModelFile& model,
                                         const RingOptions& options) {
  static const SystemClock clock;
  const std::uint32_t n_layer = model.hyperparameters().n_layer;
  // Windows for one device are as good as none; anything else is a mistake to tell.
  PRIMA_RETURN_IF_ERROR(make_route(n_layer, 1, options.windows, options.rounds, 0));
  compute::ExecutorOptions executor_options = options.executor;
  executor_options.windows = {{0, n_layer}};
  executor_options.is_head = true;
  if (options.make_observer) executor_options.on_computed = options.make_observer();
  const auto show = [&](Bytes done, Bytes total) {
    if (!options.progress) return true;
    return options.progress({.stage = FormationProgress::Stage::loading,
                             .workers_joined = 0,
                             .workers_wanted = 0,
                             .loaded = done,
                             .to_load = total,
                             .devices = {}});
  };
  PRIMA_ASSIGN_OR_RETURN(auto executor, compute::Executor::create(model, executor_options, show));
  return std::make_unique<LocalRing>(std::move(executor), n_layer, executor_options.max_tokens,
                                     options.device_name, clock);
}

// To workers on this device, and on others where there is a network.
Result<std::shared_ptr<void>> announce(const std::filesystem::path& folder,
                                       const transport::DerivedKeys& keys, std::uint16_t port) {
  auto announcements = std::make_shared<std::vector<std::shared_ptr<void>>>();
  PRIMA_ASSIGN_OR_RETURN(auto local, transport::announce_locally(folder, port));
  announcements->push_back(std::move(local));
  if (transport::lan_is_wanted()) {
    if (auto lan = transport::announce_on_lan(keys.announcement, port)) {
      announcements->push_back(std::move(*lan));
    } else {
      log::warn("{}", lan.error().message());
    }
  }
  return announcements;
}

}  // namespace

std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof(name) - 1) != 0 || name[0] == '\0') return "this device";
  return name;
}

Result<std::unique_ptr<Ring>> form_ring(const model::ModelFile& model, const RingOptions& given) {
  RingOptions options = given;
  if (options.device_name.empty()) options.device_name = host_name();
  if (options.n_workers == 0 && !options.make_planning) return form_local(model, options);

  std::filesystem::path key_path = options.key_file;
  if (key_path.empty()) {
    PRIMA_ASSIGN_OR_RETURN(key_path, transport::default_key_path());
  }
  // Without a key nobody can have joined.
  const bool gathers = options.gather_time > Duration{} && std::filesystem::exists(key_path);
  if (options.n_workers == 0 && !gathers) {
    PRIMA_ASSIGN_OR_RETURN(const DeviceShare share, options.make_planning(model).alone());
    apply(share, options.executor);
    return form_local(model, options);
  }
  PRIMA_ASSIGN_OR_RETURN(const auto key, transport::load_or_create_key(key_path));
  PRIMA_ASSIGN_OR_RETURN(const auto folder, transport::runtime_folder());
  ModelSummary summary{.identity = {},
                       .name = model.name(),
                       .n_layer = model.hyperparameters().n_layer,
                       .n_embd = model.hyperparameters().n_embd};
  PRIMA_ASSIGN_OR_RETURN(summary.identity, identify_model(model));
  std::optional<RingPlanning> planning;
  if (options.make_planning) planning = options.make_planning(model);
  const transport::DerivedKeys keys = transport::derive_keys(key);
  auto network = transport::make_zmq_network(keys);
  PRIMA_ASSIGN_OR_RETURN(
      auto ring,
      RemoteRing::form(
          *network, summary, options,
          [&](const compute::ExecutorOptions& executor, const compute::LoadProgress& progress) {
            return compute::Executor::create(model, executor, progress);
          },
          [&](std::uint16_t port) { return announce(folder, keys, port); }, {}, planning));
  PRIMA_ASSIGN_OR_RETURN(
      auto announcement,
      transport::announce_locally(folder, ring->port(), transport::HeadState::running));
  if (planning) {  // others may join, for the next plan
    PRIMA_ASSIGN_OR_RETURN(auto gathering, announce(folder, keys, ring->port()));
    announcement = std::make_shared<std::pair<std::shared_ptr<void>, std::shared_ptr<void>>>(
        std::move(announcement), std::move(gathering));
  }
  return std::make_unique<SocketRing>(std::move(network), std::move(ring), std::move(announcement));
}

}  // namespace prima::ring
