#include "compute/visiting_layers.h"

#include <algorithm>
#include <string>

namespace prima::compute {
namespace {

using model::TensorRole;
using weights::StageIndex;

// Of one read of the model's file: large enough for a disk's full speed through its read-ahead,
// small against everything else in memory.
constexpr Bytes kReadBytes = kMiB;

bool is_rope_factors(TensorRole role) {
  return role == TensorRole::rope_factors || role == TensorRole::rope_factors_long ||
         role == TensorRole::rope_factors_short;
}

// As it lies in the file, not in a layout of the processor's.
bool is_plain(const ggml_tensor* tensor) { return ggml_backend_buffer_is_host(tensor->buffer); }

}  // namespace

Result<std::unique_ptr<VisitingLayers>> VisitingLayers::create(
    const model::ModelFile& model, LayerDevice& home, const KvCache& kv_cache,
    ggml_backend_dev_t device, std::size_t n_places, bool drop_file_pages) {
  std::unique_ptr<VisitingLayers> layers(
      new VisitingLayers(model, home, kv_cache, drop_file_pages));
  layers->make_tensors(n_places);
  PRIMA_RETURN_IF_ERROR(layers->place_tensors(ggml_backend_dev_buffer_type(device), n_places));
  PRIMA_RETURN_IF_ERROR(layers->find_sources());
  PRIMA_RETURN_IF_ERROR(layers->copy_weights(layers->of_all_layers_.sources));
  return layers;
}

void VisitingLayers::make_tensors(std::size_t n_places) {
  const std::vector<int> indices = layers_of(home_.options().layers);
  const std::size_t n_tensors = (indices.size() + 1) * model::all_tensor_roles().size();
  context_.reset(ggml_init(
      {.mem_size = n_tensors * ggml_tensor_overhead(), .mem_buffer = nullptr, .no_alloc = true}));
  const auto add = [&](Layer& layer, TensorRole role, int index) {
    const model::TensorInfo* info = model_.find(role, index);
    if (info == nullptr) return;
    ggml_tensor* tensor = ggml_new_tensor(context_.get(), info->type, 4, info->shape.data());
    ggml_set_name(tensor, info->name.c_str());
    tensors_[{role, index}] = tensor;
    layer.tensors.push_back(tensor);
  };
  std::size_t next = 0;
  for (const int index : indices) {
    const auto stage = static_cast<StageIndex>(index);
    Layer& layer = layers_[stage];
    layer.place = next++ % n_places;
    for (const TensorRole role : model::all_tensor_roles()) {
      if (model::is_per_layer(role)) add(layer, role, index);
    }
    for (const ggml_tensor* tensor : layer.tensors) layer_of_[tensor] = stage;
  }
  for (const TensorRole role : model::all_tensor_roles()) {
    if (is_rope_factors(role)) add(of_all_layers_, role, -1);
  }
}

// Every layer begins at the beginning of its place, which is as large as the largest needs.
Status VisitingLayers::place_tensors(ggml_backend_buffer_type_t type, std::size_t n_places) {
  const Bytes alignment = ggml_backend_buft_get_alignment(type);
  const auto size_of = [&](const Layer& layer) {
    Bytes size = 0;
    for (const ggml_tensor* tensor : layer.tensors) {
      size += align_up(ggml_backend_buft_get_alloc_size(type, tensor), alignment);
    }
    return size;
  };
  Bytes place_size = 0;
  for (const auto& [index, layer] : layers_) place_size = std::max(place_size, size_of(layer));
  const Bytes size = n_places * place_size + size_of(of_all_layers_);
  buffer_.reset(ggml_backend_buft_alloc_buffer(type, size));
  if (!buffer_) {
    return fail(ErrorCode::resource_exhausted,
                "no memory for " + format_bytes(size) + " of layers on the GPU");
  }
  ggml_backend_buffer_set_usage(buffer_.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
  auto* const base = static_cast<std::byte*>(ggml_backend_buffer_get_base(buffer_.get()));
  const auto place = [&](const Layer& layer, std::byte* address) -> Status {
    for (ggml_tensor* tensor : layer.tensors) {
      if (ggml_backend_tensor_alloc(buffer_.get(), tensor, address) != GGML_STATUS_SUCCESS) {
        return fail(ErrorCode::internal, std::string("ggml refused a place for ") + tensor->name);
      }
      address += align_up(ggml_backend_buft_get_alloc_size(type, tensor), alignment);
    }
    return {};
  };
  for (const auto& [index, layer] : layers_) {
    PRIMA_RETURN_IF_ERROR(place(layer, base + layer.place * place_size));
  }
  places_.resize(n_places);
  return place(of_all_layers_, base + n_places * place_size);
}

Status VisitingLayers::find_sources() {
  files_.resize(model_.paths().size());
  for (const auto& [key, target] : tensors_) {
    const auto& [role, index] = key;
    const auto layer_of = layer_of_.find(target);
    Layer& layer = layer_of != layer_of_.end() ? layers_[layer_of->second] : of_all_layers_;
    Bytes offset = 0;
    for (const ggml_tensor* part : home_.weights().parts(role, index)) {
      Source source{.part = part, .target = target, .offset = offset, .stage = {}};
      if (is_plain(part)) {
        source.stage = home_.weights().streamed_stage(part);
      } else {
        source.file = model_.find(role, index);
        auto& file = files_[source.file->file];
        if (!file) {
          PRIMA_ASSIGN_OR_RETURN(file,
                                 weights::MappedFile::open(model_.paths()[source.file->file]));
        }
        read_buffer_.resize(kReadBytes);
      }
      layer.sources.push_back(source);
      offset += ggml_nbytes(part);
    }
    if (offset != ggml_nbytes(target)) {
      return fail(ErrorCode::internal,
                  std::string(target->name) + " is not whole on the processor");
    }
  }
  for (auto& [index, layer] : layers_) {
    std::stable_sort(layer.sources.begin(), layer.sources.end(),
                     [](const Source& a, const Source& b) { return a.stage < b.stage; });
  }
  return {};
}

void VisitingLayers::set_step(const Step& step) {
  step_ = &step;
  for (Place& place : places_) place.cells_of.reset();
}

void VisitingLayers::forget() {
  for (Place& place : places_) place.weights_of.reset();
}

std::span<ggml_tensor* const> VisitingLayers::parts(TensorRole role, int layer) const {
  const auto found = tensors_.find({role, model::is_per_layer(role) ? layer : -1});
  if (found == tensors_.end()) return {};
  return {&found->second, 1};
}

std::optional<StageIndex> VisitingLayers::streamed_stage(const ggml_tensor* weight) const {
  const auto found = layer_of_.find(weight);
  if (found == layer_of_.end()) return std::nullopt;
  return found->second;
}

Status VisitingLayers::acquire(StageIndex layer) {
  PRIMA_RETURN_IF_ERROR(bring(layer));
  places_[layers_.at(layer).place].in_use = true;
  return {};
}

void VisitingLayers::prefetch(StageIndex layer) {
  if (places_[layers_.at(layer).place].in_use) return;
  const Status ignored = bring(layer);  // acquire() tries again
}

void VisitingLayers::release(StageIndex layer) {
  copy_rows_out(layer);
  Place& place = places_[layers_.at(layer).place];
  place.in_use = false;
  place.cells_of.reset();
}

Status VisitingLayers::bring(StageIndex index) {
  const Layer& layer = layers_.at(index);
  Place& place = places_[layer.place];
  if (place.weights_of != index) {
    place.weights_of.reset();
    place.cells_of.reset();
    PRIMA_RETURN_IF_ERROR(copy_weights(layer.sources));
    place.weights_of = index;
  }
  if (place.cells_of != index) {
    copy_cells_in(index);
    place.cells_of = index;
  }
  return {};
}

Status VisitingLayers::copy_weights(const std::vector<Source>& sources) {
  for (std::size_t first = 0; first < sources.size();) {
    std::size_t last = first + 1;
    while (last < sources.size() && sources[last].stage == sources[first].stage) ++last;
    const auto stage = sources[first].stage;
    if (stage) PRIMA_RETURN_IF_ERROR(home_.acquire(*stage));
    Status status;
    for (std::size_t i = first; i < last && status; ++i) {
      const Source& source = sources[i];
      // Backends that compute with whole blocks clear what lies behind a tensor's last row; another
      // layer's tensor may have lain there.
      if (source.offset == 0) ggml_backend_buffer_init_tensor(buffer_.get(), source.target);
      if (source.file != nullptr) {
        status = copy_from_file(source);
      } else {
        ggml_backend_tensor_set(source.target, source.part->data, source.offset,
                                ggml_nbytes(source.part));
      }
    }
    if (stage) home_.release(*stage);
    PRIMA_RETURN_IF_ERROR(status);
    first = last;
  }
  return {};
}

Status VisitingLayers::copy_from_file(const Source& source) {
  const weights::MappedFile& file = *files_[source.file->file];
  PRIMA_RETURN_IF_ERROR(file.check_unchanged());
  const Bytes size = ggml_nbytes(source.part);
  for (Bytes done = 0; done < size;) {
    const ByteRange range{source.file->bytes.offset + source.offset + done,
                          std::min(kReadBytes, size - done)};
    PRIMA_RETURN_IF_ERROR(file.read(range, read_buffer_.data()));
    if (drop_file_pages_) file.drop_around(range);
    ggml_backend_tensor_set(source.target, read_buffer_.data(), source.offset + done, range.size);
    done += range.size;
  }
  return {};
}

// All cells that attention reads: also those that it masks must be numbers.
void VisitingLayers::copy_cells_in(StageIndex layer) const {
  const auto copy = [&](ggml_tensor* to, const ggml_tensor* from) {
    ggml_backend_tensor_set(to, from->data, 0, from->nb[1] * step_->n_kv);
  };
  copy(kv_cache_.keys(layer), home_.kv_cache().keys(layer));
  copy(kv_cache_.values(layer), home_.kv_cache().values(layer));
}

// The step's own cells, runs of them at a time.
void VisitingLayers::copy_rows_out(StageIndex layer) const {
  const auto copy = [&](const ggml_tensor* from, ggml_tensor* to) {
    const std::vector<std::uint32_t>& cells = step_->cells;
    for (std::size_t first = 0; first < cells.size();) {
      std::size_t last = first + 1;
      while (last < cells.size() && cells[last] == cells[last - 1] + 1) ++last;
      const std::size_t offset = to->nb[1] * cells[first];
      ggml_backend_tensor_get(from, static_cast<std::byte*>(to->data) + offset, offset,
                              to->nb[1] * (last - first));
      first = last;
    }
  };
  copy(kv_cache_.keys(layer), home_.kv_cache().keys(layer));
  copy(kv_cache_.values(layer), home_.kv_cache().values(layer));
}

}  // namespace prima::compute
