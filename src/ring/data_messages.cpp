// The data part of messages.h.
#include <algorithm>

#include "wire_generated.h"

#include "compute/kv_cells.h"
#include "ring/messages.h"

namespace prima::ring {
namespace {

// A step removes or copies a few ranges; a hundred per sequence is beyond any use.
constexpr std::size_t kMaxKvOperations = 100 * compute::kMaxSequences;

tl::unexpected<Error> malformed(const char* what) {
  return fail(ErrorCode::corrupt, std::string("A data message is malformed: ") + what);
}

// Timings are for people to look at: what no step takes becomes the most one may.
constexpr std::uint64_t kMaxNanoseconds = std::uint64_t{3600} * 1'000'000'000;

std::uint64_t nanoseconds(Duration duration) {
  return static_cast<std::uint64_t>(std::max(duration, Duration{}).count());
}
Duration duration_of(std::uint64_t nanoseconds) {
  return Duration(static_cast<Duration::rep>(std::min(nanoseconds, kMaxNanoseconds)));
}

bool is_sequence(std::int32_t sequence) {
  return sequence >= 0 && sequence < compute::kMaxSequences;
}

template <typename T>
std::vector<T> copy_of(const flatbuffers::Vector<T>* from) {
  if (!from) return {};
  return {from->begin(), from->end()};
}

template <typename T>
std::size_t size_of(const flatbuffers::Vector<T>* vector) {
  return vector ? vector->size() : 0;
}

Result<compute::KvOperation> from_wire(const wire::KvOperation& operation) {
  if (operation.kind() > static_cast<std::uint8_t>(compute::KvOperation::Kind::copy)) {
    return malformed("a KV operation of unknown kind");
  }
  if (!is_sequence(operation.sequence()) || !is_sequence(operation.target()) ||
      operation.from() < 0 || operation.from() > operation.to()) {
    return malformed("a KV operation on what cannot be");
  }
  return compute::KvOperation{static_cast<compute::KvOperation::Kind>(operation.kind()),
                              operation.sequence(), operation.target(), operation.from(),
                              operation.to()};
}

Result<compute::Step> from_wire(const wire::Step& from, const SessionShape& shape) {
  const std::size_t n_tokens = size_of(from.positions());
  if (n_tokens == 0 || n_tokens > shape.max_tokens) return malformed("a step's number of tokens");
  if (size_of(from.sequences()) != n_tokens || size_of(from.cells()) != n_tokens) {
    return malformed("a step's lists differ in length");
  }
  if (size_of(from.outputs()) > n_tokens) return malformed("a step has more outputs than tokens");
  if (size_of(from.kv_operations()) > kMaxKvOperations) return malformed("too many KV operations");
  compute::Step step{.id = from.id(),
                     .kv_operations = {},
                     .sequences = copy_of(from.sequences()),
                     .positions = copy_of(from.positions()),
                     .cells = copy_of(from.cells()),
                     .n_kv = from.n_kv(),
                     .outputs = copy_of(from.outputs())};
  if (step.n_kv > shape.n_ctx) return malformed("a step reads more cells than there are");
  if (!std::ranges::all_of(step.sequences, is_sequence)) return malformed("a step's sequences");
  if (std::ranges::any_of(step.positions, [](std::int32_t p) { return p < 0; })) {
    return malformed("a step's positions");
  }
  if (std::ranges::any_of(step.cells, [&](std::uint32_t c) { return c >= shape.n_ctx; })) {
    return malformed("a step's cells");
  }
  // Ascending, each once.
  if (std::ranges::adjacent_find(step.outputs, std::greater_equal{}) != step.outputs.end() ||
      (!step.outputs.empty() && step.outputs.back() >= n_tokens)) {
    return malformed("a step's outputs");
  }
  if (from.kv_operations()) {
    for (const wire::KvOperation* operation : *from.kv_operations()) {
      PRIMA_ASSIGN_OR_RETURN(auto checked, from_wire(*operation));
      step.kv_operations.push_back(checked);
    }
  }
  return step;
}

}  // namespace

bool is_link_type(ggml_type type, std::uint32_t n_embd) {
  return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 ||
         (type == GGML_TYPE_Q8_0 && n_embd % ggml_blck_size(type) == 0);
}

std::uint32_t SessionShape::columns(std::uint32_t hop, const compute::Step& step) const {
  return hop == n_hops ? static_cast<std::uint32_t>(step.outputs.size()) : step.n_tokens();
}

Bytes SessionShape::payload_bytes(std::uint32_t columns) const {
  return Bytes{columns} * ggml_row_size(link_type, n_embd);
}

std::vector<std::byte> encode(const DataHeader& header, const SessionShape& shape) {
  flatbuffers::FlatBufferBuilder builder(1024);
  flatbuffers::Offset<wire::Step> step_offset = 0;
  std::uint32_t columns = 0;
  if (header.step) {
    const compute::Step& step = *header.step;
    columns = shape.columns(header.hop, step);
    std::vector<wire::KvOperation> operations;
    for (const compute::KvOperation& operation : step.kv_operations) {
      operations.emplace_back(static_cast<std::uint8_t>(operation.kind), operation.sequence,
                              operation.target, operation.from, operation.to);
    }
    step_offset = wire::CreateStepDirect(
        builder, step.id, operations.empty() ? nullptr : &operations, &step.sequences,
        &step.positions, &step.cells, step.n_kv, &step.outputs);
  }
  std::vector<flatbuffers::Offset<wire::HopTiming>> timings;
  for (const HopRecord& record : header.timings) {
    timings.push_back(wire::CreateHopTiming(
        builder, record.hop, nanoseconds(record.waiting), nanoseconds(record.reading),
        nanoseconds(record.computing), nanoseconds(record.sending)));
  }
  builder.Finish(wire::CreateDataDirect(builder, header.session, header.epoch, header.from,
                                        header.serial, header.hop, columns, step_offset, &timings,
                                        header.waves, header.more));
  const auto* const bytes = reinterpret_cast<const std::byte*>(builder.GetBufferPointer());
  return {bytes, bytes + builder.GetSize()};
}

Result<std::optional<DataHeader>> decode_data(std::span<const std::byte> bytes, Bytes payload_bytes,
                                              const SessionShape& shape) {
  const auto* const data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  flatbuffers::Verifier verifier(data, bytes.size());
  if (!verifier.VerifyBuffer<wire::Data>(nullptr)) return malformed("its structure");
  const wire::Data& from = *flatbuffers::GetRoot<wire::Data>(data);
  if (from.session() != shape.session) return std::optional<DataHeader>();
  DataHeader header{.session = from.session(),
                    .epoch = from.epoch(),
                    .from = from.from(),
                    .serial = from.serial(),
                    .hop = from.hop(),
                    .step = std::nullopt,
                    .timings = {},
                    .waves = from.waves(),
                    .more = from.more()};
  if (header.from >= shape.n_devices) return malformed("it comes from no device");
  if (header.hop > shape.n_hops) return malformed("it goes to a hop that is not");
  if (size_of(from.timings()) > shape.n_hops) return malformed("too many timings");
  if (from.step()) {
    PRIMA_ASSIGN_OR_RETURN(header.step, from_wire(*from.step(), shape));
    const std::uint32_t columns = shape.columns(header.hop, *header.step);
    if (from.columns() != columns || payload_bytes != shape.payload_bytes(columns)) {
      return malformed("its hidden state is not of the step's size");
    }
  } else if (payload_bytes != 0) {
    return malformed("a hidden state without a step");
  }
  if (from.timings()) {
    for (const wire::HopTiming* timing : *from.timings()) {
      if (timing->hop() >= shape.n_hops) return malformed("a timing cannot be");
      header.timings.push_back(
          {timing->hop(), duration_of(timing->waiting_ns()), duration_of(timing->reading_ns()),
           duration_of(timing->computing_ns()), duration_of(timing->sending_ns())});
    }
  }
  return std::optional(std::move(header));
}

}  // namespace prima::ring
