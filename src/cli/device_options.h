// With which devices a command works, how large its context is, and the forming of the ring.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/interrupt.h"
#include "cli/processor_options.h"
#include "model/hyperparameters.h"
#include "model/model_file.h"
#include "ring/ring.h"

namespace CLI {
class App;
}

namespace prima::cli {

struct DeviceOptions {
  ProcessorOptions processor;
  std::string kv_type = "f16";
  std::optional<std::int64_t> workers;
  std::vector<std::int64_t> windows;
  std::optional<std::int64_t> rounds;  // without it and `windows`, the planner decides
  std::optional<std::int64_t> step_tokens;
  std::optional<std::filesystem::path> plan_file;
  std::uint32_t private_layers = 0;
  std::string link_type = "f32";
  std::uint16_t port = 0;
  std::filesystem::path key_file;  // empty: the user's own
};

void add_device_options(CLI::App& command, DeviceOptions& options);

// Only those that say which devices there are and what of this one may be used.
void add_joining_options(CLI::App& command, DeviceOptions& options);

ggml_type kv_type_of(const DeviceOptions& options);

// What needs no model to be found wrong, the processor options too. Fails with invalid_argument.
Status check(const DeviceOptions& options);

// KV cells: what was asked for; else 4096, or all that the model was trained for if that is less.
// Fails with invalid_argument beyond that.
Result<std::uint32_t> context_size(std::optional<std::int64_t> asked,
                                   const model::Hyperparameters& model);

// Of a prompt, computed at once: as many as were asked for; else fewer where this device's memory
// is short.
std::uint32_t step_tokens(const DeviceOptions& options, const compute::ExecutorOptions& executor,
                          std::uint32_t n_ctx, const model::Hyperparameters& model);

// With smaller steps where this device's memory is short; what is computed teaches this device's
// profile. The model must outlive the ring.
//
// REQUIRES: check(options).
ring::RingOptions ring_options(const DeviceOptions& options, std::uint32_t n_ctx,
                               const model::ModelFile& model);

// One line for a person.
std::string describe(const ring::FormationProgress& progress);

// ring::form_ring, with its progress on the terminal; Ctrl-C cancels.
Result<std::unique_ptr<ring::Ring>> form_ring_visibly(const model::ModelFile& model,
                                                      ring::RingOptions options,
                                                      const InterruptGuard& interrupt);

}  // namespace prima::cli
