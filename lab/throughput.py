"""Tokens a second for several users at once, of `prima serve` in a household.

Not thread-safe.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time

from household import HERE, LabError
from systems import ANSWER_SECONDS, FORMING_SECONDS, Bench, last_lines, start_ring

PORT = 8080
_READY = ("import sys, urllib.request; "
          "urllib.request.urlopen(sys.argv[1] + '/health', timeout=5)")


def measure(bench: Bench) -> list[dict]:
    """One server, and as many users at once as the scenario says, one number after the other."""
    home, scenario = bench.home, bench.scenario
    head = bench.plan.devices[0]
    url = f"http://{home.address(head)}:{PORT}"
    prompt_file = home.folder / head / "prompt"
    prompt_file.write_text(next(iter(bench.prompts.values())), encoding="utf-8")
    most = max(scenario.users)
    processes = start_ring(bench, ["serve", "--listen", f":{PORT}", "-c", str(scenario.context), "--kv-cells",
                                   str(most * scenario.context), "--parallel", str(most)])
    try:
        _wait_until_ready(bench, head, url, processes[0])
        found = []
        for users in scenario.users:
            text = home.output(head, [sys.executable, str(HERE / "users.py"), url, str(users), str(scenario.tokens),
                                      str(prompt_file)], ANSWER_SECONDS, limited=False)
            answers = json.loads(text)
            if answers["answered"] != users:
                raise LabError(f"{answers['answered']} of {users} users had an answer: {last_lines(home, 'head.log')}")
            found.append(answers | {"tokens_per_second": answers["tokens"] / answers["seconds"]})
        return found
    finally:
        for process in processes:
            home.end(process)


def _wait_until_ready(bench: Bench, head: str, url: str, server) -> None:
    deadline = time.monotonic() + FORMING_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        if bench.home.run(head, [sys.executable, "-c", _READY, url], 10, log=pathlib.Path("/dev/null"),
                          limited=False) == 0:
            return
        time.sleep(0.5)
    raise LabError(f"prima serve is not ready: {last_lines(bench.home, 'head.log')}")
