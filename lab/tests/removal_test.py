"""Nothing is left of a lab: not when it ends, nor when it is interrupted, ended or killed. Needs root;
exits with 77 (skipped) where there can be no lab."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import lab_under_test
import sweep
from cluster_file import parse_cluster
from household import Household, LabError

CLUSTER = """
[[device]]
name = "one"
memory = "64 MiB"
disk = "50 MB/s"
[device.lab]
cores = 0.5
[[device]]
name = "two"
memory = "64 MiB"
[network]
round_trip_ms = 4
mbit_per_second = 100
"""
FOLDER = lab_under_test.PARENT / lab_under_test.NAME


def traces() -> dict[str, list[str]]:
    """What any program could leave: mounts, namespaces, cgroups, interfaces, files."""
    def lines(path: str) -> list[str]:
        return pathlib.Path(path).read_text(encoding="utf-8").splitlines()

    return {
        "mounts": [line for line in lines("/proc/mounts") if lab_under_test.NAME in line],
        "interfaces": [line for line in lines("/proc/net/dev") if "to-one" in line or "to-two" in line],
        "lab": sweep.leftovers(lab_under_test.NAME, FOLDER),
        "processes": [entry.name for entry in pathlib.Path("/proc").iterdir()
                      if entry.name.isdigit() and int(entry.name) != os.getpid()
                      and lab_under_test.NAME.encode() in command_line(entry)],
    }


def command_line(process: pathlib.Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


NOTHING = {"mounts": [], "interfaces": [], "lab": [], "processes": []}


class RemovalTest(unittest.TestCase):
    def setUp(self):
        self.assertEqual(NOTHING, traces())
        file = self.enterContext(tempfile.NamedTemporaryFile("w", suffix=".toml"))
        file.write(CLUSTER)
        file.flush()
        self.cluster = file.name

    def start_lab(self) -> subprocess.Popen:
        """A lab in which both devices run, one a program that does not end when asked to."""
        lab = subprocess.Popen(
            [sys.executable, str(lab_under_test.LAB), "--name", lab_under_test.NAME, "--folder",
             str(lab_under_test.PARENT), "--relay", str(lab_under_test.RELAY), "run", self.cluster,
             "one=sh -c 'trap : TERM INT HUP; while :; do sleep 1; done'", "two=sh -c 'echo runs; sleep 600'"],
            stdout=subprocess.PIPE, text=True, start_new_session=True,
            # A shell's background job would ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
        self.addCleanup(self.kill_and_wait, lab)
        self.assertEqual("runs\n", lab.stdout.readline())
        return lab

    def kill_and_wait(self, lab: subprocess.Popen):
        lab.kill()
        lab.communicate()
        self.assert_nothing_is_left()

    def assert_nothing_is_left(self, seconds: float = 20):
        deadline = time.monotonic() + seconds
        while traces() != NOTHING and time.monotonic() < deadline:
            time.sleep(0.1)
        self.assertEqual(NOTHING, traces())

    def sweeper(self) -> int:
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit() and b"sweep.py\0" + lab_under_test.NAME.encode() in command_line(entry):
                return int(entry.name)
        self.fail("no sweeper runs")

    def test_after_its_end(self):
        with Household(parse_cluster(CLUSTER), lab_under_test.NAME, lab_under_test.PARENT,
                       lab_under_test.RELAY) as home:
            home.start("one", ["sleep", "600"])
            self.assertTrue(sweep.leftovers(lab_under_test.NAME, FOLDER))
        self.assertEqual(NOTHING, traces())

    def test_after_an_exception(self):
        with self.assertRaises(LabError):
            with Household(parse_cluster(CLUSTER), lab_under_test.NAME, lab_under_test.PARENT,
                           lab_under_test.RELAY) as home:
                home.output("one", ["false"])
        self.assertEqual(NOTHING, traces())

    def test_after_a_network_that_could_not_be_made(self):
        with self.assertRaises(LabError):
            with Household(parse_cluster(CLUSTER), lab_under_test.NAME, lab_under_test.PARENT,
                           pathlib.Path("/nowhere/relay")):
                self.fail("without its relay")
        self.assertEqual(NOTHING, traces())

    def test_after_ctrl_c(self):
        lab = self.start_lab()
        os.killpg(lab.pid, signal.SIGINT)
        self.assertEqual(130, lab.wait(timeout=30))
        self.assertEqual(NOTHING, traces())

    def test_after_being_ended(self):
        lab = self.start_lab()
        lab.terminate()
        self.assertEqual(128 + signal.SIGTERM, lab.wait(timeout=30))
        self.assertEqual(NOTHING, traces())

    def test_after_being_killed(self):
        lab = self.start_lab()
        lab.kill()
        lab.wait(timeout=10)
        self.assert_nothing_is_left()

    def test_the_next_lab_removes_what_is_left_when_the_sweeper_was_killed_too(self):
        lab = self.start_lab()
        os.kill(self.sweeper(), signal.SIGKILL)
        lab.kill()
        lab.wait(timeout=10)
        self.assertTrue(sweep.leftovers(lab_under_test.NAME, FOLDER))
        with Household(parse_cluster(CLUSTER), lab_under_test.NAME, lab_under_test.PARENT,
                       lab_under_test.RELAY) as home:
            home.output("two", ["true"])
        self.assert_nothing_is_left()

    def test_one_lab_of_a_name_at_a_time(self):
        self.start_lab()
        second = subprocess.run([sys.executable, str(lab_under_test.LAB), "--name", lab_under_test.NAME,
                                 "--relay", str(lab_under_test.RELAY), "check", self.cluster],
                                capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(2, second.returncode)
        self.assertIn("is running", second.stderr)


if __name__ == "__main__":
    lab_under_test.main()
