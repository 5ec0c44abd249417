// A cluster described in a TOML file (docs/cluster-file.md): for planning without the devices, and
// for the lab, which builds such a cluster.
//
// Pure functions but for reading the file.
#pragma once

#include <filesystem>
#include <string_view>

#include "base/result.h"
#include "plan/model_shape.h"
#include "plan/plan.h"

namespace prima::plan {

// Layer times are worked out for `shape` from the file's ratings. Fails with not_found, corrupt or
// invalid_argument; errors name the file, the line, the value and the remedy.
Result<Cluster> read_cluster_file(const std::filesystem::path& path, const ModelShape& shape);

// `name`: what errors call the text.
Result<Cluster> parse_cluster(std::string_view text, std::string_view name,
                              const ModelShape& shape);

}  // namespace prima::plan
