// What makes two model files the same model: a hash of their metadata, of the names, types and
// shapes of their tensors, and of samples of the tensors' bytes, so that another fine-tune with the
// same shapes is another model. How a model is split into files does not matter.
//
// Up to kSampledBytes of weights are read: all of a small model; of a large one, blocks spread
// evenly over every tensor. A single changed byte of a large model may so go unnoticed; other
// weights do not.
//
// Thread-safe.
#pragma once

#include <string>

#include "base/result.h"
#include "base/units.h"
#include "model/model_file.h"
#include "ring/messages.h"

namespace prima::ring {

inline constexpr Bytes kSampledBytes = 64 * kMiB;

// Reads the files: takes a fraction of a second. Fails with io.
Result<ModelIdentity> identify_model(const model::ModelFile& model);

// The first 8 of its hexadecimal digits, for people.
std::string short_name(const ModelIdentity& identity);

}  // namespace prima::ring
