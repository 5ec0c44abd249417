// The models that a worker has, found by what they are, not by what they are called.
//
// Thread-compatible.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/model_file.h"
#include "ring/messages.h"

namespace prima::ring {

class ModelLibrary {
 public:
  // Each path: a model file, or a folder of them (*.gguf).
  explicit ModelLibrary(std::vector<std::filesystem::path> paths) : paths_(std::move(paths)) {}

  // The model of this identity. Looks at files only now, and at each only once while it stays as it
  // is. Fails with not_found, saying what there is instead.
  Result<std::shared_ptr<const model::ModelFile>> find(const ModelIdentity& identity,
                                                       const std::string& name);

 private:
  struct Known {
    std::filesystem::file_time_type written;
    std::uintmax_t size = 0;
    ModelIdentity identity;
    std::string name;
  };

  std::vector<std::filesystem::path> files() const;
  Result<Known> look_at(const std::filesystem::path& path);

  const std::vector<std::filesystem::path> paths_;
  std::map<std::filesystem::path, Known> known_;
};

}  // namespace prima::ring
