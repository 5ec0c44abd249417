"""What the lab reads of a cluster file, and what it says of a bad one."""

import pathlib
import unittest

import lab_under_test  # pylint: disable=unused-import  # finds the lab's modules
from cluster_file import ClusterFileError, parse_cluster, parse_size, read_cluster

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TWO = """
head = "b"
[[device]]
name = "a"
memory = "1.5 GiB"
reserve = "0.5 GiB"
disk = "300 MB/s"
[device.lab]
cores = 0.5
outage = { first_s = 1, every_s = 10, for_ms = 300 }
[[device]]
name = "b"
memory = 1000000
[network]
round_trip_ms = 4
mbit_per_second = 400
mbit_per_second_back = 200
[lab]
jitter_ms = 10
loss_percent = 1
"""


class ClusterFileTest(unittest.TestCase):
    def test_devices_and_links(self):
        cluster = parse_cluster(TWO)
        a, b = cluster.devices
        self.assertEqual("b", cluster.head)
        self.assertEqual((3 << 29, 1 << 29, 1 << 30), (a.memory_bytes, a.reserve_bytes, a.budget_bytes))
        self.assertEqual((300_000_000, 0.5, 300), (a.disk_bytes_per_second, a.cores, a.outage.for_ms))
        self.assertEqual((1_000_000, 0, None, None), (b.memory_bytes, b.disk_bytes_per_second, b.cores, b.outage))
        self.assertEqual((2, 50e6), (cluster.links["a", "b"].one_way_ms, cluster.links["a", "b"].bytes_per_second))
        self.assertEqual(25e6, cluster.links["b", "a"].bytes_per_second)
        self.assertEqual((10, 1), (cluster.jitter_ms, cluster.loss_percent))

    def test_fewer_devices(self):
        cluster = parse_cluster(TWO).only(["a"])
        self.assertEqual(("a", ["a"], {}), (cluster.head, [d.name for d in cluster.devices], cluster.links))

    def test_sizes(self):
        for text, size in (("9.5 GiB", 19 << 29), ("3G", 3 << 30), ("300 MB", 300e6), (7, 7)):
            self.assertEqual(size, parse_size(text))
        for bad in ("much", "3 XB", True, "", "1 GB/s"):
            with self.assertRaises(ClusterFileError):
                parse_size(bad)

    def test_the_documented_clusters(self):
        for path in (REPOSITORY / "docs/clusters").glob("*.toml"):
            self.assertGreaterEqual(len(read_cluster(path).devices), 4)

    def test_what_is_wrong(self):
        for old, new, complaint in (
                ('head = "b"', 'head = "c"', "no device is called 'c'"),
                ('name = "b"', 'name = "a"', "one name"),
                ('name = "b"', 'name = "much too long a name"', "up to ten letters"),
                ("cores = 0.5", "cores = -1", "device a's cores can't be -1"),
                ("cores = 0.5", "colour = 1", "device a's lab has no 'colour'"),
                ("for_ms = 300", "for_ms = 20000", "never ends"),
                ("jitter_ms = 10", "jitter_ms = 'some'", "jitter_ms can't be 'some'"),
                ("[network]", "[other]", "nothing says how a and b are connected"),
                ('reserve = "0.5 GiB"', 'reserve = "2 GiB"', "leaves nothing"),
                ('memory = "1.5 GiB"', "", "lacks 'memory'"),
                ("head =", "head", "Expected '='")):
            with self.subTest(new), self.assertRaisesRegex(ClusterFileError, complaint):
                parse_cluster(TWO.replace(old, new))

    def test_a_file_that_is_not_there(self):
        with self.assertRaisesRegex(ClusterFileError, "nowhere.toml: No such file"):
            read_cluster(pathlib.Path("nowhere.toml"))


if __name__ == "__main__":
    unittest.main()
