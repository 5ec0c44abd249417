// What a person wants to know about a model file, as a table and as JSON.
#pragma once

#include <string>

#include "model/model_file.h"

namespace prima::cli {

std::string model_table(const model::ModelFile& model);
std::string model_json(const model::ModelFile& model);

}  // namespace prima::cli
