"""What happens to a ring when a device stalls for a while, and when it is gone.

Not thread-safe.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import time
from dataclasses import dataclass

from systems import Bench, last_lines, start_answer

# Longer than any pause that the ring could take for a slow network.
STALL_SECONDS = 3.0
# After this, an answer that should have ended, or failed, hangs.
ENDING_SECONDS = 120
# How long an answer is to last, at the pace that was measured.
ANSWER_SECONDS = 15


@dataclass(frozen=True)
class Pace:
    """Of the ring without faults."""

    begins_seconds: float  # from its start to its first tokens
    tpot_seconds: float

    def tokens(self, context: int) -> int:
        return min(context // 2, 4 + math.ceil(ANSWER_SECONDS / self.tpot_seconds))


def _answer(bench: Bench, device: str, pace: Pace, fault) -> dict:
    """A ring that answers; once it does so, `fault` is done to the device's process."""
    home = bench.home
    report = home.folder / "report.json"
    report.unlink(missing_ok=True)
    prompt = next(iter(bench.prompts.values()))
    processes = start_answer(bench, prompt, pace.tokens(bench.scenario.context), report)
    head, victim = processes[0], processes[bench.plan.devices.index(device)]
    try:
        time.sleep(pace.begins_seconds)
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
        for process in processes:
            home.end(process)


def _stall(process: subprocess.Popen) -> None:
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(STALL_SECONDS)
    os.kill(process.pid, signal.SIGCONT)


def measure(bench: Bench, device: str, pace: Pace) -> dict:
    """Tokens after a stall are compared with those of a ring in which nothing happened."""
    undisturbed = _answer(bench, device, pace, lambda process: None)
    stalled = _answer(bench, device, pace, _stall)
    gone = _answer(bench, device, pace, lambda process: process.kill())
    return {
        "device": device,
        "stall": {**stalled, "for_seconds": STALL_SECONDS,
                  "tokens_right": "tokens" in stalled and stalled["tokens"] == undisturbed.get("tokens")},
        "gone": gone,
    }
