#include "weights/read_speed.h"

#include <algorithm>
#include <vector>

#include "weights/slot_memory.h"

namespace prima::weights {
namespace {

// At first a disk gets up to speed, and a throttled one (a virtual machine's, a control group's)
// delivers what it has saved up; this long is not counted.
constexpr Duration kNotCounted = std::chrono::milliseconds(200);
constexpr Duration kCounted = std::chrono::milliseconds(300);
constexpr Bytes kMostBytes = kGiB;

// A disk that does not answer at all is found out by the streamer, with a message.
constexpr Duration kPatience = std::chrono::seconds(2);

std::vector<ReadRequest> requests_for(std::span<const StageLayout> stages, Bytes chunk) {
  std::vector<ReadRequest> requests;
  Bytes total = 0;
  for (const StageLayout& stage : stages) {
    for (const StagePiece& piece : stage.pieces) {
      for (Bytes done = 0; done < piece.size && total < kMostBytes; done += chunk) {
        requests.push_back(
            {piece.file, piece.offset + done, std::min(chunk, piece.size - done), nullptr, 0});
        total += requests.back().size;
      }
    }
  }
  return requests;
}

}  // namespace

double measure_read_speed(Reader& reader, std::span<const StageLayout> stages, Bytes chunk,
                          const Clock& clock) {
  const Bytes place = align_up(chunk, SlotMemory::kAlignment);
  const auto memory = SlotMemory::allocate(reader.queue_depth() * place);
  if (!memory) return 0;
  std::vector<std::size_t> free_places;
  for (std::size_t i = 0; i < reader.queue_depth(); ++i) free_places.push_back(i);

  auto requests = requests_for(stages, chunk);
  std::size_t next = 0;
  std::size_t in_flight = 0;
  Bytes bytes = 0;
  bool sound = true;
  const Instant begun = clock.now();
  Instant start = begun;
  Instant last = begun;
  std::vector<ReadCompletion> completions;
  while (true) {
    const bool more =
        sound && next < requests.size() && clock.now() - begun < kNotCounted + kCounted;
    while (more && next < requests.size() && !free_places.empty()) {
      ReadRequest& request = requests[next];
      request.buffer = memory->data() + free_places.back() * place;
      request.tag = next++ << 16 | free_places.back();
      free_places.pop_back();
      ++in_flight;
      reader.submit(request);
    }
    if (in_flight == 0) break;
    completions.clear();
    reader.wait(kPatience, completions);
    // The reads still hold the memory: it is left to them by waiting on, however long.
    if (completions.empty()) sound = false;
    for (const ReadCompletion& completion : completions) {
      --in_flight;
      free_places.push_back(completion.tag & 0xFFFF);
      sound = sound && completion.status.has_value();
      last = clock.now();
      if (last - begun < kNotCounted) {
        start = last;
      } else {
        bytes += requests[completion.tag >> 16].size;
      }
    }
  }
  if (!sound || last <= start) return 0;
  return static_cast<double>(bytes) / seconds(last - start);
}

}  // namespace prima::weights
