#include "weights/streamed_weights.h"

#include <algorithm>
#include <cstring>
#include <future>
#include <string>
#include <utility>

#include "base/log.h"
#include "weights/checksum.h"
#include "weights/in_place_reader.h"
#include "weights/read_speed.h"

namespace prima::weights {
namespace {

using model::TensorRole;

// Pages of embedding rows, one or two per distinct token, that may stay. Part of the budget.
constexpr Bytes kEmbeddingRows = 4 * kMiB;

// Direct reads are made in whole blocks of this size. Every disk's block divides it, and it is
// known before a file has been opened for reading, so layouts do not depend on it.
constexpr Bytes kBlock = 4 * kKiB;

// How fast weights in memory are computed with: a little less than an idle computer's 10 GB/s and
// more, because other programs are at work too. Too low a guess asks for more slots than the disk
// can fill, at the price of residency; too high a guess leaves it idle while slots are in use.
constexpr double kComputeBytesPerSecond = 8e9;

// Of matrices that are used together.
constexpr Bytes kLargestJoined = 64 * kMiB;

// Where all fits, matrices are in parts of at most this part of the budget: a stage is the least
// that can be given up, and slots for one are needed then.
constexpr Bytes kPartsInBudget = 64;

constexpr Bytes kTensorAlignment = 64;  // of small tensors; ggml needs 32

}  // namespace

StreamedWeights::~StreamedWeights() = default;

Result<std::unique_ptr<StreamedWeights>> StreamedWeights::open(const WeightLayout& layout,
                                                               const StreamingOptions& options) {
  std::unique_ptr<StreamedWeights> weights(new StreamedWeights);
  weights->options_ = options;
  weights->layout_ = layout;
  PRIMA_RETURN_IF_ERROR(weights->map_files());
  PRIMA_RETURN_IF_ERROR(weights->lay_out(layout));
  return weights;
}

Status StreamedWeights::map_files() {
  for (const std::filesystem::path& path : layout_.paths) {
    PRIMA_ASSIGN_OR_RETURN(auto file, MappedFile::open(path));
    file_buffers_.emplace_back(ggml_backend_cpu_buffer_from_ptr(file->data(), file->size()));
    files_.push_back(std::move(file));
  }
  return {};
}

// Of the files that are mapped. Replaces what was laid out before.
Status StreamedWeights::lay_out(WeightLayout layout) {
  layout_ = std::move(layout);
  PRIMA_RETURN_IF_ERROR(make_tensors());
  make_stages();
  return read_small();
}

ggml_backend_buffer_t StreamedWeights::buffer_of(const PlacedTensor& tensor) {
  if (tensor.buffer_type == ggml_backend_cpu_buffer_type()) {
    return file_buffers_[tensor.file].get();
  }
  // Kernels ask a repacked tensor's buffer for its type and `extra`, never for its memory; so one
  // small buffer of the type stands for all.
  auto& buffer = repacked_buffers_[tensor.buffer_type];
  if (!buffer) {
    buffer.reset(ggml_backend_buft_alloc_buffer(tensor.buffer_type, kTensorAlignment));
    ggml_backend_buffer_set_usage(buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
  }
  return buffer.get();
}

// Every tensor begins as its bytes in the mapped file: right, if slow, should it be used as it is.
Status StreamedWeights::make_tensors() {
  tensors_.clear();
  context_.reset(ggml_init({.mem_size = (layout_.tensors.size() + 1) * ggml_tensor_overhead(),
                            .mem_buffer = nullptr,
                            .no_alloc = true}));
  for (const PlacedTensor& placed : layout_.tensors) {
    ggml_tensor* tensor = ggml_new_tensor(context_.get(), placed.type, 4, placed.shape.data());
    ggml_set_name(tensor, placed.name.c_str());
    tensor->buffer = buffer_of(placed);
    tensor->data = files_[placed.file]->data() + placed.bytes.offset;
    if (ggml_backend_buffer_init_tensor(tensor->buffer, tensor) != GGML_STATUS_SUCCESS) {
      return fail(ErrorCode::internal, "ggml refused a place for " + placed.name);
    }
    tensors_[{placed.role, placed.layer}].push_back(tensor);
    if (placed.role == TensorRole::token_embedding) {
      embedding_ = Member{tensor, placed.file, placed.bytes, 0, {}};
      files_[placed.file]->expect_random_access(placed.bytes);
    }
  }
  return {};
}

void StreamedWeights::make_stages() {
  stages_.clear();
  stage_of_.clear();
  const PlacedTensor* previous = nullptr;
  for (const PlacedTensor& placed : layout_.tensors) {
    if (!is_staged(placed)) continue;
    const bool joins = previous != nullptr && previous->layer == placed.layer &&
                       rank_of_use(previous->role) == rank_of_use(placed.role) &&
                       previous->n_parts == 1 && placed.n_parts == 1 &&
                       stages_.back()->layout.size() + placed.bytes.size <= kLargestJoined;
    if (!joins) {
      stages_.push_back(std::make_unique<Stage>());
      stages_.back()->layer = placed.layer;
    }
    previous = &placed;

    Stage& stage = *stages_.back();
    const Bytes begin = align_down(placed.bytes.offset, kBlock);
    const Bytes end = align_up(placed.bytes.end(), kBlock);
    ggml_tensor* tensor = tensors_[{placed.role, placed.layer}][placed.part];
    stage.members.push_back({tensor, placed.file, placed.bytes,
                             stage.layout.size() + placed.bytes.offset - begin, placed.checksums});
    stage.layout.pieces.push_back({placed.file, begin, end - begin});
    stage.verified = stage.verified && placed.checksums.empty();
    stage_of_[tensor] = static_cast<StageIndex>(stages_.size() - 1);
  }
}

Status StreamedWeights::read_small() {
  const auto is_small = [](const PlacedTensor& placed) {
    return !is_staged(placed) && placed.role != TensorRole::token_embedding;
  };
  Bytes size = kTensorAlignment;
  for (const PlacedTensor& placed : layout_.tensors) {
    if (is_small(placed)) size += align_up(placed.bytes.size, kTensorAlignment);
  }
  small_.resize(size);
  const auto start = reinterpret_cast<std::uintptr_t>(small_.data());
  Bytes used = align_up(start, kTensorAlignment) - start;
  small_buffer_.reset(ggml_backend_cpu_buffer_from_ptr(small_.data() + used, size - used));
  for (const PlacedTensor& placed : layout_.tensors) {
    if (!is_small(placed)) continue;
    ggml_tensor* tensor = tensors_[{placed.role, placed.layer}][placed.part];
    PRIMA_RETURN_IF_ERROR(files_[placed.file]->read(placed.bytes, small_.data() + used));
    tensor->data = small_.data() + used;
    if (placed.buffer_type == ggml_backend_cpu_buffer_type()) tensor->buffer = small_buffer_.get();
    used += align_up(placed.bytes.size, kTensorAlignment);
  }
  return {};
}

std::vector<Bytes> StreamedWeights::stage_bytes() const {
  std::vector<Bytes> sizes;
  for (const auto& stage : stages_) sizes.push_back(stage->layout.size());
  return sizes;
}

Bytes StreamedWeights::smallest_budget() const {
  return memory().always + smallest_stream_budget(stage_bytes());
}

Bytes StreamedWeights::full_budget() const {
  Bytes total = memory().always;
  for (const Bytes size : stage_bytes()) total += size;
  return total;
}

Status StreamedWeights::start(Bytes budget, const std::function<bool(Bytes, Bytes)>& progress) {
  if (budget < smallest_budget()) {
    return fail(ErrorCode::resource_exhausted,
                format_bytes(budget) + " of memory for weights are too little",
                "At least " + format_bytes(smallest_budget()) + " (" +
                    std::to_string(smallest_budget()) + " bytes) are needed");
  }
  if (stages_.empty()) return {};
  const Bytes for_stages = budget - memory().always;
  if (budget >= full_budget()) {
    const Bytes largest =
        std::min(for_stages / kPartsInBudget, options_.largest_part_where_all_fit);
    PRIMA_RETURN_IF_ERROR(lay_out(in_larger_parts(layout_, largest)));
  }
  const std::vector<Bytes> sizes = stage_bytes();
  std::vector<StageLayout> cycle;
  for (const auto& stage : stages_) cycle.push_back(stage->layout);
  PRIMA_ASSIGN_OR_RETURN(auto reader, open_streaming_reader());
  const bool can_be_in_place = budget < full_budget() && can_stream_in_place();
  PRIMA_ASSIGN_OR_RETURN(schedule_, schedule(for_stages, can_be_in_place, *reader, cycle));
  for (std::size_t i = 0; i < stages_.size(); ++i) stages_[i]->resident = !schedule_.streamed[i];

  const ResidentRuns runs = resident_runs();
  drop_all_but(runs);
  Bytes done = 0;
  std::future<Status> verified;  // one stage, while the next comes from disk
  for (const auto& stage : stages_) {
    if (!stage->resident) continue;
    PRIMA_RETURN_IF_ERROR(fetch(*stage, runs));
    if (verified.valid()) PRIMA_RETURN_IF_ERROR(verified.get());
    if (!stage->verified) {
      verified = std::async(std::launch::async, [this, &stage] { return verify(*stage); });
    }
    done += stage->layout.size();
    if (progress && !progress(done, schedule_.resident_bytes)) {
      return fail(ErrorCode::cancelled, "loading was cancelled");
    }
  }

  if (verified.valid()) PRIMA_RETURN_IF_ERROR(verified.get());

  // Where all stages are resident now, slots are for later. Their memory is taken when it is used.
  Bytes slots = schedule_.slot_bytes;
  if (slots == 0) {
    slots = comfortable_slot_bytes(*std::max_element(sizes.begin(), sizes.end()), budget);
  }
  in_place_ = options_.place == StreamingPlace::in_place ||
              (can_be_in_place && slots > most_own_slot_bytes(for_stages));
  // What was given up stays out of the slots until it has been used once more: who uses it now may
  // still count on its being in memory.
  const auto is_resident = [this](StageIndex stage) {
    return stages_[stage]->resident || stages_[stage]->just_given_up;
  };
  if (!in_place_) {
    PRIMA_ASSIGN_OR_RETURN(auto memory, SlotMemory::allocate(slots));
    streamer_ = std::make_unique<Streamer>(std::move(reader), std::move(memory), std::move(cycle),
                                           is_resident, options_.streamer);
    return {};
  }
  const auto drop_streamed = [this](StageIndex index) {
    const Stage& stage = *stages_[index];
    const std::lock_guard lock(dropping_mutex_);
    if (!stage.resident && !stage.taken_back && stage.uses == 0) drop(stage);
  };
  StreamerOptions options = options_.streamer;
  options.chunk = kInPlaceChunk;
  streamer_ = std::make_unique<Streamer>(open_in_place_reader(files_, options_.reader.queue_depth),
                                         InPlaceSlots{.capacity = slots, .drop = drop_streamed},
                                         std::move(cycle), is_resident, options);
  return {};
}

Result<std::unique_ptr<Reader>> StreamedWeights::open_streaming_reader() {
  PRIMA_ASSIGN_OR_RETURN(auto reader, open_reader(layout_.paths, options_.reader));
  if (reader->alignment() <= kBlock) return reader;
  // Rare (64 KiB pages): through the page cache there is no such rule.
  log::warn("this file system reads directly only in blocks of {}; reading through its cache",
            format_bytes(reader->alignment()));
  options_.reader.direct = false;
  return open_reader(layout_.paths, options_.reader);
}

// Tried with the stages' own bytes, because another device on this computer may hold others; again
// where memory may just have been too fragmented.
bool StreamedWeights::can_stream_in_place() const {
  if (options_.place != StreamingPlace::automatic) {
    return options_.place == StreamingPlace::in_place;
  }
  constexpr std::size_t kTries = 8;
  for (std::size_t i = 0; i < std::min(kTries, stages_.size()); ++i) {
    const Member& member = stages_[i]->members.front();
    const auto answer = files_[member.file]->brings_huge_pages(member.bytes);
    if (answer == true) return true;
  }
  return false;
}

Result<StreamSchedule> StreamedWeights::schedule(Bytes budget, bool can_be_in_place, Reader& reader,
                                                 std::span<const StageLayout> cycle) const {
  const std::vector<Bytes> sizes = stage_bytes();
  StreamConditions conditions{.compute_bytes_per_second = kComputeBytesPerSecond,
                              .share = options_.ring.share,
                              .can_be_in_place = can_be_in_place};
  const bool all_fit = budget + memory().always >= full_budget();
  if (!all_fit && !options_.slot_bytes) {
    conditions.disk_bytes_per_second =
        measure_read_speed(reader, cycle, options_.streamer.chunk, SystemClock());
  }
  if (conditions.disk_bytes_per_second <= 0) {
    std::optional<Bytes> slots = options_.slot_bytes;
    if (slots && !can_be_in_place) {
      const Bytes largest = *std::max_element(sizes.begin(), sizes.end());
      const Bytes enough = align_up(largest, SlotMemory::kAlignment);
      slots = std::min(*slots, std::max(most_own_slot_bytes(budget), enough));
    }
    return schedule_streaming(sizes, budget, slots);
  }
  for (const int last_layer : options_.ring.last_layers) {
    std::optional<std::size_t> end;
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      if (stages_[i]->layer >= 0 && stages_[i]->layer <= last_layer) end = i;
    }
    auto& ends = conditions.window_ends;
    if (end && (ends.empty() || ends.back() != *end)) ends.push_back(*end);
  }
  auto chosen = fastest_schedule(sizes, budget, conditions);
  if (chosen) {
    log::debug("{}/s from disk: {} streamed through {} of slots, {} windows, share {:.2f}",
               format_bytes(static_cast<Bytes>(conditions.disk_bytes_per_second)),
               format_bytes(chosen->streamed_bytes), format_bytes(chosen->slot_bytes),
               conditions.window_ends.size(), conditions.share);
  }
  return chosen;
}

Status StreamedWeights::set_resident(Bytes bytes) {
  if (!streamer_) return {};
  const std::vector<Bytes> sizes = stage_bytes();
  const Bytes slots = streamer_->memory_bytes();
  Bytes too_large_for_slots = 0;
  for (const Bytes size : sizes) too_large_for_slots += size > slots ? size : 0;
  PRIMA_ASSIGN_OR_RETURN(StreamSchedule wanted,
                         schedule_streaming(sizes, std::max(bytes, too_large_for_slots) + slots,
                                            slots, &schedule_.streamed));
  // First what gives memory back.
  for (std::size_t i = 0; i < stages_.size(); ++i) {
    if (!wanted.streamed[i] || !stages_[i]->resident) continue;
    stages_[i]->just_given_up = true;
    stages_[i]->resident = false;
    drop(*stages_[i]);
  }
  ++residency_version_;
  for (std::size_t i = 0; i < stages_.size(); ++i) {
    Stage& stage = *stages_[i];
    if (wanted.streamed[i] || stage.resident) continue;
    {
      const std::lock_guard lock(dropping_mutex_);
      stage.taken_back = true;  // whoever streams it in place drops it no more
    }
    const Status fetched = fetch(stage);
    if (fetched) {
      fetched_bytes_ += sizes[i];
      stage.resident = true;
    }
    stage.taken_back = false;
    PRIMA_RETURN_IF_ERROR(fetched);
  }
  {
    const std::lock_guard lock(schedule_mutex_);
    schedule_ = std::move(wanted);
  }
  ++residency_version_;
  streamer_->residency_changed();
  return {};
}

std::span<ggml_tensor* const> StreamedWeights::parts(TensorRole role, int layer) const {
  const auto found = tensors_.find({role, model::is_per_layer(role) ? layer : -1});
  if (found == tensors_.end()) return {};
  return found->second;
}

std::optional<StageIndex> StreamedWeights::streamed_stage(const ggml_tensor* weight) const {
  const auto found = stage_of_.find(weight);
  if (found == stage_of_.end()) return std::nullopt;
  return found->second;
}

Status StreamedWeights::acquire(StageIndex index) {
  Stage& stage = *stages_[index];
  if (stage.uses++ > 0) return {};
  if (index == 0) limit_embedding_rows();
  Status status = make_ready(index, stage);
  if (status && !stage.verified) {
    status = verify(stage);
    if (!status && stage.in_slot) streamer_->release(index);
  }
  if (!status) --stage.uses;
  return status;
}

Status StreamedWeights::make_ready(StageIndex index, Stage& stage) {
  // Given up: read in place this once.
  stage.drop_after_use = stage.just_given_up.exchange(false);
  if (stage.resident || stage.drop_after_use) {
    PRIMA_RETURN_IF_ERROR(bring_back(stage));
    use_in_place(stage);
    stage.in_slot = false;
    return {};
  }
  PRIMA_ASSIGN_OR_RETURN(std::byte* const slot, streamer_->acquire(index));
  if (in_place_) {
    if (Status status = bring_back(stage); !status) {
      streamer_->release(index);
      return status;
    }
    use_in_place(stage);
  } else {
    for (const Member& member : stage.members) member.tensor->data = slot + member.slot_offset;
  }
  stage.in_slot = true;
  return {};
}

void StreamedWeights::use_in_place(const Stage& stage) const {
  for (const Member& member : stage.members) {
    member.tensor->data = files_[member.file]->data() + member.bytes.offset;
  }
}

// A layer store may have been damaged since it was written: its bytes are looked at when they are
// here for the first time.
Status StreamedWeights::verify(Stage& stage) const {
  for (const Member& member : stage.members) {
    const auto* bytes = static_cast<const std::byte*>(member.tensor->data);
    for (const Checksummed& run : member.checksums) {
      Checksum checksum;
      checksum.add({bytes, run.size});
      bytes += run.size;
      if (checksum.value() == run.checksum) continue;
      const std::filesystem::path& path = layout_.paths[member.file];
      std::error_code ignored;
      std::filesystem::remove(path, ignored);
      return fail(ErrorCode::corrupt, path.string() + ": " + member.tensor->name + " is damaged",
                  "The file was removed: start again, and weights come from the model itself");
    }
  }
  stage.verified = true;
  return {};
}

void StreamedWeights::release(StageIndex index) {
  Stage& stage = *stages_[index];
  if (--stage.uses > 0) return;
  if (stage.in_slot) streamer_->release(index);
  if (stage.drop_after_use && !stage.resident) drop(stage);
  stage.in_slot = false;
}

// A stage whose pages the system took, or one just given up. They come back in place: the
// slots are busy with what comes next, and leaving the order of streaming would cost more. That it
// happened at all is for the residency policy, which has fewer stages resident soon.
Status StreamedWeights::bring_back(const Stage& stage) {
  const SystemClock clock;
  for (const Member& member : stage.members) {
    const MappedFile& file = *files_[member.file];
    PRIMA_RETURN_IF_ERROR(file.check_unchanged());
    const Bytes missing = file.bytes_missing(member.bytes);
    if (missing == 0) continue;
    const Instant start = clock.now();
    PRIMA_RETURN_IF_ERROR(file.fetch(member.bytes));
    brought_back_in_ += (clock.now() - start).count();
    // Not for a few pages: that takes as long as for all.
    if (stage.resident && missing > member.bytes.size / 2) file.keep(member.bytes);
    fetched_bytes_ += missing;
    // What set_resident() gave up was not taken; counted, it would make the next to be given up.
    if (!stage.drop_after_use) lost_bytes_ += missing;
  }
  return {};
}

// With what of its neighbours shares huge pages with it, where they are resident too.
Status StreamedWeights::fetch(const Stage& stage, const ResidentRuns& runs) const {
  for (const Member& member : stage.members) {
    const MappedFile& file = *files_[member.file];
    ByteRange bytes = member.bytes;
    if (!runs.empty()) {
      const auto& of_file = runs[member.file];
      const auto after = std::ranges::upper_bound(of_file, bytes.offset, {}, &ByteRange::offset);
      bytes = file.grown_to_huge_pages(bytes, *std::prev(after));
    }
    file.make_way_for_huge_pages(bytes);
    PRIMA_RETURN_IF_ERROR(file.fetch(bytes));
    file.keep(bytes);
  }
  return {};
}

void StreamedWeights::drop(const Stage& stage) const {
  for (const Member& member : stage.members) files_[member.file]->drop(member.bytes);
}

StreamedWeights::ResidentRuns StreamedWeights::resident_runs() const {
  ResidentRuns runs(files_.size());
  for (const auto& stage : stages_) {
    if (!stage->resident) continue;
    for (const Member& member : stage->members) runs[member.file].push_back(member.bytes);
  }
  for (auto& of_file : runs) {
    std::ranges::sort(of_file, {}, &ByteRange::offset);
    std::vector<ByteRange> joined;
    for (const ByteRange& range : of_file) {
      // A tensor may end within the block in which the next begins.
      if (joined.empty() || range.offset > align_up(joined.back().end(), kBlock)) {
        joined.push_back(range);
      } else {
        ByteRange& last = joined.back();
        last.size = std::max(last.end(), range.end()) - last.offset;
      }
    }
    of_file = std::move(joined);
  }
  return runs;
}

// What earlier programs left of the model in the system's file cache. This one reads it past the
// cache, which would keep it, as pages that were used before, and drop the resident stages instead.
void StreamedWeights::drop_all_but(const ResidentRuns& runs) const {
  for (std::size_t i = 0; i < files_.size(); ++i) {
    Bytes begin = 0;
    for (const ByteRange& range : runs[i]) {
      if (range.offset > begin) files_[i]->drop({begin, range.offset - begin});
      begin = range.end();
    }
    if (files_[i]->size() > begin) files_[i]->drop({begin, files_[i]->size() - begin});
  }
}

// Looked at rarely, for the system goes over every page of the embedding to answer.
void StreamedWeights::limit_embedding_rows() {
  constexpr std::uint64_t kCycles = 16;
  if (!embedding_ || ++cycles_since_limited_ < kCycles) return;
  cycles_since_limited_ = 0;
  // The output layer may be the embedding: what of it is resident is to stay.
  const bool is_resident = std::ranges::any_of(stages_, [&](const auto& stage) {
    return stage->resident && std::ranges::any_of(stage->members, [&](const Member& member) {
             return member.file == embedding_->file &&
                    member.bytes.offset < embedding_->bytes.end() &&
                    embedding_->bytes.offset < member.bytes.end();
           });
  });
  if (is_resident) return;
  const MappedFile& file = *files_[embedding_->file];
  if (file.bytes_in_memory(embedding_->bytes) > kEmbeddingRows) file.drop(embedding_->bytes);
}

WeightMemory StreamedWeights::memory() const {
  const std::lock_guard lock(schedule_mutex_);
  WeightMemory memory;
  memory.always = small_.size();
  if (embedding_)
    memory.always += std::min(align_up(embedding_->bytes.size, kBlock), kEmbeddingRows);
  memory.resident = schedule_.resident_bytes;
  memory.streamed = schedule_.streamed_bytes;
  memory.slots = schedule_.slot_bytes;
  return memory;
}

void StreamedWeights::set_idle_work(IdleWork* work) {
  if (streamer_) streamer_->set_idle_work(work);
}

StreamerStatistics StreamedWeights::statistics() const {
  if (!streamer_) return {};
  StreamerStatistics statistics = streamer_->statistics();
  statistics.waited += Duration(brought_back_in_);
  return statistics;
}

bool StreamedWeights::reads_directly() const { return streamer_ && streamer_->reads_directly(); }

std::string StreamedWeights::description() const {
  return streamer_ ? streamer_->description() : "in memory";
}

}  // namespace prima::weights
