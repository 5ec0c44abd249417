#include "plan/cluster_file.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <initializer_list>
#include <optional>
#include <sstream>

#include <toml++/toml.h>

#include "plan/ratings.h"

namespace prima::plan {
namespace {

using profile::DeviceProfile;
using profile::GpuProfile;
using profile::LinkProfile;

// Beyond these a figure is a slip of the pen, not a device.
constexpr double kMostBytesPerSecond = 1e14;
constexpr double kMostOperationsPerSecond = 1e17;
constexpr double kMostSeconds = 60;
constexpr Bytes kMostMemory = Bytes{1} << 50;
constexpr std::size_t kMostDevices = 1024;

// One table of the file. The first thing wrong is remembered; what is read after it is of no use.
class Table {
 public:
  Table(const toml::table& table, std::string where, std::string_view file,
        std::optional<Error>& error)
      : table_(table), where_(std::move(where)), file_(file), error_(error) {}

  std::string text(const char* key, const char* fallback = nullptr) {
    const toml::node* node = find(key, fallback == nullptr, "a name in quotes");
    if (node == nullptr) return fallback != nullptr ? fallback : "";
    const auto value = node->value<std::string>();
    if (!value || value->empty()) {
      wrong(key, *node, "Write a name in quotes");
      return "";
    }
    return *value;
  }

  bool flag(const char* key, bool fallback) {
    const toml::node* node = find(key, false, "");
    if (node == nullptr) return fallback;
    const auto* value = node->as_boolean();
    if (value == nullptr) wrong(key, *node, "Write true or false");
    return value != nullptr && value->get();
  }

  // "9.7 GiB", or a number of bytes.
  Bytes bytes(const char* key, std::optional<Bytes> fallback, Bytes least) {
    const toml::node* node = find(key, !fallback, "a size such as \"8 GiB\"");
    if (node == nullptr) return fallback.value_or(0);
    const auto value = parse(*node, "");
    if (!value || *value < static_cast<double>(least) ||
        *value > static_cast<double>(kMostMemory)) {
      wrong(key, *node, "Write a size of at least " + format_bytes(least) + ", such as \"8 GiB\"");
      return 0;
    }
    return static_cast<Bytes>(*value);
  }

  // "3 GB/s", or a number of bytes.
  double rate(const char* key, std::optional<double> fallback, bool may_be_zero = false) {
    const toml::node* node = find(key, !fallback, "a speed such as \"3 GB/s\"");
    if (node == nullptr) return fallback.value_or(0);
    const auto value = parse(*node, "/s");
    if (!value || *value > kMostBytesPerSecond ||
        (*value < 1000 && !(may_be_zero && *value == 0))) {
      wrong(key, *node, "Write bytes per second, such as \"3 GB/s\"");
      return 0;
    }
    return *value;
  }

  double number(const char* key, std::optional<double> fallback, double least, double most,
                const char* example) {
    const toml::node* node = find(key, !fallback, example);
    if (node == nullptr) return fallback.value_or(0);
    const auto value = node->value<double>();
    if (!value || !std::isfinite(*value) || *value < least || *value > most) {
      wrong(key, *node, std::string("Write a number such as ") + example);
      return 0;
    }
    return *value;
  }

  const toml::table* table(const char* key, bool needed) {
    const toml::node* node = find(key, needed, "a table");
    if (node == nullptr) return nullptr;
    if (!node->is_table()) wrong(key, *node, std::string("Make it a table: [") + key + "]");
    return node->as_table();
  }

  // The tables of [[key]]; none where it is absent.
  std::vector<const toml::table*> tables(const char* key) {
    std::vector<const toml::table*> found;
    const toml::node* node = find(key, false, "");
    if (node == nullptr) return found;
    if (!node->is_array_of_tables()) {
      wrong(key, *node, std::string("Begin each with [[") + key + "]]");
      return found;
    }
    for (const toml::node& element : *node->as_array()) found.push_back(element.as_table());
    return found;
  }

  const toml::node* node(const char* key) { return find(key, true, "a list"); }

  // Whatever was not asked for is a slip, but for [lab] tables, which are the lab's own.
  void done() {
    for (const auto& [key, node] : table_) {
      const std::string_view name = key.str();
      if (name == "lab" || std::find(asked_.begin(), asked_.end(), name) != asked_.end()) continue;
      std::string known;
      for (const std::string& one : asked_) known += (known.empty() ? "" : ", ") + one;
      fail_at(node, where_ + " has no '" + std::string(name) + "'", "It may have: " + known);
    }
  }

  void wrong(const char* key, const toml::node& node, const std::string& remedy) {
    std::ostringstream value;
    if (const auto* text = node.as_string()) {
      value << '"' << text->get() << '"';
    } else if (const auto* integer = node.as_integer()) {
      value << integer->get();
    } else if (const auto* real = node.as_floating_point()) {
      value << real->get();
    } else {
      value << "that";
    }
    fail_at(node, where_ + ": " + key + " can't be " + value.str(), remedy);
  }

  void fail_at(const toml::node& node, const std::string& what, const std::string& remedy) {
    if (error_) return;
    error_ = Error{
        ErrorCode::invalid_argument,
        std::string(file_) + ":" + std::to_string(node.source().begin.line) + ": " + what, remedy};
  }

 private:
  const toml::node* find(const char* key, bool needed, const char* example) {
    asked_.emplace_back(key);
    const toml::node* node = table_.get(key);
    if (node == nullptr && needed) {
      fail_at(table_, where_ + " lacks '" + key + "'", std::string("Give it ") + example);
    }
    return node;
  }

  static std::optional<double> parse(const toml::node& node, std::string_view suffix) {
    if (const auto* integer = node.as_integer()) return static_cast<double>(integer->get());
    if (const auto* real = node.as_floating_point()) return real->get();
    const auto* text = node.as_string();
    if (text == nullptr) return std::nullopt;
    std::string_view value = text->get();
    if (!suffix.empty() && value.ends_with(suffix)) value.remove_suffix(suffix.size());
    const auto bytes = parse_bytes(value);
    if (!bytes) return std::nullopt;
    return static_cast<double>(*bytes);
  }

  const toml::table& table_;
  std::string where_;
  std::string_view file_;
  std::optional<Error>& error_;
  std::vector<std::string> asked_;
};

class ClusterReader {
 public:
  ClusterReader(std::string_view file, const ModelShape& shape) : file_(file), shape_(shape) {}

  Result<Cluster> read(const toml::table& root) {
    Table top(root, "the cluster", file_, error_);
    cluster_.name = top.text("name", "cluster");
    const std::string head = top.text("head", "");
    const auto devices = top.tables("device");
    for (const toml::table* device : devices) read_device(*device);
    if (devices.empty() && !error_) {
      return fail(ErrorCode::invalid_argument, std::string(file_) + ": no devices",
                  "Describe each in a [[device]] table");
    }
    if (devices.size() > kMostDevices && !error_) {
      return fail(ErrorCode::invalid_argument,
                  std::string(file_) + ": " + std::to_string(devices.size()) + " devices",
                  "Describe at most " + std::to_string(kMostDevices));
    }
    if (!head.empty()) cluster_.head = index_of(head, *root.get("head"), top);
    read_links(top);
    top.done();
    if (error_) return tl::unexpected<Error>(*error_);
    PRIMA_RETURN_IF_ERROR(validate_names());
    return std::move(cluster_);
  }

 private:
  Status validate_names() const {
    for (std::size_t a = 0; a < cluster_.devices.size(); ++a) {
      for (std::size_t b = a + 1; b < cluster_.devices.size(); ++b) {
        if (cluster_.devices[a].name != cluster_.devices[b].name) continue;
        return fail(ErrorCode::invalid_argument,
                    std::string(file_) + ": two devices are called " + cluster_.devices[a].name,
                    "Give each its own name");
      }
    }
    return {};
  }

  std::size_t index_of(const std::string& name, const toml::node& node, Table& table) {
    for (std::size_t i = 0; i < cluster_.devices.size(); ++i) {
      if (cluster_.devices[i].name == name) return i;
    }
    std::string known;
    for (const DeviceProfile& device : cluster_.devices) {
      known += (known.empty() ? "" : ", ") + device.name;
    }
    table.fail_at(node, "no device is called '" + name + "'", "The devices are " + known);
    return 0;
  }

  BackendRating read_rating(Table& table) {
    BackendRating rating;
    rating.weights_bytes_per_second = table.rate("weights", std::nullopt);
    rating.operations_per_second = table.number("operations_per_second", std::nullopt, 1e6,
                                                kMostOperationsPerSecond, "2.5e11");
    rating.layer_overhead_seconds =
        1e-3 * table.number("layer_overhead_ms", 0.0, 0, 1e3 * kMostSeconds, "0.05");
    return rating;
  }

  std::vector<profile::LayerTimes> layer_times(const BackendRating& rating) const {
    std::vector<profile::LayerTimes> layers;
    for (const LayerClass& layer : shape_.classes) {
      layers.push_back(rated_layer_times(layer, rating));
    }
    return layers;
  }

  void read_device(const toml::table& toml) {
    DeviceProfile& device = cluster_.devices.emplace_back();
    Table table(toml, "device " + std::to_string(cluster_.devices.size()), file_, error_);
    device.name = table.text("name");
    Table named(toml, "device " + device.name, file_, error_);
    static_cast<void>(named.text("name"));
    device.memory_available_bytes = named.bytes("memory", std::nullopt, kMiB);
    device.memory_reserve_bytes = named.bytes("reserve", 0, 0);
    device.disk_read_bytes_per_second = named.rate("disk", std::nullopt, true);
    device.unified_memory = named.flag("unified_memory", false);
    if (const toml::table* cpu_toml = named.table("cpu", true)) {
      Table cpu(*cpu_toml, "device " + device.name + "'s cpu", file_, error_);
      const BackendRating rating = read_rating(cpu);
      cpu.done();
      device.cpu_layers = layer_times(rating);
      device.cpu_output_seconds = rated_output_times(shape_, rating);
    }
    for (const toml::table* gpu : named.tables("gpu")) read_gpu(*gpu, device);
    named.done();
  }

  void read_gpu(const toml::table& toml, DeviceProfile& device) {
    GpuProfile& gpu = device.gpus.emplace_back();
    Table table(toml, "device " + device.name + "'s gpu", file_, error_);
    gpu.name = table.text("name", "gpu");
    if (!device.unified_memory) {
      gpu.vram_available_bytes = table.bytes("vram", std::nullopt, kMiB);
      gpu.vram_reserve_bytes = table.bytes("reserve", 0, 0);
    }
    const BackendRating rating = read_rating(table);
    gpu.layers = layer_times(rating);
    if (table.flag("output_layer", true)) gpu.output_seconds = rated_output_times(shape_, rating);
    gpu.copy_to_bytes_per_second = gpu.copy_from_bytes_per_second = table.rate("copies", 8e9);
    gpu.copy_latency_seconds =
        1e-3 * table.number("copy_latency_ms", 0.02, 0, 1e3 * kMostSeconds, "0.02");
    table.done();
  }

  LinkProfile read_link(Table& table) {
    LinkProfile link;
    link.round_trip_seconds =
        1e-3 * table.number("round_trip_ms", std::nullopt, 0, 1e3 * kMostSeconds, "4");
    const double both = 1e6 / 8 * table.number("mbit_per_second", std::nullopt, 1e-3, 1e7, "400");
    link.forward_bytes_per_second = both;
    link.backward_bytes_per_second =
        1e6 / 8 * table.number("mbit_per_second_back", both * 8 / 1e6, 1e-3, 1e7, "400");
    link.shared_medium = table.flag("shared", false);
    return link;
  }

  void read_links(Table& top) {
    const std::size_t n = cluster_.devices.size();
    std::vector<std::optional<LinkProfile>> links(link_count(n));
    std::optional<LinkProfile> any;
    if (const toml::table* toml = top.table("network", false)) {
      Table network(*toml, "the network", file_, error_);
      any = read_link(network);
      network.done();
    }
    for (const toml::table* toml : top.tables("link")) {
      Table table(*toml, "a link", file_, error_);
      const toml::node* between = table.node("between");
      const toml::array* pair = between != nullptr ? between->as_array() : nullptr;
      if (between == nullptr) return;
      if (pair == nullptr || pair->size() != 2 || !pair->is_homogeneous<std::string>()) {
        table.wrong("between", *between, "Write two devices, such as [\"laptop\", \"phone\"]");
        return;
      }
      const std::size_t a = index_of(**pair->get_as<std::string>(0), *between, table);
      const std::size_t b = index_of(**pair->get_as<std::string>(1), *between, table);
      LinkProfile link = read_link(table);
      table.done();
      if (error_) return;
      if (a == b) {
        table.fail_at(*between, "a link from a device to itself", "Name two devices");
        return;
      }
      if (a > b) std::swap(link.forward_bytes_per_second, link.backward_bytes_per_second);
      links[link_index(n, a, b)] = link;
    }
    for (std::size_t a = 0; a < n; ++a) {
      for (std::size_t b = a + 1; b < n; ++b) {
        const auto& link = links[link_index(n, a, b)];
        if (!link && !any) {
          if (!error_) {
            error_ = Error{ErrorCode::invalid_argument,
                           std::string(file_) + ": nothing says how " + cluster_.devices[a].name +
                               " and " + cluster_.devices[b].name + " are connected",
                           "Add a [network] table, or a [[link]] between them"};
          }
          return;
        }
        cluster_.links.push_back(link ? *link : *any);
      }
    }
  }

  std::string_view file_;
  const ModelShape& shape_;
  Cluster cluster_;
  std::optional<Error> error_;
};

}  // namespace

Result<Cluster> parse_cluster(std::string_view text, std::string_view name,
                              const ModelShape& shape) {
  try {
    const toml::table root = toml::parse(text, name);
    return ClusterReader(name, shape).read(root);
  } catch (const toml::parse_error& error) {
    return fail(ErrorCode::corrupt,
                std::string(name) + ":" + std::to_string(error.source().begin.line) + ": " +
                    std::string(error.description()),
                "docs/cluster-file.md says how such a file is written");
  }
}

Result<Cluster> read_cluster_file(const std::filesystem::path& path, const ModelShape& shape) {
  std::error_code code;
  const auto size = std::filesystem::file_size(path, code);
  if (code) {
    return fail(ErrorCode::not_found, path.string() + ": " + code.message(),
                "Name a cluster file; docs/clusters/ has examples");
  }
  if (size > 4 * kMiB) {
    return fail(ErrorCode::invalid_argument, path.string() + " is too large for a cluster file",
                "docs/cluster-file.md says how such a file is written");
  }
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  if (!stream) return fail(ErrorCode::io, path.string() + " can't be read", "Check it");
  return parse_cluster(text.str(), path.string(), shape);
}

}  // namespace prima::plan
