// Weights that need not fit in memory: as many stages as the budget allows stay resident, the
// others are streamed through slots.
//
//     open(layout)              tensors, so that graphs can be built and measured; no memory yet
//     start(budget)             decides what is resident, fills it, starts the streamer
//     acquire, release          by the computing thread, in order of use
//     set_resident(bytes)       at any time after start: gives memory up, or takes it back
//
// Resident stages are mapped from the file, so they are clean pages that the system can take back;
// they are brought in by large reads. Before a resident stage is used its pages are checked, and
// brought back by large reads where the system took them: the computing thread never waits for
// single page faults.
//
// Streamed stages pass through slots of memory, or where many slots are wanted in place: mapped,
// brought in ahead of use, checked before it as resident ones are, and dropped after it.
//
// Small tensors (norms, biases) are always in memory; of the embedding, the rows used are faulted
// in from the file, and given back before they amount to anything.
//
// parts(), find() and streamed_stage() are thread-safe, acquire() and release() for the computing
// thread, the others for one more thread.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include <ggml-cpp.h>

#include "weights/mapped_file.h"
#include "weights/stream_schedule.h"
#include "weights/streamer.h"
#include "weights/streaming_options.h"
#include "weights/weight_layout.h"
#include "weights/weights.h"

namespace prima::weights {

struct WeightMemory {
  Bytes always = 0;    // small tensors, and what embedding rows may take
  Bytes resident = 0;  // stages that are to stay in memory
  Bytes slots = 0;
  Bytes streamed = 0;  // not memory: bytes read per cycle

  Bytes total() const { return always + resident + slots; }
};

class StreamedWeights final : public Weights {
 public:
  static Result<std::unique_ptr<StreamedWeights>> open(const WeightLayout& layout,
                                                       const StreamingOptions& options = {});
  ~StreamedWeights() override;

  // The least budget that start() accepts.
  Bytes smallest_budget() const;
  // What start() needs to keep everything in memory.
  Bytes full_budget() const;

  // `progress`: bytes done, bytes in all; returning false cancels. Fails with resource_exhausted
  // (with the budget that would be enough), io, unavailable, cancelled, corrupt (a checksum of what
  // is resident). Where all weights fit, matrices are in larger parts from then on: tensors and
  // stages asked for before are no more.
  Status start(Bytes budget, const std::function<bool(Bytes, Bytes)>& progress = {});

  // How many bytes of stages are to be resident from now on: gives up some, or takes some back (by
  // large reads, before they count as resident). Slots keep their size; stages too large for them
  // stay.
  Status set_resident(Bytes bytes);

  std::span<ggml_tensor* const> parts(model::TensorRole role, int layer) const override;
  std::optional<StageIndex> streamed_stage(const ggml_tensor* weight) const override;
  bool is_streamed(StageIndex stage) const override { return !stages_[stage]->resident; }
  std::uint64_t residency_version() const override { return residency_version_; }
  Status acquire(StageIndex stage) override;
  void release(StageIndex stage) override;
  Bytes memory_bytes() const override { return memory().total(); }

  // As Streamer::set_idle_work().
  void set_idle_work(IdleWork* work);

  WeightMemory memory() const;
  // Waiting for what the system took, and acquire() brought back, is in it.
  StreamerStatistics statistics() const;

  // Of resident stages, and such as were in memory ahead of use in place, that the system took
  // without asking: since the start.
  Bytes lost_bytes() const { return lost_bytes_; }
  // Read since the start besides what was streamed, so that resident stages are in memory.
  Bytes fetched_bytes() const { return fetched_bytes_; }
  std::string description() const;  // "io_uring, direct"
  bool reads_directly() const;
  bool streams_in_place() const { return in_place_; }

 private:
  struct Member {
    ggml_tensor* tensor = nullptr;
    std::uint32_t file = 0;
    ByteRange bytes;
    Bytes slot_offset = 0;  // of its first byte in the stage's slot
    std::vector<Checksummed> checksums{};
  };

  struct Stage {
    int layer = -1;
    std::vector<Member> members;
    StageLayout layout;
    std::atomic<bool> resident = false;
    std::atomic<int> uses = 0;
    std::atomic<bool> just_given_up = false;
    std::atomic<bool> taken_back = false;  // being fetched, to be resident
    // As it is in use; of the computing thread.
    bool in_slot = false;
    bool drop_after_use = false;
    bool verified = true;  // or nothing says what its bytes should be
  };

  // Of each file, in order: ranges that resident stages fill without a gap.
  using ResidentRuns = std::vector<std::vector<ByteRange>>;

  StreamedWeights() = default;

  Status map_files();
  Status lay_out(WeightLayout layout);
  Status make_tensors();
  Status read_small();
  void make_stages();
  ggml_backend_buffer_t buffer_of(const PlacedTensor& tensor);
  std::vector<Bytes> stage_bytes() const;
  Result<std::unique_ptr<Reader>> open_streaming_reader();
  Result<StreamSchedule> schedule(Bytes budget, bool can_be_in_place, Reader& reader,
                                  std::span<const StageLayout> cycle) const;
  bool can_stream_in_place() const;
  void use_in_place(const Stage& stage) const;
  Status make_ready(StageIndex index, Stage& stage);
  Status bring_back(const Stage& stage);
  Status verify(Stage& stage) const;
  Status fetch(const Stage& stage, const ResidentRuns& runs = {}) const;
  ResidentRuns resident_runs() const;
  void drop(const Stage& stage) const;
  void drop_all_but(const ResidentRuns& runs) const;
  void limit_embedding_rows();

  StreamingOptions options_;
  WeightLayout layout_;
  std::vector<std::shared_ptr<const MappedFile>> files_;
  bool in_place_ = false;
  ggml_context_ptr context_;
  std::vector<std::byte> small_;  // norms, biases; aligned by its users
  ggml_backend_buffer_ptr small_buffer_;
  std::vector<ggml_backend_buffer_ptr> file_buffers_;  // beside files_
  std::map<ggml_backend_buffer_type_t, ggml_backend_buffer_ptr> repacked_buffers_;
  std::map<std::pair<model::TensorRole, int>, std::vector<ggml_tensor*>> tensors_;
  std::unordered_map<const ggml_tensor*, StageIndex> stage_of_;
  std::vector<std::unique_ptr<Stage>> stages_;  // in order of use
  std::optional<Member> embedding_;
  std::uint64_t cycles_since_limited_ = 0;
  std::atomic<Bytes> lost_bytes_ = 0;
  std::atomic<Bytes> fetched_bytes_ = 0;
  std::atomic<Duration::rep> brought_back_in_ = 0;
  std::atomic<std::uint64_t> residency_version_ = 0;
  std::mutex dropping_mutex_;  // held while what was streamed in place is dropped
  mutable std::mutex schedule_mutex_;
  StreamSchedule schedule_;
  std::unique_ptr<Streamer> streamer_;  // last: its thread uses the others
};

}  // namespace prima::weights
