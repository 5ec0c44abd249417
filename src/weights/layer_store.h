// The compute-ready copy of this device's share of a model, on its own disk: one file per layer,
// its matrices one after another in order of use, each at a whole block, in the layout that this
// processor computes fastest with. It can be mapped and streamed as it is.
//
// One folder per key; the key says for which model, ggml and processor the bytes are. A file is
// there whole or not at all, ends with a table that has a checksum, and is believed only after some
// rows of each of its matrices were repacked from the model and found the same.
//
//     <root>/<key>/layer-00012.weights     block | matrix | pad | matrix | pad ... | table
//                  output.weights
//
// Thread-compatible; files are safe against other processes' writing the same.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "weights/weight_layout.h"

namespace prima::weights {

struct LayerStoreOptions {
  std::filesystem::path root;
  std::string model_identity;  // what tells this model from all others
  Bytes quota = 0;             // for all keys together; 0: only the disk's room counts
  Bytes keep_free = 0;         // of the disk, for others
};

class LayerStore {
 public:
  // Makes the folder. Fails with io.
  static Result<LayerStore> open(const LayerStoreOptions& options);

  // The layout with all matrices taken from the store that it has sound copies of. Unsound files
  // are removed, with a warning.
  WeightLayout apply(const WeightLayout& layout) const;

  // Whether write() would have nothing to do.
  bool is_complete(const WeightLayout& layout) const;

  // Writes what of the layout's layers the store lacks and this processor computes faster with
  // repacked. Removes other keys' files, the least recently used first, where the quota needs it.
  // `progress`: bytes done, bytes in all; returning false cancels. Fails with io,
  // resource_exhausted (disk or quota too small; what was written before stays), cancelled.
  Status write(const WeightLayout& layout, const std::function<bool(Bytes, Bytes)>& progress = {});

  const std::filesystem::path& folder() const { return folder_; }

 private:
  LayerStore() = default;

  Status make_room(Bytes needed) const;

  LayerStoreOptions options_;
  std::string key_;
  std::filesystem::path folder_;
};

// Of the model's files as they lie here: sizes and modification times. Costs no reading.
std::string file_identity(const model::ModelFile& model);

// ggml's version and the processor's features: what a repacked layout depends on.
std::string repacked_layout_version();

}  // namespace prima::weights
