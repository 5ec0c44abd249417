#include "weights/layer_store.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <numeric>
#include <optional>
#include <sstream>
#include <utility>

#include <ggml-backend.h>

#include "base/log.h"
#include "model/atomic_file.h"
#include "weights/buffer_type.h"
#include "weights/checksum.h"
#include "weights/mapped_file.h"
#include "weights/row_repacker.h"

namespace prima::weights {
namespace {

namespace fs = std::filesystem;

constexpr Bytes kBlock = 4 * kKiB;         // as streaming reads it
constexpr Bytes kTableBytes = 4 * kBlock;  // a line for each matrix or part: a hundred at most
constexpr Bytes kFlushBytes = 16 * kMiB;   // written and not yet on disk: memory others may want
constexpr const char* kFirstLine = "prima layer store 2";
constexpr const char* kExtension = ".weights";

std::uint64_t fnv1a(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

std::string hexadecimal(std::uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(value));
  return text;
}

std::string file_name(int layer) {
  if (layer < 0) return std::string("output") + kExtension;
  char name[32];
  std::snprintf(name, sizeof(name), "layer-%05d%s", layer, kExtension);
  return name;
}

struct StoredMatrix {
  std::string name;
  ByteRange bytes;
  std::uint64_t checksum = 0;
};

// The matrices of one layer that are worth storing, with what repacks them.
struct Repackable {
  const PlacedTensor* tensor = nullptr;
  ggml_backend_buffer_type_t layout = nullptr;
};

ggml_backend_buffer_type_t fastest_layout(const PlacedTensor& tensor) {
  model::TensorInfo info;
  info.type = tensor.type;
  info.shape = tensor.shape;
  return fastest_buffer_type(info, tensor.role);
}

std::map<int, std::vector<Repackable>> repackable_by_layer(const WeightLayout& layout) {
  std::map<int, std::vector<Repackable>> layers;
  for (const PlacedTensor& tensor : layout.tensors) {
    if (!is_staged(tensor)) continue;
    ggml_backend_buffer_type_t best = fastest_layout(tensor);
    if (best == tensor.buffer_type) continue;
    if (RowRepacker::create(tensor.type, tensor.shape, best)) {
      layers[tensor.layer].push_back({&tensor, best});
    }
  }
  return layers;
}

std::map<int, std::vector<Repackable>> missing_layers(const WeightLayout& layout,
                                                      const fs::path& folder) {
  auto layers = repackable_by_layer(layout);
  std::error_code error;
  std::erase_if(layers, [&](const auto& layer) {
    return fs::exists(folder / file_name(layer.first), error);
  });
  return layers;
}

std::string table_of(const std::string& key, const std::vector<StoredMatrix>& matrices) {
  std::ostringstream table;
  table << kFirstLine << "\nkey " << key << '\n';
  for (const StoredMatrix& matrix : matrices) {
    table << "matrix " << matrix.bytes.offset << ' ' << matrix.bytes.size << ' ' << matrix.checksum
          << ' ' << matrix.name << '\n';
  }
  const std::string lines = table.str();
  return lines + "end " + hexadecimal(fnv1a(lines)) + '\n';
}

Result<std::vector<StoredMatrix>> read_table(const fs::path& path, const MappedFile& file,
                                             const std::string& key) {
  const auto unsound = [&](const char* why) {
    return fail(ErrorCode::corrupt, path.string() + ": " + why, "It is written again");
  };
  if (file.size() < kTableBytes || file.size() % kBlock != 0) return unsound("was cut short");
  std::string text(kTableBytes, '\0');
  PRIMA_RETURN_IF_ERROR(file.read({file.size() - kTableBytes, kTableBytes},
                                  reinterpret_cast<std::byte*>(text.data())));
  const auto end = text.find("\nend ");
  if (end == std::string::npos) return unsound("has no table");
  const std::string checksum = text.substr(end + 5, 16);
  text.resize(end + 1);
  if (checksum != hexadecimal(fnv1a(text))) return unsound("has a damaged table");

  std::istringstream lines(text);
  std::string line;
  std::getline(lines, line);
  if (line != kFirstLine) return unsound("is of another version of Prima");
  std::getline(lines, line);
  if (line != "key " + key) return unsound("is for another model or processor");
  std::vector<StoredMatrix> matrices;
  while (std::getline(lines, line)) {
    std::istringstream fields(line);
    StoredMatrix matrix;
    std::string word;
    fields >> word >> matrix.bytes.offset >> matrix.bytes.size >> matrix.checksum >> matrix.name;
    const Bytes data = file.size() - kTableBytes;
    if (!fields || word != "matrix" || matrix.bytes.offset > data ||
        matrix.bytes.size > data - matrix.bytes.offset) {
      return unsound("has a table that says nonsense");
    }
    matrices.push_back(std::move(matrix));
  }
  return matrices;
}

// Repacks the first and the last group of rows and some between, and compares.
Result<bool> has_the_right_rows(const PlacedTensor& plain, const MappedFile& plain_file,
                                ByteRange stored, const MappedFile& stored_file,
                                RowRepacker& repacker) {
  constexpr std::int64_t kSamples = 4;
  const std::int64_t n_groups =
      (repacker.rows() + RowRepacker::kRowGroup - 1) / RowRepacker::kRowGroup;
  for (std::int64_t sample = 0; sample < kSamples; ++sample) {
    const std::int64_t group = sample * (n_groups - 1) / (kSamples - 1);
    const std::int64_t row = group * RowRepacker::kRowGroup;
    const std::int64_t n_rows = std::min(RowRepacker::kRowGroup, repacker.rows() - row);
    const Bytes offset = static_cast<Bytes>(row) * repacker.row_bytes();
    const Bytes size = static_cast<Bytes>(n_rows) * repacker.row_bytes();
    std::vector<std::byte> rows(size);
    std::vector<std::byte> found(size);
    PRIMA_RETURN_IF_ERROR(plain_file.read({plain.bytes.offset + offset, size}, rows.data()));
    PRIMA_RETURN_IF_ERROR(stored_file.read({stored.offset + offset, size}, found.data()));
    const auto expected = repacker.repack(rows);
    if (!std::equal(expected.begin(), expected.end(), found.begin())) return false;
  }
  return true;
}

class StoreReader {
 public:
  StoreReader(const WeightLayout& layout, const std::string& key) : layout_(layout), key_(key) {}

  // Where the layer's matrices lie in the file.
  Result<std::map<const PlacedTensor*, StoredMatrix>> check(
      const fs::path& path, const std::vector<Repackable>& expected) {
    PRIMA_ASSIGN_OR_RETURN(const auto file, MappedFile::open(path));
    PRIMA_ASSIGN_OR_RETURN(const auto matrices, read_table(path, *file, key_));
    std::map<const PlacedTensor*, StoredMatrix> places;
    for (const Repackable& each : expected) {
      const auto found =
          std::find_if(matrices.begin(), matrices.end(), [&](const StoredMatrix& matrix) {
            return matrix.name == each.tensor->name && matrix.bytes.size == each.tensor->bytes.size;
          });
      auto repacker = RowRepacker::create(each.tensor->type, each.tensor->shape, each.layout);
      if (found == matrices.end() || !repacker) {
        return fail(ErrorCode::corrupt, path.string() + ": lacks " + each.tensor->name);
      }
      PRIMA_ASSIGN_OR_RETURN(const MappedFile* plain, plain_file(each.tensor->file));
      PRIMA_ASSIGN_OR_RETURN(const bool right, has_the_right_rows(*each.tensor, *plain,
                                                                  found->bytes, *file, *repacker));
      if (!right) {
        return fail(ErrorCode::corrupt,
                    path.string() + ": " + each.tensor->name + " is not what the model says");
      }
      places[each.tensor] = *found;
    }
    return places;
  }

 private:
  Result<const MappedFile*> plain_file(std::uint32_t index) {
    auto& file = plain_files_[index];
    if (!file) {
      PRIMA_ASSIGN_OR_RETURN(file, MappedFile::open(layout_.paths[index]));
    }
    return file.get();
  }

  const WeightLayout& layout_;
  const std::string& key_;
  std::map<std::uint32_t, std::unique_ptr<MappedFile>> plain_files_;
};

Status write_layer(const fs::path& path, const std::string& key,
                   const std::vector<Repackable>& matrices, const WeightLayout& layout,
                   const std::function<Status(Bytes)>& advance) {
  std::vector<StoredMatrix> table;
  Bytes size = 0;
  for (const Repackable& each : matrices) {
    table.push_back({each.tensor->name, {size, each.tensor->bytes.size}, 0});
    size += align_up(each.tensor->bytes.size, kBlock);
  }
  PRIMA_ASSIGN_OR_RETURN(auto file, model::AtomicFile::create(path, size + kTableBytes));
  Bytes unflushed = 0;
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    const Repackable& each = matrices[i];
    const ByteRange bytes = each.tensor->bytes;
    Checksum checksum;
    PRIMA_ASSIGN_OR_RETURN(const auto source, MappedFile::open(layout.paths[each.tensor->file]));
    auto repacker = RowRepacker::create(each.tensor->type, each.tensor->shape, each.layout);
    if (!repacker) return fail(ErrorCode::internal, each.tensor->name + " cannot be repacked");
    const Bytes at_once = static_cast<Bytes>(repacker->rows_at_once()) * repacker->row_bytes();
    std::vector<std::byte> plain;
    for (Bytes done = 0; done < bytes.size; done += plain.size()) {
      plain.resize(std::min(at_once, bytes.size - done));
      PRIMA_RETURN_IF_ERROR(source->read({bytes.offset + done, plain.size()}, plain.data()));
      const auto repacked = repacker->repack(plain);
      checksum.add(repacked);
      PRIMA_RETURN_IF_ERROR(file.write(repacked));
      unflushed += plain.size();
      if (unflushed >= kFlushBytes) {
        PRIMA_RETURN_IF_ERROR(file.flush());
        unflushed = 0;
      }
      source->drop_around({bytes.offset + done, plain.size()});  // as much is not wanted cached
      PRIMA_RETURN_IF_ERROR(advance(plain.size()));
    }
    table[i].checksum = checksum.value();
    const std::vector<std::byte> pad(align_up(bytes.size, kBlock) - bytes.size);
    PRIMA_RETURN_IF_ERROR(file.write(pad));
  }
  std::string text = table_of(key, table);
  if (text.size() > kTableBytes) return fail(ErrorCode::internal, "a layer of too many matrices");
  text.resize(kTableBytes, '\n');
  PRIMA_RETURN_IF_ERROR(file.write(std::as_bytes(std::span(text))));
  return file.commit();
}

}  // namespace

std::string file_identity(const model::ModelFile& model) {
  std::ostringstream identity;
  identity << model.name();
  for (const fs::path& path : model.paths()) {
    std::error_code error;
    identity << ' ' << fs::file_size(path, error) << '@'
             << fs::last_write_time(path, error).time_since_epoch().count();
  }
  return identity.str();
}

std::string repacked_layout_version() {
  std::string version = std::string("ggml ") + ggml_version() + " " + ggml_commit();
  ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  ggml_backend_reg_t registry = ggml_backend_dev_backend_reg(device);
  auto* get = reinterpret_cast<ggml_backend_get_features_t>(
      ggml_backend_reg_get_proc_address(registry, "ggml_backend_get_features"));
  for (auto* feature = get != nullptr ? get(registry) : nullptr;
       feature != nullptr && feature->name != nullptr; ++feature) {
    version += std::string(" ") + feature->name + "=" + feature->value;
  }
  return version;
}

Result<LayerStore> LayerStore::open(const LayerStoreOptions& options) {
  LayerStore store;
  store.options_ = options;
  store.key_ = options.model_identity + " " + repacked_layout_version();
  store.folder_ = options.root / hexadecimal(fnv1a(store.key_));
  std::error_code error;
  fs::create_directories(store.folder_, error);
  if (error) {
    return fail(ErrorCode::io, store.folder_.string() + ": " + error.message(),
                "Choose another folder for the layer store, or do without (--no-store)");
  }
  return store;
}

WeightLayout LayerStore::apply(const WeightLayout& layout) const {
  WeightLayout applied = layout;
  StoreReader reader(layout, key_);
  for (const auto& [layer, matrices] : repackable_by_layer(layout)) {
    const fs::path path = folder_ / file_name(layer);
    std::error_code error;
    if (!fs::exists(path, error)) continue;
    const auto places = reader.check(path, matrices);
    if (!places) {
      log::warn("{}", places.error().message());
      fs::remove(path, error);
      continue;
    }
    const auto file = static_cast<std::uint32_t>(applied.paths.size());
    applied.paths.push_back(path);
    for (const Repackable& each : matrices) {
      PlacedTensor& tensor = applied.tensors[each.tensor - layout.tensors.data()];
      tensor.file = file;
      tensor.bytes = places->at(each.tensor).bytes;
      tensor.checksums = {{tensor.bytes.size, places->at(each.tensor).checksum}};
      tensor.buffer_type = each.layout;
    }
  }
  return applied;
}

bool LayerStore::is_complete(const WeightLayout& layout) const {
  return missing_layers(layout, folder_).empty();
}

Status LayerStore::write(const WeightLayout& layout,
                         const std::function<bool(Bytes, Bytes)>& progress) {
  const auto layers = missing_layers(layout, folder_);
  Bytes total = 0;
  for (const auto& [layer, matrices] : layers) {
    for (const Repackable& each : matrices) total += each.tensor->bytes.size;
  }
  Bytes done = 0;
  const auto advance = [&](Bytes bytes) -> Status {
    done += bytes;
    if (!progress || progress(done, total)) return {};
    return fail(ErrorCode::cancelled, "writing the layer store was cancelled");
  };
  for (const auto& [layer, matrices] : layers) {
    Bytes size = kTableBytes;
    for (const Repackable& each : matrices) size += align_up(each.tensor->bytes.size, kBlock);
    PRIMA_RETURN_IF_ERROR(make_room(size));
    PRIMA_RETURN_IF_ERROR(write_layer(folder_ / file_name(layer), key_, matrices, layout, advance));
  }
  return {};
}

// Within the quota, and without taking the disk's last space from others.
Status LayerStore::make_room(Bytes needed) const {
  struct File {
    fs::path path;
    Bytes size;
    fs::file_time_type used;
  };
  std::vector<File> others;
  Bytes total = 0;
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(options_.root, error)) {
    if (!entry.is_regular_file(error) || entry.path().extension() != kExtension) continue;
    const File file{entry.path(), entry.file_size(error), entry.last_write_time(error)};
    total += file.size;
    if (file.path.parent_path() != folder_) others.push_back(file);
  }
  std::sort(others.begin(), others.end(),
            [](const File& a, const File& b) { return a.used < b.used; });
  const auto fits = [&] { return options_.quota == 0 || total + needed <= options_.quota; };
  const auto has_space = [&] {
    const auto space = fs::space(folder_, error);
    return error || space.available >= needed + options_.keep_free;
  };
  for (const File& file : others) {
    if (fits() && has_space()) break;
    if (fs::remove(file.path, error)) total -= file.size;
  }
  if (!fits()) {
    return fail(ErrorCode::resource_exhausted,
                "the layer store may take " + format_bytes(options_.quota) + ", which is full",
                "Give it more (--store-size), or do without (--no-store)");
  }
  if (!has_space()) {
    return fail(ErrorCode::resource_exhausted,
                "the layer store would leave less than " + format_bytes(options_.keep_free) +
                    " free on the disk of " + options_.root.string(),
                "Free some space, or do without (--no-store)");
  }
  return {};
}

}  // namespace prima::weights
