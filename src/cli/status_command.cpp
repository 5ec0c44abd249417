#include "cli/status_command.h"

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "base/units.h"
#include "cli/exit_code.h"
#include "ring/status_query.h"
#include "transport/cluster_key.h"
#include "transport/local_rendezvous.h"
#include "transport/zmq_network.h"

namespace prima::cli {

namespace {

constexpr Duration kPatience = std::chrono::seconds(3);

constexpr const char* kStatusFooter =
    "Asks the head that runs on this computer (prima run --workers N), or the one at --head.\n"
    "\n"
    "Examples:\n"
    "  prima status\n"
    "  prima status --json\n";

struct StatusOptions {
  std::string head;
  bool json = false;
  std::filesystem::path key_file;
};

std::string windows_text(const std::vector<compute::LayerRange>& windows) {
  std::string text;
  for (const compute::LayerRange& window : windows) {
    if (!text.empty()) text += ", ";
    text += std::to_string(window.first);
    if (window.size() > 1) text += "-" + std::to_string(window.last - 1);
  }
  return text.empty() ? "none" : text;
}

void print_text(const ring::StatusReply& status) {
  std::printf("%s on %zu devices, %u %s, %.1f tokens/s, %llu steps\n", status.model_name.c_str(),
              status.ring.devices.size(), status.ring.rounds,
              status.ring.rounds == 1 ? "round" : "rounds", status.tokens_per_second,
              static_cast<unsigned long long>(status.steps_finished));
  for (const ring::DeviceDescription& device : status.ring.devices) {
    const compute::ExecutorMemory& memory = device.memory;
    std::printf("  %-20s %-16s %-9s %10s   layers %s\n", device.name.c_str(),
                device.address.empty() ? "(head)" : device.address.c_str(), device.state.c_str(),
                format_bytes(memory.weights + memory.kv_cache + memory.compute_buffers + memory.gpu)
                    .c_str(),
                windows_text(device.windows).c_str());
  }
}

void print_json(const ring::StatusReply& status) {
  nlohmann::ordered_json json;
  json["model"] = status.model_name;
  json["rounds"] = status.ring.rounds;
  json["max_steps_in_flight"] = status.ring.max_steps_in_flight;
  json["steps_finished"] = status.steps_finished;
  json["tokens_per_second"] = status.tokens_per_second;
  json["devices"] = nlohmann::ordered_json::array();
  for (const ring::DeviceDescription& device : status.ring.devices) {
    nlohmann::ordered_json windows = nlohmann::ordered_json::array();
    for (const compute::LayerRange& window : device.windows) {
      windows.push_back({window.first, window.last});
    }
    json["devices"].push_back({{"name", device.name},
                               {"address", device.address},
                               {"state", device.state},
                               {"windows", windows},
                               {"memory",
                                {{"weights", device.memory.weights},
                                 {"kv_cache", device.memory.kv_cache},
                                 {"compute_buffers", device.memory.compute_buffers},
                                 {"gpu", device.memory.gpu},
                                 {"slots", device.memory.slots},
                                 {"streamed_per_token", device.memory.streamed}}}});
  }
  std::printf("%s\n", json.dump(2).c_str());
}

Result<int> run(const StatusOptions& options) {
  std::filesystem::path key_path = options.key_file;
  if (key_path.empty()) {
    PRIMA_ASSIGN_OR_RETURN(key_path, transport::default_key_path());
  }
  PRIMA_ASSIGN_OR_RETURN(const auto key, transport::load_or_create_key(key_path));
  std::vector<transport::Endpoint> heads;
  if (!options.head.empty()) {
    PRIMA_ASSIGN_OR_RETURN(auto head, transport::parse_endpoint(options.head));
    heads.push_back(std::move(head));
  } else {
    PRIMA_ASSIGN_OR_RETURN(const auto folder, transport::runtime_folder());
    heads = transport::find_local_heads(folder, transport::HeadState::running);
  }
  if (heads.empty()) {
    return fail(ErrorCode::not_found, "No head with a ring runs on this computer",
                "Start one with prima run --workers N, or name one with --head HOST:PORT");
  }
  const auto network = transport::make_zmq_network(transport::derive_keys(key));
  for (const transport::Endpoint& head : heads) {
    PRIMA_ASSIGN_OR_RETURN(const auto status,
                           ring::query_status(*network, head, network->clock().now() + kPatience));
    if (options.json) {
      print_json(status);
    } else {
      print_text(status);
    }
  }
  return kSuccess;
}

}  // namespace

void add_status_command(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<StatusOptions>();
  CLI::App* command = app.add_subcommand("status", "Show the ring of a running head");
  command->footer(kStatusFooter);
  command->add_option("--head", options->head, "HOST:PORT of the head, if it is elsewhere");
  command->add_flag("--json", options->json, "For programs");
  command->add_option("--key-file", options->key_file, "Cluster key, if not the user's own");
  command->callback([options, &exit_code] {
    const auto code = run(*options);
    exit_code = code ? *code : report(code.error());
  });
}

}  // namespace prima::cli
