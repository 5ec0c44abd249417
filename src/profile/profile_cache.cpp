#include "profile/profile_cache.h"

#include <cstdlib>
#include <fstream>
#include <span>
#include <sstream>

#include <nlohmann/json.hpp>

#include "model/atomic_file.h"
#include "profile/device_profile_json.h"
#include "profile/hardware.h"

namespace prima::profile {
namespace {

namespace fs = std::filesystem;

std::optional<std::string> contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

Status replace(const fs::path& path, const std::string& text) {
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  if (error) {
    return fail(ErrorCode::io, path.parent_path().string() + ": " + error.message(),
                "Check that the folder is yours to write, or set XDG_CACHE_HOME to one that is");
  }
  PRIMA_ASSIGN_OR_RETURN(auto file, model::AtomicFile::create(path, text.size()));
  PRIMA_RETURN_IF_ERROR(file.write(std::as_bytes(std::span(text))));
  return file.commit();
}

}  // namespace

Result<fs::path> default_cache_folder() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache) {
    return fs::path(cache) / "prima" / "profiles";
  }
  if (const char* home = std::getenv("HOME"); home && *home) {
    return fs::path(home) / ".cache" / "prima" / "profiles";
  }
  return fail(ErrorCode::not_found, "there is no folder to keep profiles in",
              "Set XDG_CACHE_HOME or HOME");
}

fs::path ProfileCache::path_of(const char* kind, const std::string& key) const {
  return folder_ / (std::string(kind) + "-" + hashed(key) + ".json");
}

std::optional<DeviceProfile> ProfileCache::find(const std::string& key) const {
  const fs::path path = path_of("device", key);
  const auto text = contents(path);
  if (!text) return std::nullopt;
  auto profile = profile_from_json(*text, path.string());
  return profile ? std::optional(std::move(*profile)) : std::nullopt;
}

Status ProfileCache::store(const std::string& key, const DeviceProfile& profile) const {
  return replace(path_of("device", key), to_json(profile));
}

std::optional<LinkProfile> ProfileCache::find_link(const std::string& key) const {
  const auto text = contents(path_of("link", key));
  if (!text) return std::nullopt;
  try {
    const auto json = nlohmann::json::parse(*text);
    return LinkProfile{json.at("round_trip_seconds").get<double>(),
                       json.at("forward_bytes_per_second").get<double>(),
                       json.at("backward_bytes_per_second").get<double>(),
                       json.at("shared_medium").get<bool>()};
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

Status ProfileCache::store_link(const std::string& key, const LinkProfile& link) const {
  const nlohmann::ordered_json json = {
      {"round_trip_seconds", link.round_trip_seconds},
      {"forward_bytes_per_second", link.forward_bytes_per_second},
      {"backward_bytes_per_second", link.backward_bytes_per_second},
      {"shared_medium", link.shared_medium}};
  return replace(path_of("link", key), json.dump(2) + "\n");
}

void ProfileCache::forget_link(const std::string& key) const {
  std::error_code error;
  fs::remove(path_of("link", key), error);
}

}  // namespace prima::profile
