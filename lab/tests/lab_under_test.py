"""What the tests of the lab share: labs of a name of their own, and skipping where there can be none."""

import os
import pathlib
import sys
import unittest

LAB = pathlib.Path(__file__).resolve().parent.parent
RELAY = pathlib.Path(os.environ.get("LAB_RELAY", LAB.parent / "build/release/lab_relay"))
NAME = f"prima-lab-test-{os.getpid()}"
PARENT = pathlib.Path("/var/tmp")

sys.path.insert(0, str(LAB))


from household import why_not  # pylint: disable=wrong-import-position


def main() -> None:
    """Runs the calling module's tests; 77, which is ctest's skipped, where there can be no lab."""
    if reason := why_not(NAME):
        print(f"skipped: {reason}")
        sys.exit(77)
    unittest.main()
