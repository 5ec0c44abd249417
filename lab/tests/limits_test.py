"""The limits are real: what is measured from inside a device is what the cluster file says, within
10 %. Needs root; exits with 77 (skipped) where there can be no lab."""

import os
import time
import unittest

import lab_under_test
from cluster_file import parse_cluster
from household import Household
import limits

CPU = 'cpu = { weights = "10 GB/s", operations_per_second = 1e11 }'
DEVICES = f"""
[[device]]
name = "large"
memory = "192 MiB"
disk = "120 MB/s"
{CPU}
[device.lab]
cores = 0.6
[[device]]
name = "small"
memory = "96 MiB"
disk = "60 MB/s"
{CPU}
[device.lab]
cores = 0.3
"""
PLAIN = f"{DEVICES}\n[network]\nround_trip_ms = 0\nmbit_per_second = 400"
SLOW = f"{DEVICES}\n[network]\nround_trip_ms = 8\nmbit_per_second = 200\nmbit_per_second_back = 50"
WIFI = f"{DEVICES}\n[network]\nround_trip_ms = 4\nmbit_per_second = 100\nshared = true\n[lab]\njitter_ms = 10"
LOSSY = f"{DEVICES}\n[network]\nround_trip_ms = 4\nmbit_per_second = 100\n[lab]\nloss_percent = 5"


def with_outages() -> str:
    return SLOW.replace("cores = 0.3", "cores = 0.3\noutage = { first_s = 0.2, every_s = 0.25, for_ms = 75 }")


class LimitsTest(unittest.TestCase):
    def household(self, text: str) -> Household:
        home = Household(parse_cluster(text), lab_under_test.NAME, lab_under_test.PARENT, lab_under_test.RELAY)
        self.enterContext(home)
        for what in home.not_emulated:
            print(f"not emulated: {what}")
        return home

    def check(self, measure, *arguments, least: float = 0.9, **options) -> None:
        """Tries again for a while: other programs, or other guests of the host, may have the machine."""
        for pause in (0, 1, 5, 15, 30):
            time.sleep(pause)
            comparison = measure(*arguments, **options)
            print(comparison.line())
            if least <= comparison.ratio <= 1.1:
                return
        self.fail(comparison.line())

    def test_memory(self):
        home = self.household(PLAIN)
        if "memory" not in home.groups.hierarchies:
            self.skipTest("no memory cgroups")
        for device in ("large", "small"):
            self.check(limits.page_cache, home, device)
            self.check(limits.anonymous_memory, home, device)

    def test_what_was_written_on_a_device_leaves_the_page_cache(self):
        home = self.household(PLAIN)
        path = home.folder / "large" / "cache" / "tensor"
        home.output("large", ["sh", "-c", f"mkdir {path.parent} && head -c 8388608 /dev/zero >{path}"])

        def cached() -> bool:
            with open(path, "rb") as file:
                try:
                    return os.preadv(file.fileno(), [bytearray(1)], 1 << 22, os.RWF_NOWAIT) == 1
                except BlockingIOError:
                    return False

        try:
            self.assertTrue(cached())
        except OSError as error:  # not every file system knows reads that do not wait
            self.skipTest(str(error))
        home.drop_caches()
        if home.disk is None:
            self.skipTest("the folder is on no disk")
        self.assertFalse(cached())

    def test_disk(self):
        home = self.household(PLAIN)
        if "blkio" not in home.groups.hierarchies or home.disk is None:
            self.skipTest("no blkio cgroups, or no disk")
        for device in ("large", "small"):
            self.check(limits.disk, home, device)
            self.check(limits.disk, home, device, through_cache=True)

    def test_processor(self):
        home = self.household(PLAIN)
        if "cpu" not in home.groups.hierarchies:
            self.skipTest("no cpu cgroups")
        for device in ("large", "small"):
            self.check(limits.processor, home, device)
            # Other programs on this machine may hold a short burst up. (With periods of 100 ms it would
            # have a whole processor.)
            self.check(limits.processor_burst, home, device, least=0.7)

    def test_bandwidth_of_the_bridge(self):
        self.check(limits.bandwidth, self.household(PLAIN), "large", "small")

    def test_each_way_of_a_slow_link(self):
        home = self.household(SLOW)
        self.check(limits.latency, home, "large", "small")
        self.check(limits.bandwidth, home, "large", "small")
        self.check(limits.bandwidth, home, "small", "large")

    def test_jitter_and_shared_air(self):
        home = self.household(WIFI)
        self.check(limits.latency, home, "large", "small")
        self.check(limits.bandwidth, home, "large", "small")

    def test_loss(self):
        self.check(limits.loss, self.household(LOSSY), "large", "small")

    def test_outages(self):
        self.check(limits.loss, self.household(with_outages()), "large", "small")

    def test_a_cut_link_passes_nothing_until_it_is_restored(self):
        home = self.household(SLOW)
        home.network.tell_relay("cut small")
        self.assertEqual(100, limits.loss(home, "large", "small").measured)
        home.network.tell_relay("restore small")
        self.check(limits.latency, home, "large", "small")


if __name__ == "__main__":
    lab_under_test.main()
