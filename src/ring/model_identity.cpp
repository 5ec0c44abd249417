#include "ring/model_identity.h"

#include <algorithm>
#include <cstring>

#include <sodium.h>

#include "weights/mapped_file.h"

namespace prima::ring {
namespace {

constexpr Bytes kBlockBytes = 16 * kKiB;

class Hash {
 public:
  Hash() { crypto_generichash_init(&state_, nullptr, 0, kModelIdentityBytes); }

  void add_bytes(const void* data, std::size_t size) {
    crypto_generichash_update(&state_, static_cast<const unsigned char*>(data), size);
  }
  void add_number(std::uint64_t number) { add_bytes(&number, sizeof(number)); }  // little endian
  // Lengths first, so that no two different lists of texts read the same.
  void add_text(std::string_view text) {
    add_number(text.size());
    add_bytes(text.data(), text.size());
  }

  ModelIdentity finish() {
    ModelIdentity identity(kModelIdentityBytes);
    crypto_generichash_final(&state_, identity.data(), identity.size());
    return identity;
  }

 private:
  crypto_generichash_state state_;
};

void add(Hash& hash, bool value) { hash.add_number(value ? 1 : 0); }
void add(Hash& hash, std::int64_t value) { hash.add_number(static_cast<std::uint64_t>(value)); }
void add(Hash& hash, std::uint64_t value) { hash.add_number(value); }
void add(Hash& hash, double value) { hash.add_bytes(&value, sizeof(value)); }
void add(Hash& hash, const std::string& value) { hash.add_text(value); }
void add(Hash& hash, const model::MetadataArray& array) {
  hash.add_number(array.index());
  std::visit(
      [&](const auto& elements) {
        hash.add_number(elements.size());
        for (const auto& element : elements) {
          using Element = typename std::decay_t<decltype(elements)>::value_type;
          add(hash, static_cast<const Element&>(element));
        }
      },
      array);
}

void add_metadata(Hash& hash, const model::Metadata& metadata) {
  for (const auto& [key, value] : metadata.values()) {
    if (key.starts_with("split.")) continue;  // how it lies in files
    hash.add_text(key);
    hash.add_number(value.index());
    std::visit([&](const auto& v) { add(hash, v); }, value);
  }
}

// What is read is given back to the system: a device with little memory has none for it.
Status add_samples(Hash& hash, const weights::MappedFile& file, const ByteRange& range,
                   Bytes budget) {
  // All of it, or blocks at equal distances with the first and last among them.
  const Bytes n_blocks = std::max<Bytes>(2, budget / kBlockBytes);
  const bool whole = range.size <= n_blocks * kBlockBytes;
  std::vector<std::byte> block;
  const auto add_block = [&](Bytes offset, Bytes size) -> Status {
    block.resize(size);
    const ByteRange bytes{range.offset + offset, size};
    PRIMA_RETURN_IF_ERROR(file.read(bytes, block.data()));
    hash.add_bytes(block.data(), block.size());
    file.drop_around(bytes);
    return {};
  };
  if (whole) {
    for (Bytes offset = 0; offset < range.size; offset += kBlockBytes) {
      PRIMA_RETURN_IF_ERROR(add_block(offset, std::min(kBlockBytes, range.size - offset)));
    }
    return {};
  }
  const Bytes last = range.size - kBlockBytes;
  for (Bytes i = 0; i < n_blocks; ++i) {
    const auto share = static_cast<double>(i) / static_cast<double>(n_blocks - 1);
    const auto offset = static_cast<Bytes>(share * static_cast<double>(last));
    PRIMA_RETURN_IF_ERROR(add_block(std::min(offset, last), kBlockBytes));
  }
  return {};
}

}  // namespace

Result<ModelIdentity> identify_model(const model::ModelFile& model) {
  Hash hash;
  add_metadata(hash, model.metadata());
  std::vector<std::unique_ptr<weights::MappedFile>> files;
  for (const auto& path : model.paths()) {
    PRIMA_ASSIGN_OR_RETURN(auto file, weights::MappedFile::open(path));
    files.push_back(std::move(file));
  }

  std::vector<const model::TensorInfo*> tensors;
  for (const model::TensorInfo& tensor : model.tensors()) tensors.push_back(&tensor);
  std::ranges::sort(tensors, {}, &model::TensorInfo::name);
  const double total = static_cast<double>(model.weight_bytes());
  const double share = std::min(1.0, static_cast<double>(kSampledBytes) / std::max(total, 1.0));
  for (const model::TensorInfo* tensor : tensors) {
    hash.add_text(tensor->name);
    hash.add_number(static_cast<std::uint64_t>(tensor->type));
    for (const std::int64_t extent : tensor->shape) {
      hash.add_number(static_cast<std::uint64_t>(extent));
    }
    const Bytes budget = share == 1.0
                             ? align_up(tensor->bytes.size, kBlockBytes)
                             : static_cast<Bytes>(share * static_cast<double>(tensor->bytes.size));
    PRIMA_RETURN_IF_ERROR(add_samples(hash, *files[tensor->file], tensor->bytes, budget));
  }
  return hash.finish();
}

std::string short_name(const ModelIdentity& identity) {
  constexpr std::size_t kShown = 4;
  std::string name;
  for (std::size_t i = 0; i < std::min(kShown, identity.size()); ++i) {
    constexpr char kDigits[] = "0123456789abcdef";
    name.push_back(kDigits[identity[i] >> 4]);
    name.push_back(kDigits[identity[i] & 15]);
  }
  return name;
}

}  // namespace prima::ring
