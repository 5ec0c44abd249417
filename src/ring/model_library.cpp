#include "ring/model_library.h"

#include <algorithm>

#include "ring/model_identity.h"

namespace prima::ring {
namespace {

namespace fs = std::filesystem;

// "name-00002-of-00004.gguf": opened with the first of the split.
bool is_later_part(const fs::path& path) {
  const std::string stem = path.stem().string();
  const auto of = stem.rfind("-of-");
  return of != std::string::npos && of >= 5 && stem.substr(of - 5, 5) != "00001";
}

}  // namespace

std::vector<fs::path> ModelLibrary::files() const {
  std::vector<fs::path> files;
  for (const fs::path& path : paths_) {
    std::error_code error;
    if (!fs::is_directory(path, error)) {
      files.push_back(path);
      continue;
    }
    for (const fs::directory_entry& entry : fs::directory_iterator(path, error)) {
      if (entry.path().extension() == ".gguf" && !is_later_part(entry.path())) {
        files.push_back(entry.path());
      }
    }
  }
  std::ranges::sort(files);
  return files;
}

Result<ModelLibrary::Known> ModelLibrary::look_at(const fs::path& path) {
  std::error_code error;
  Known now{.written = fs::last_write_time(path, error),
            .size = fs::file_size(path, error),
            .identity = {},
            .name = {}};
  const auto known = known_.find(path);
  if (known != known_.end() && known->second.written == now.written &&
      known->second.size == now.size) {
    return known->second;
  }
  PRIMA_ASSIGN_OR_RETURN(const auto model, model::ModelFile::open(path));
  PRIMA_ASSIGN_OR_RETURN(now.identity, identify_model(model));
  now.name = model.name();
  known_[path] = now;
  return now;
}

Result<std::shared_ptr<const model::ModelFile>> ModelLibrary::find(const ModelIdentity& identity,
                                                                   const std::string& name) {
  const std::string wanted = "'" + name + "' (" + short_name(identity) + ")";
  std::string present;
  for (const fs::path& path : files()) {
    if (!present.empty()) present += "; ";
    const auto known = look_at(path);
    if (!known) {
      present += known.error().what;
      continue;
    }
    if (known->identity != identity) {
      present += path.string() + " is '" + known->name + "' (" + short_name(known->identity) + ")";
      continue;
    }
    PRIMA_ASSIGN_OR_RETURN(auto model, model::ModelFile::open(path));
    return std::make_shared<const model::ModelFile>(std::move(model));
  }
  return fail(ErrorCode::not_found,
              "the head's model " + wanted +
                  " is not on this device: " + (present.empty() ? "it has no models" : present),
              "Copy the head's file to this device and give it with -m");
}

}  // namespace prima::ring
