// Measured profiles on disk, so that the next start takes no time: by hardware, model shapes and
// build. A file that is damaged or of another version counts as absent.
//
// Thread-safe; several processes may share a folder, for files are replaced whole.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"
#include "profile/device_profile.h"

namespace prima::profile {

// $XDG_CACHE_HOME/prima/profiles, else ~/.cache/prima/profiles. Fails with not_found where neither
// is set.
Result<std::filesystem::path> default_cache_folder();

class ProfileCache {
 public:
  explicit ProfileCache(std::filesystem::path folder) : folder_(std::move(folder)) {}

  // `key`: everything that the figures depend on, as text of any length.
  std::optional<DeviceProfile> find(const std::string& key) const;
  Status store(const std::string& key, const DeviceProfile& profile) const;

  std::optional<LinkProfile> find_link(const std::string& key) const;
  Status store_link(const std::string& key, const LinkProfile& link) const;
  void forget_link(const std::string& key) const;

 private:
  std::filesystem::path path_of(const char* kind, const std::string& key) const;

  std::filesystem::path folder_;
};

}  // namespace prima::profile
