#include "weights/resident_weights.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include <ggml-backend.h>
#include <ggml-cpp.h>

#include "weights/buffer_type.h"
#include "weights/mapped_file.h"

namespace prima::weights {
namespace {

using model::TensorInfo;
using model::TensorRole;

// Repacking is bound by the processor and one thread does about 1 GB/s; more than a few would only
// wait for memory, and each holds a copy of the tensor it works on.
constexpr unsigned kMaxRepackThreads = 4;

struct Wanted {
  TensorRole role;
  int layer;
  const TensorInfo* info;
  ggml_backend_buffer_type_t type;
  ggml_tensor* tensor = nullptr;
};

class ResidentWeights final : public Weights {
 public:
  std::span<ggml_tensor* const> parts(TensorRole role, int layer) const override {
    const auto found = tensors_.find({role, model::is_per_layer(role) ? layer : -1});
    if (found == tensors_.end()) return {};
    return {&found->second, 1};
  }
  std::optional<StageIndex> streamed_stage(const ggml_tensor*) const override {
    return std::nullopt;
  }
  Status acquire(StageIndex) override { return {}; }
  void release(StageIndex) override {}
  Bytes memory_bytes() const override { return memory_bytes_; }

  Status load(const model::ModelFile& model, const ResidentRequest& request,
              const std::function<bool(Bytes, Bytes)>& progress);

 private:
  Status map_files(const model::ModelFile& model, const std::vector<Wanted>& wanted);
  Status place(std::vector<Wanted>& wanted);
  Status fill(const std::vector<Wanted>& wanted,
              const std::function<bool(Bytes, Bytes)>& progress) const;
  Status fill_one(const Wanted& wanted) const;

  std::map<std::pair<TensorRole, int>, ggml_tensor*> tensors_;
  std::vector<std::unique_ptr<MappedFile>> files_;  // by file of the model; null if unused
  ggml_context_ptr context_;
  std::vector<ggml_backend_buffer_ptr> mapped_buffers_;  // beside files_
  std::map<ggml_backend_buffer_type_t, ggml_backend_buffer_ptr> copied_buffers_;
  Bytes memory_bytes_ = 0;
};

std::vector<Wanted> wanted_tensors(const model::ModelFile& model, const ResidentRequest& request) {
  std::vector<Wanted> wanted;
  const auto want = [&](TensorRole role, int layer, const TensorInfo* info) {
    if (info == nullptr) return;
    ggml_backend_buffer_type_t type = request.buffer_type;
    if (type == nullptr) {
      type = request.repack ? fastest_buffer_type(*info, role) : ggml_backend_cpu_buffer_type();
    }
    wanted.push_back({role, layer, info, type});
  };
  for (const TensorRole role : model::all_tensor_roles()) {
    if (model::is_per_layer(role)) {
      for (const int layer : request.layers) want(role, layer, model.find(role, layer));
      continue;
    }
    if (role == TensorRole::token_embedding && !request.embedding) continue;
    const bool of_output = role == TensorRole::output_norm || role == TensorRole::output;
    if (of_output && !request.output) continue;
    const TensorInfo* info = model.find(role);
    if (role == TensorRole::output && info == nullptr) {
      info = model.find(TensorRole::token_embedding);  // tied
    }
    want(role, -1, info);
  }
  return wanted;
}

// Into memory of its own; all others stay where the file is mapped.
bool is_copied(const Wanted& wanted) { return wanted.type != ggml_backend_cpu_buffer_type(); }

Status ResidentWeights::load(const model::ModelFile& model, const ResidentRequest& request,
                             const std::function<bool(Bytes, Bytes)>& progress) {
  std::vector<Wanted> wanted = wanted_tensors(model, request);
  PRIMA_RETURN_IF_ERROR(map_files(model, wanted));
  PRIMA_RETURN_IF_ERROR(place(wanted));
  PRIMA_RETURN_IF_ERROR(fill(wanted, progress));
  for (const Wanted& each : wanted) tensors_[{each.role, each.layer}] = each.tensor;
  return {};
}

Status ResidentWeights::map_files(const model::ModelFile& model,
                                  const std::vector<Wanted>& wanted) {
  files_.resize(model.paths().size());
  mapped_buffers_.resize(files_.size());
  for (const Wanted& each : wanted) {
    auto& file = files_[each.info->file];
    if (file) continue;
    PRIMA_ASSIGN_OR_RETURN(file, MappedFile::open(model.paths()[each.info->file]));
    mapped_buffers_[each.info->file].reset(
        ggml_backend_cpu_buffer_from_ptr(file->data(), file->size()));
  }
  return {};
}

// Makes the tensors and gives each its place, without data yet.
Status ResidentWeights::place(std::vector<Wanted>& wanted) {
  context_.reset(ggml_init({.mem_size = (wanted.size() + 1) * ggml_tensor_overhead(),
                            .mem_buffer = nullptr,
                            .no_alloc = true}));
  std::map<ggml_backend_buffer_type_t, Bytes> sizes;
  for (Wanted& each : wanted) {
    each.tensor = ggml_new_tensor(context_.get(), each.info->type, 4, each.info->shape.data());
    ggml_set_name(each.tensor, each.info->name.c_str());
    if (each.role != TensorRole::token_embedding) memory_bytes_ += each.info->bytes.size;
    if (!is_copied(each)) continue;
    Bytes& size = sizes[each.type];
    size = align_up(size, ggml_backend_buft_get_alignment(each.type)) +
           ggml_backend_buft_get_alloc_size(each.type, each.tensor);
  }
  for (const auto& [type, size] : sizes) {
    copied_buffers_[type].reset(ggml_backend_buft_alloc_buffer(type, size));
    if (!copied_buffers_[type]) {
      return fail(ErrorCode::resource_exhausted,
                  "no memory for " + format_bytes(size) + " of weights",
                  "Share the model with more devices, or use a smaller one");
    }
    ggml_backend_buffer_set_usage(copied_buffers_[type].get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
  }
  std::map<ggml_backend_buffer_type_t, Bytes> used;
  for (Wanted& each : wanted) {
    ggml_backend_buffer_t buffer = mapped_buffers_[each.info->file].get();
    std::byte* address = files_[each.info->file]->data() + each.info->bytes.offset;
    if (is_copied(each)) {
      buffer = copied_buffers_[each.type].get();
      Bytes& offset = used[each.type];
      offset = align_up(offset, ggml_backend_buft_get_alignment(each.type));
      address = static_cast<std::byte*>(ggml_backend_buffer_get_base(buffer)) + offset;
      offset += ggml_backend_buft_get_alloc_size(each.type, each.tensor);
    }
    if (ggml_backend_tensor_alloc(buffer, each.tensor, address) != GGML_STATUS_SUCCESS) {
      return fail(ErrorCode::internal, "ggml refused a place for " + each.info->name);
    }
  }
  return {};
}

Status ResidentWeights::fill_one(const Wanted& wanted) const {
  // Of the embedding only a row per token is read, as it is needed.
  if (wanted.role == TensorRole::token_embedding) return {};
  const MappedFile& file = *files_[wanted.info->file];
  const ByteRange range = wanted.info->bytes;
  if (!is_copied(wanted)) return file.fetch(range);
  std::vector<std::byte> bytes(range.size);
  PRIMA_RETURN_IF_ERROR(file.read(range, bytes.data()));
  ggml_backend_tensor_set(wanted.tensor, bytes.data(), 0, bytes.size());
  return {};
}

Status ResidentWeights::fill(const std::vector<Wanted>& wanted,
                             const std::function<bool(Bytes, Bytes)>& progress) const {
  Bytes total = 0;
  for (const Wanted& each : wanted) total += each.info->bytes.size;

  std::mutex mutex;  // guards done, result and calls of progress
  Bytes done = 0;
  Status result;
  std::atomic<std::size_t> next{0};
  std::atomic<bool> stopped{false};
  const auto work = [&] {
    for (std::size_t i = next++; i < wanted.size() && !stopped; i = next++) {
      Status status = fill_one(wanted[i]);
      const std::lock_guard lock(mutex);
      done += wanted[i].info->bytes.size;
      if (status && progress && !progress(done, total)) {
        status = fail(ErrorCode::cancelled, "loading was cancelled");
      }
      if (!status && result) result = status;
      if (!status) stopped = true;
    }
  };
  std::vector<std::jthread> threads;
  const unsigned n_threads = std::clamp(std::thread::hardware_concurrency(), 1u, kMaxRepackThreads);
  for (unsigned i = 1; i < n_threads; ++i) threads.emplace_back(work);
  work();
  threads.clear();  // joins
  return result;
}

}  // namespace

Result<std::unique_ptr<Weights>> load_resident_weights(
    const model::ModelFile& model, const ResidentRequest& request,
    const std::function<bool(Bytes, Bytes)>& progress) {
  auto weights = std::make_unique<ResidentWeights>();
  PRIMA_RETURN_IF_ERROR(weights->load(model, request, progress));
  return weights;
}

}  // namespace prima::weights
