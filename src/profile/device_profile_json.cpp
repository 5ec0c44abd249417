#include "profile/device_profile_json.h"

#include <nlohmann/json.hpp>

namespace prima::profile {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 2;
constexpr const char* kRemedy = "Measure anew with prima profile --fresh";

Json times_json(const LayerTimes& times) {
  return {{"short_context_tokens", times.short_context_tokens},
          {"short_context_seconds", times.short_context_seconds.seconds},
          {"long_context_tokens", times.long_context_tokens},
          {"long_context_seconds", times.long_context_seconds.seconds}};
}

Json layers_json(const std::vector<LayerTimes>& layers) {
  Json json = Json::array();
  for (const LayerTimes& times : layers) json.push_back(times_json(times));
  return json;
}

Json gpu_json(const GpuProfile& gpu) {
  return {{"name", gpu.name},
          {"vram_available_bytes", gpu.vram_available_bytes},
          {"vram_reserve_bytes", gpu.vram_reserve_bytes},
          {"layers", layers_json(gpu.layers)},
          {"output_seconds", gpu.output_seconds.seconds},
          {"copy_to_bytes_per_second", gpu.copy_to_bytes_per_second},
          {"copy_from_bytes_per_second", gpu.copy_from_bytes_per_second},
          {"copy_latency_seconds", gpu.copy_latency_seconds}};
}

// Those below throw nlohmann's exceptions where a field is missing or of another type.

TokenTimes token_times_from(const Json& json) {
  return {json.get<decltype(TokenTimes::seconds)>()};
}

std::vector<LayerTimes> layers_from(const Json& json) {
  std::vector<LayerTimes> layers;
  for (const Json& entry : json) {
    layers.push_back({.short_context_seconds = token_times_from(entry.at("short_context_seconds")),
                      .long_context_seconds = token_times_from(entry.at("long_context_seconds")),
                      .short_context_tokens = entry.at("short_context_tokens").get<std::uint32_t>(),
                      .long_context_tokens = entry.at("long_context_tokens").get<std::uint32_t>()});
  }
  return layers;
}

GpuProfile gpu_from(const Json& json) {
  return {.name = json.at("name").get<std::string>(),
          .vram_available_bytes = json.at("vram_available_bytes").get<Bytes>(),
          .vram_reserve_bytes = json.at("vram_reserve_bytes").get<Bytes>(),
          .layers = layers_from(json.at("layers")),
          .output_seconds = token_times_from(json.at("output_seconds")),
          .copy_to_bytes_per_second = json.at("copy_to_bytes_per_second").get<double>(),
          .copy_from_bytes_per_second = json.at("copy_from_bytes_per_second").get<double>(),
          .copy_latency_seconds = json.at("copy_latency_seconds").get<double>()};
}

DeviceProfile device_from(const Json& json) {
  DeviceProfile profile;
  profile.name = json.at("name").get<std::string>();
  profile.computer = json.value("computer", "");  // older builds do not say
  profile.memory_available_bytes = json.at("memory_available_bytes").get<Bytes>();
  profile.memory_reserve_bytes = json.at("memory_reserve_bytes").get<Bytes>();
  profile.disk_read_bytes_per_second = json.at("disk_read_bytes_per_second").get<double>();
  profile.compute_buffer_bytes = json.at("compute_buffer_bytes").get<Bytes>();
  profile.unified_memory = json.at("unified_memory").get<bool>();
  // Older builds do not say, and use what room they find.
  if (const auto from = json.find("offload_from_tokens"); from != json.end()) {
    profile.offload_from_tokens.reset();
    if (!from->is_null()) profile.offload_from_tokens = from->get<std::uint32_t>();
  }
  profile.cpu_layers = layers_from(json.at("cpu_layers"));
  profile.cpu_output_seconds = token_times_from(json.at("cpu_output_seconds"));
  profile.cpu_budgeted_layers = layers_from(json.at("cpu_budgeted_layers"));
  profile.unbudgeted_up_to_bytes = json.at("unbudgeted_up_to_bytes").get<Bytes>();
  profile.cpu_budgeted_output_seconds = token_times_from(json.at("cpu_budgeted_output_seconds"));
  for (const Json& gpu : json.at("gpus")) profile.gpus.push_back(gpu_from(gpu));
  return profile;
}

}  // namespace

std::string to_json(const DeviceProfile& profile) {
  Json gpus = Json::array();
  for (const GpuProfile& gpu : profile.gpus) gpus.push_back(gpu_json(gpu));
  const Json offload_from_tokens =
      profile.offload_from_tokens ? Json(*profile.offload_from_tokens) : Json(nullptr);
  const Json json = {{"version", kVersion},
                     {"name", profile.name},
                     {"computer", profile.computer},
                     {"memory_available_bytes", profile.memory_available_bytes},
                     {"memory_reserve_bytes", profile.memory_reserve_bytes},
                     {"disk_read_bytes_per_second", profile.disk_read_bytes_per_second},
                     {"compute_buffer_bytes", profile.compute_buffer_bytes},
                     {"unified_memory", profile.unified_memory},
                     {"offload_from_tokens", offload_from_tokens},
                     {"timed_tokens", kTimedTokens},
                     {"cpu_layers", layers_json(profile.cpu_layers)},
                     {"cpu_output_seconds", profile.cpu_output_seconds.seconds},
                     {"cpu_budgeted_layers", layers_json(profile.cpu_budgeted_layers)},
                     {"unbudgeted_up_to_bytes", profile.unbudgeted_up_to_bytes},
                     {"cpu_budgeted_output_seconds", profile.cpu_budgeted_output_seconds.seconds},
                     {"gpus", gpus}};
  // Names of devices may be no UTF-8.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<DeviceProfile> profile_from_json(std::string_view text, std::string_view name) {
  try {
    const Json json = Json::parse(text);
    if (json.at("version").get<int>() != kVersion ||
        json.at("timed_tokens").get<std::decay_t<decltype(kTimedTokens)>>() != kTimedTokens) {
      return fail(ErrorCode::unsupported,
                  std::string(name) + " is a profile of another version of Prima", kRemedy);
    }
    return device_from(json);
  } catch (const Json::exception& error) {
    return fail(ErrorCode::corrupt, std::string(name) + " is no profile: " + error.what(), kRemedy);
  }
}

}  // namespace prima::profile
