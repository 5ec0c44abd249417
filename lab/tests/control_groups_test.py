"""What is written into cgroups of version 1 and 2, in folders that look like theirs: whichever the
machine has, the other can't be tried on it."""

import pathlib
import tempfile
import unittest

import lab_under_test  # pylint: disable=unused-import  # finds the lab's modules
from control_groups import ControlGroups, find_hierarchies


class Tree(unittest.TestCase):
    def setUp(self):
        self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8")

    def read(self, path: str) -> str:
        return (self.root / path).read_text(encoding="utf-8").strip()


class Version1Test(Tree):
    def setUp(self):
        super().setUp()
        mounts = [f"cgroup {self.root}/{c} cgroup rw,relatime,{c} 0 0" for c in ("memory", "blkio", "cpu", "cpuacct")]
        self.groups = ControlGroups("lab", find_hierarchies("\n".join(mounts + ["proc /proc proc rw 0 0"])))
        self.groups.make("one")

    def test_limits(self):
        self.write("memory/lab/one/memory.memsw.limit_in_bytes", "much")
        self.assertTrue(self.groups.limit_memory("one", 1 << 30))
        self.assertTrue(self.groups.limit_disk("one", "254:0", 300_000_000))
        self.assertTrue(self.groups.limit_processor("one", 1.5))
        self.assertEqual("1073741824", self.read("memory/lab/one/memory.limit_in_bytes"))
        self.assertEqual("1073741824", self.read("memory/lab/one/memory.memsw.limit_in_bytes"))
        self.assertEqual("254:0 300000000", self.read("blkio/lab/one/blkio.throttle.read_bps_device"))
        self.assertEqual("5000", self.read("cpu/lab/one/cpu.cfs_period_us"))
        self.assertEqual("7500", self.read("cpu/lab/one/cpu.cfs_quota_us"))

    def test_usage(self):
        self.write("memory/lab/one/memory.max_usage_in_bytes", "123\n")
        self.write("blkio/lab/one/blkio.throttle.io_service_bytes",
                   "7:0 Read 5\n254:0 Read 4096\n254:0 Write 17\n254:0 Total 4113\nTotal 4118\n")
        self.write("cpuacct/lab/one/cpuacct.usage", "2500000000\n")
        usage = self.groups.usage("one", "254:0")
        self.assertEqual((123, 4096, 2.5), (usage.peak_memory_bytes, usage.read_bytes, usage.processor_seconds))

    def test_unreclaimable(self):
        self.write("memory/lab/one/memory.kmem.usage_in_bytes", "1000\n")
        self.write("memory/lab/one/memory.stat", "cache 9\nrss 5\ntotal_rss 1\ntotal_unevictable 20\n"
                   "total_dirty 300\ntotal_writeback 4000\ntotal_cache 50000\n")
        self.assertEqual(5321, self.groups.unreclaimable_bytes("one"))


class Version2Test(Tree):
    def setUp(self):
        super().setUp()
        self.write("cgroup.controllers", "cpuset cpu io memory pids\n")
        self.groups = ControlGroups("lab", find_hierarchies(f"cgroup2 {self.root} cgroup2 rw 0 0"))
        self.groups.make("one")

    def test_controllers_are_handed_down(self):
        for folder in ("", "lab/"):
            self.assertEqual("+cpu +io +memory", self.read(f"{folder}cgroup.subtree_control"))
        self.assertEqual([self.root / "lab/one"], self.groups.folders("one"))

    def test_limits(self):
        self.write("lab/one/memory.swap.max", "max")
        self.assertTrue(self.groups.limit_memory("one", 1 << 30))
        self.assertTrue(self.groups.limit_disk("one", "8:0", 300_000_000))
        self.assertTrue(self.groups.limit_processor("one", 0.1))
        self.assertEqual(("1073741824", "0"), (self.read("lab/one/memory.max"), self.read("lab/one/memory.swap.max")))
        self.assertEqual("8:0 rbps=300000000", self.read("lab/one/io.max"))
        self.assertEqual("1000 5000", self.read("lab/one/cpu.max"))

    def test_usage(self):
        self.write("lab/one/memory.peak", "123\n")
        self.write("lab/one/io.stat", "7:0 rbytes=5 wbytes=6\n8:0 rbytes=4096 wbytes=17 rios=1\n")
        self.write("lab/one/cpu.stat", "usage_usec 2500000\nuser_usec 1\n")
        usage = self.groups.usage("one", "8:0")
        self.assertEqual((123, 4096, 2.5), (usage.peak_memory_bytes, usage.read_bytes, usage.processor_seconds))

    def test_unreclaimable(self):
        self.write("lab/one/memory.stat", "anon 1\nfile 50000\nkernel 20\nunevictable 300\nfile_dirty 4000\n")
        self.assertEqual(4321, self.groups.unreclaimable_bytes("one"))


class NoneTest(Tree):
    def test_a_system_without_says_so(self):
        groups = ControlGroups("lab", find_hierarchies("proc /proc proc rw 0 0"))
        groups.make("one")
        self.assertFalse(groups.limit_memory("one", 1))
        self.assertFalse(groups.limit_disk("one", "8:0", 1))
        self.assertFalse(groups.limit_processor("one", 1))
        self.assertEqual([], groups.processes() + groups.remove())

    def test_version_1_and_2_side_by_side(self):
        self.write("two/cgroup.controllers", "hugetlb io\n")
        found = find_hierarchies(f"cgroup {self.root}/memory cgroup rw,memory 0 0\ncgroup2 {self.root}/two cgroup2 rw 0 0")
        self.assertEqual({"memory": 1, "blkio": 2}, {name: where.version for name, where in found.items()})


if __name__ == "__main__":
    unittest.main()
