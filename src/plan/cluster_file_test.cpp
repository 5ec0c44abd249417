#include "plan/cluster_file.h"

#include <gtest/gtest.h>

#include "plan/named_shapes.h"

namespace prima::plan {
namespace {

constexpr const char* kGood = R"(name = "Home"
head = "desktop"
[[device]]
name = "laptop"
memory = "4.5 GiB"
reserve = "512 MiB"
disk = "300 MB/s"
unified_memory = true
cpu = { weights = "40 GB/s", operations_per_second = 4e11, layer_overhead_ms = 0.1 }
[[device.gpu]]
name = "integrated"
weights = "50 GB/s"
operations_per_second = 1e12
[device.lab]
anything = 1
[[device]]
name = "desktop"
memory = 8589934592
disk = 0
cpu = { weights = "20 GB/s", operations_per_second = 2e11 }
[[device.gpu]]
vram = "8 GiB"
weights = "400 GB/s"
operations_per_second = 2e13
output_layer = false
[network]
round_trip_ms = 6
mbit_per_second = 400
shared = true
[[link]]
between = ["desktop", "laptop"]
round_trip_ms = 1
mbit_per_second = 800
mbit_per_second_back = 400
)";

Result<Cluster> parse(const std::string& text) {
  return parse_cluster(text, "home.toml", *named_shape("llama-8b-q4_k"));
}

std::string with(const std::string& from, const std::string& to) {
  std::string text = kGood;
  const auto at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(ClusterFile, ReadsDevicesAndLinks) {
  const auto cluster = parse(kGood);
  ASSERT_TRUE(cluster) << cluster.error().message();
  EXPECT_EQ(cluster->name, "Home");
  EXPECT_EQ(cluster->head, 1u);
  ASSERT_EQ(cluster->devices.size(), 2u);
  const auto& laptop = cluster->devices[0];
  EXPECT_EQ(laptop.memory_available_bytes, 9 * kGiB / 2);
  EXPECT_EQ(laptop.memory_reserve_bytes, 512 * kMiB);
  EXPECT_DOUBLE_EQ(laptop.disk_read_bytes_per_second, 3e8);
  EXPECT_TRUE(laptop.unified_memory);
  const ModelShape shape = *named_shape("llama-8b-q4_k");
  const double one_token = laptop.cpu_layers[0].short_context_seconds.seconds[0];
  EXPECT_NEAR(one_token, 1e-4 + static_cast<double>(weight_bytes(shape.classes[0])) / 40e9, 1e-9);
  EXPECT_EQ(cluster->devices[1].gpus[0].vram_available_bytes, 8 * kGiB);
  EXPECT_EQ(cluster->devices[1].gpus[0].output_seconds.seconds[0], 0);
  ASSERT_EQ(cluster->links.size(), 1u);
  EXPECT_DOUBLE_EQ(cluster->links[0].round_trip_seconds, 1e-3);
  EXPECT_DOUBLE_EQ(cluster->links[0].forward_bytes_per_second, 50e6);  // laptop to desktop
  EXPECT_DOUBLE_EQ(cluster->links[0].backward_bytes_per_second, 100e6);
}

TEST(ClusterFile, NamesTheLineTheValueAndTheRemedy) {
  struct Case {
    const char* from;
    const char* to;
    const char* expected;
  };
  const Case cases[] = {
      {"memory = \"4.5 GiB\"", "memory = \"4.5 GoB\"",
       "home.toml:5: device laptop: memory can't be \"4.5 GoB\""},
      {"memory = \"4.5 GiB\"", "memory = 0", "memory can't be 0"},
      {"memory = \"4.5 GiB\"", "memory = -3", "memory can't be -3"},
      {"memory = \"4.5 GiB\"\n", "", "device laptop lacks 'memory'"},
      {"disk = \"300 MB/s\"", "disk = \"300\"", "disk can't be \"300\""},
      {"disk = \"300 MB/s\"", "disk = 9e99", "disk can't be"},
      {"name = \"laptop\"", "nam = \"laptop\"", "lacks 'name'"},
      {"head = \"desktop\"", "head = \"phone\"", "no device is called 'phone'"},
      {"reserve =", "reserv =", "has no 'reserv'"},
      {"operations_per_second = 4e11", "operations_per_second = nan",
       "operations_per_second can't be"},
      {"operations_per_second = 4e11, ", "", "lacks 'operations_per_second'"},
      {"unified_memory = true", "unified_memory = \"yes\"", "unified_memory can't be \"yes\""},
      {"between = [\"desktop\", \"laptop\"]", "between = [\"desktop\"]", "between can't be"},
      {"between = [\"desktop\", \"laptop\"]", "between = [\"desktop\", \"desktop\"]", "to itself"},
      {"name = \"desktop\"", "name = \"laptop\"", "desktop"},
      {"mbit_per_second = 800", "mbit_per_second = 0", "mbit_per_second can't be 0"},
      {"[network]", "[network", "home.toml:26"},
  };
  for (const Case& one : cases) {
    const auto cluster = parse(with(one.from, one.to));
    ASSERT_FALSE(cluster) << one.to;
    EXPECT_NE(cluster.error().what.find(one.expected), std::string::npos)
        << cluster.error().message();
    EXPECT_FALSE(cluster.error().remedy.empty());
  }
}

TEST(ClusterFile, NeedsEveryPairConnected) {
  const std::string text = kGood;
  const auto cluster = parse(text.substr(0, text.find("[network]")));
  ASSERT_FALSE(cluster);
  EXPECT_NE(cluster.error().what.find("laptop and desktop"), std::string::npos);
}

TEST(ClusterFile, RefusesWhatIsNoCluster) {
  EXPECT_EQ(parse("").error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(parse("device = 3").error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(parse("\xff\xfe").error().code, ErrorCode::corrupt);
  const auto missing = read_cluster_file("/nonexistent/home.toml", *named_shape("llama-8b-q4_k"));
  EXPECT_EQ(missing.error().code, ErrorCode::not_found);
}

TEST(NamedShapes, AreWhatTheirNamesSay) {
  EXPECT_NEAR(static_cast<double>(weight_bytes(*named_shape("llama-8b-q4_k"))), 4.4e9, 0.1e9);
  EXPECT_NEAR(static_cast<double>(weight_bytes(*named_shape("llama-70b-q4_k_m"))), 42.0e9, 0.6e9);
  for (const std::string& name : shape_names()) EXPECT_TRUE(validate(*named_shape(name))) << name;
  const auto unknown = named_shape("llama-9b");
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().remedy.find("llama-8b"), std::string::npos);
}

}  // namespace
}  // namespace prima::plan
