#include "cli/profile_command.h"

#include <cstdio>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>

#include "cli/device_profile.h"
#include "cli/exit_code.h"
#include "cli/processor_options.h"
#include "profile/device_profile_json.h"

namespace prima::cli {
namespace {

constexpr const char* kProfileFooter =
    "Times real layers of this model on each of this device's processors, reads the model's own\n"
    "file as streaming does, and looks at the memory there is. Takes ten seconds at most, once: "
    "what\n"
    "was measured is kept for this hardware, these shapes and this build (prima run and prima "
    "join\n"
    "use it, and measure by themselves where there is nothing yet).\n"
    "\n"
    "Examples:\n"
    "  prima profile -m model.gguf\n"
    "  prima profile -m model.gguf --fresh --json > laptop.json\n";

struct ProfileCommandOptions {
  std::filesystem::path model;
  std::string kv_type = "f16";
  ProcessorOptions processor;
  bool fresh = false;
  bool json = false;
};

void print_row(const std::string& name, const profile::TokenTimes& times) {
  std::printf("  %-34s", name.c_str());
  for (const double seconds : times.seconds) std::printf(" %9.3f", 1e3 * seconds);
  std::printf("\n");
}

bool is_measured(const profile::TokenTimes& times) { return times.seconds.back() > 0; }

void print_backend(const std::string& name, const plan::ModelShape& shape,
                   const std::vector<profile::LayerTimes>& layers,
                   const profile::TokenTimes& output) {
  if (layers.empty()) return;
  std::printf("\n%s, ms per layer\n  %-34s", name.c_str(), "tokens at once");
  for (const std::uint32_t tokens : profile::kTimedTokens) std::printf(" %9u", tokens);
  std::printf("\n");
  for (std::size_t i = 0; i < layers.size(); ++i) {
    print_row(shape.classes[i].name, layers[i].short_context_seconds);
    if (layers[i].long_context_tokens <= layers[i].short_context_tokens) continue;
    print_row("  after " + std::to_string(layers[i].long_context_tokens) + " tokens",
              layers[i].long_context_seconds);
  }
  if (is_measured(output)) print_row("output layer", output);
}

void print_table(const profile::DeviceProfile& profile, const plan::ModelShape& shape,
                 bool measured) {
  std::printf("%s, %s (%s)\n", profile.name.c_str(), shape.name.c_str(),
              measured ? "measured now" : "measured before; --fresh measures again");
  std::printf("  memory for layers   %s%s\n", format_bytes(profile.memory_available_bytes).c_str(),
              profile.unified_memory ? ", shared with the GPU" : "");
  std::printf("  compute buffers     %s\n", format_bytes(profile.compute_buffer_bytes).c_str());
  std::printf("  disk                %s\n",
              format_bytes_per_second(profile.disk_read_bytes_per_second).c_str());
  if (profile.unbudgeted_up_to_bytes > 0) {
    print_backend("Processor", shape, profile.cpu_layers, profile.cpu_output_seconds);
  }
  print_backend("Processor, within a memory budget", shape, profile.cpu_budgeted_layers,
                profile.cpu_budgeted_output_seconds);
  for (const profile::GpuProfile& gpu : profile.gpus) {
    print_backend(gpu.name, shape, gpu.layers, gpu.output_seconds);
    std::printf("  memory %s, copies %s there, %s back, %.3f ms each\n",
                format_bytes(gpu.vram_available_bytes).c_str(),
                format_bytes_per_second(gpu.copy_to_bytes_per_second).c_str(),
                format_bytes_per_second(gpu.copy_from_bytes_per_second).c_str(),
                1e3 * gpu.copy_latency_seconds);
  }
}

Status run(const ProfileCommandOptions& options) {
  PRIMA_ASSIGN_OR_RETURN(const auto model, model::ModelFile::open(options.model));
  const ggml_type kv_type = options.kv_type == "q8_0" ? GGML_TYPE_Q8_0 : GGML_TYPE_F16;
  compute::ExecutorOptions executor;
  executor.kv_type = kv_type;
  PRIMA_RETURN_IF_ERROR(apply(options.processor, executor));
  PRIMA_ASSIGN_OR_RETURN(const auto result, profile_this_device(model, {.executor = executor,
                                                                        .fresh = options.fresh}));
  if (options.json) {
    std::fputs(profile::to_json(result.profile).c_str(), stdout);
  } else {
    print_table(result.profile, planned_shape(model, kv_type), result.measured);
  }
  return {};
}

}  // namespace

void add_profile_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("profile", "Measure what this device can do with a model");
  command->footer(kProfileFooter);
  const auto options = std::make_shared<ProfileCommandOptions>();
  command->add_option("-m,--model", options->model, "The model, a GGUF file")->required();
  command->add_option("--kv-type", options->kv_type, "Keys and values are kept as f16 or q8_0")
      ->check(CLI::IsMember({"f16", "q8_0"}))
      ->capture_default_str();
  add_processor_options(*command, options->processor);
  command->add_flag("--fresh", options->fresh, "Measure although it was measured before");
  command->add_flag("--json", options->json, "For programs");
  command->callback([options, &exit_code] {
    const Status status = run(*options);
    exit_code = status ? kSuccess : report(status.error());
  });
}

}  // namespace prima::cli
