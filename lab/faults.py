"""What happens to a ring when a device stalls for a while, and when it is gone.

Not thread-safe.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

from systems import Bench, last_lines, start_prima

# Longer than any pause that the ring could take for a slow network.
STALL_SECONDS = 3.0
# After this, an answer that should have ended, or failed, hangs.
ENDING_SECONDS = 120
TOKENS = 16


def _answer(bench: Bench, device: str, fault) -> dict:
    """A ring that answers; once it does so, `fault` is done to the device's process."""
    home = bench.home
    report = home.folder / "report.json"
    report.unlink(missing_ok=True)
    (home.folder / "head.log").unlink(missing_ok=True)  # of which the end is shown
    prompt = next(iter(bench.prompts.values()))
    head, workers = start_prima(bench, prompt, TOKENS, report)
    victim = workers[bench.plan.devices[1:].index(device)]
    try:
        time.sleep(bench.answer_begins_seconds)
        begin = time.monotonic()
        if head.poll() is None:
            fault(victim)
        try:
            status = head.wait(timeout=ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            return {"hangs": True}
        found = {"hangs": False, "status": status, "seconds": time.monotonic() - begin,
                 "says": last_lines(home, "head.log", 2)}
        if report.exists():
            found["tokens"] = json.loads(report.read_text(encoding="utf-8"))["tokens"]
        return found
    finally:
        for process in (head, *workers):
            home.end(process)


def _stall(process: subprocess.Popen) -> None:
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(STALL_SECONDS)
    os.kill(process.pid, signal.SIGCONT)


def measure(bench: Bench, device: str) -> dict:
    """Tokens after a stall are compared with those of a ring in which nothing happened."""
    undisturbed = _answer(bench, device, lambda process: None)
    stalled = _answer(bench, device, _stall)
    gone = _answer(bench, device, lambda process: process.kill())
    return {
        "device": device,
        "stall": {**stalled, "for_seconds": STALL_SECONDS,
                  "tokens_right": "tokens" in stalled and stalled["tokens"] == undisturbed.get("tokens")},
        "gone": gone,
    }
