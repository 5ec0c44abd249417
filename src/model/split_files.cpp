#include "model/split_files.h"

#include <spdlog/fmt/fmt.h>

namespace prima::model {
namespace {

constexpr std::string_view kCount = "split.count";
constexpr std::string_view kNumber = "split.no";
constexpr std::string_view kTensors = "split.tensors.count";

tl::unexpected<Error> corrupt(const std::filesystem::path& path, std::string_view what) {
  return fail(ErrorCode::corrupt, fmt::format("{}: {}", path.string(), what),
              "Download all parts of the model again");
}

// llama.cpp aborts on a number of a part that is no uint16.
Result<std::uint32_t> read_uint16(const std::filesystem::path& path, const Metadata& metadata,
                                  std::string_view key) {
  const auto type = metadata.type(key);
  if (!type || type->type != GgufType::uint16) {
    return corrupt(path, fmt::format("metadata {} is missing or no uint16", key));
  }
  return static_cast<std::uint32_t>(*metadata.find_unsigned(key));
}

Result<std::string> prefix_of(const std::filesystem::path& path, std::uint32_t count) {
  const std::string name = path.string();
  const std::string ending = split_path("", 0, count).string();
  if (name.size() > ending.size() && name.ends_with(ending)) {
    return name.substr(0, name.size() - ending.size());
  }
  return fail(ErrorCode::invalid_argument,
              fmt::format("{}: is the first of {} parts, but its name does not end in '{}', so the "
                          "others cannot be found",
                          name, count, ending),
              "Give the parts the names they were downloaded under");
}

// `n_tensors`: of all parts together, as the first says.
Result<SplitFile> read_part(const std::string& prefix, std::uint32_t part, std::uint32_t count,
                            std::uint64_t n_tensors) {
  SplitFile file;
  file.path = split_path(prefix, part, count);
  auto gguf = read_gguf(file.path);
  if (!gguf && gguf.error().code == ErrorCode::not_found) {
    return fail(ErrorCode::not_found,
                fmt::format("{}: part {} of {} of the model is missing", file.path.string(),
                            part + 1, count),
                "Download it beside the others");
  }
  PRIMA_ASSIGN_OR_RETURN(file.gguf, std::move(gguf));
  PRIMA_ASSIGN_OR_RETURN(const auto number, read_uint16(file.path, file.gguf.metadata, kNumber));
  if (number != part) {
    return corrupt(file.path,
                   fmt::format("says it is part {}, but its name says {}", number + 1, part + 1));
  }
  PRIMA_ASSIGN_OR_RETURN(const auto parts, read_uint16(file.path, file.gguf.metadata, kCount));
  const auto of_all = file.gguf.metadata.find_unsigned(kTensors);
  if (parts != count || (of_all && *of_all != n_tensors)) {
    return corrupt(file.path, "is a part of another model than the first");
  }
  return file;
}

}  // namespace

std::filesystem::path split_path(const std::string& prefix, std::uint32_t part,
                                 std::uint32_t count) {
  return fmt::format("{}-{:05d}-of-{:05d}.gguf", prefix, part + 1, count);
}

Result<std::vector<SplitFile>> read_split_files(const std::filesystem::path& path) {
  std::vector<SplitFile> files(1);
  files[0].path = path;
  PRIMA_ASSIGN_OR_RETURN(files[0].gguf, read_gguf(path));
  const Metadata& metadata = files[0].gguf.metadata;
  if (metadata.find(kCount) == nullptr) return files;
  PRIMA_ASSIGN_OR_RETURN(const auto count, read_uint16(path, metadata, kCount));
  if (count <= 1) return files;

  PRIMA_ASSIGN_OR_RETURN(const auto number, read_uint16(path, metadata, kNumber));
  if (number != 0) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("{}: is part {} of {}", path.string(), number + 1, count),
                fmt::format("Give the first part, whose name ends in '{}'",
                            split_path("", 0, count).string()));
  }
  const auto expected = metadata.find_unsigned(kTensors);
  if (!expected) return corrupt(path, fmt::format("metadata {} is missing", kTensors));

  PRIMA_ASSIGN_OR_RETURN(const auto prefix, prefix_of(path, count));
  std::uint64_t n_tensors = files[0].gguf.tensors.size();
  for (std::uint32_t part = 1; part < count; ++part) {
    PRIMA_ASSIGN_OR_RETURN(auto file, read_part(prefix, part, count, *expected));
    n_tensors += file.gguf.tensors.size();
    files.push_back(std::move(file));
  }
  if (n_tensors != *expected) {
    return corrupt(path, fmt::format("the {} parts have {} tensors, but {} are expected", count,
                                     n_tensors, *expected));
  }
  return files;
}

}  // namespace prima::model
