"""What the tests of the lab share: labs of a name of their own, and skipping where there can be none."""

import os
import pathlib
import shutil
import subprocess
import sys
import unittest

LAB = pathlib.Path(__file__).resolve().parent.parent
RELAY = pathlib.Path(os.environ.get("LAB_RELAY", LAB.parent / "build/release/lab_relay"))
NAME = f"prima-lab-test-{os.getpid()}"
PARENT = pathlib.Path("/var/tmp")

sys.path.insert(0, str(LAB))


def why_not() -> str:
    """Why this machine can have no lab; empty where it can."""
    if os.geteuid() != 0:
        return "the lab needs root"
    for program in ("ip", "tc"):
        if not shutil.which(program):
            return f"{program} is not installed (Debian: iproute2)"
    probe = f"{NAME}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"no network namespaces here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", probe], check=True)
    return ""


WHY_NOT = why_not()


def main() -> None:
    """Runs the calling module's tests; 77, which is ctest's skipped, where there can be no lab."""
    if WHY_NOT:
        print(f"skipped: {WHY_NOT}")
        sys.exit(77)
    unittest.main()
