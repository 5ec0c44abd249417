"""Pages from results: a table for the terminal, and the Markdown page docs/benchmarks.md, every figure
of which is one of the JSON files beside it.

    report.py FOLDER PAGE            writes the page from FOLDER/*.json, and drawings into FOLDER
    report.py --check FOLDER PAGE    fails where they differ from what it would write
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys

import results
from plots import all_plots

GIB = 2**30


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"


def _spread(found: dict | None) -> str:
    """Median, and the range where there is one."""
    if found is None:
        return "-"
    if found["n"] == 1:
        return _ms(found["median"])
    return f"{_ms(found['median'])} ({_ms(found['least'])} to {_ms(found['most'])}, {found['n']} runs)"


def _size(value: float) -> str:
    return f"{value / GIB:.2f} GiB" if value >= GIB else f"{value / 2**20:.0f} MiB"


def _systems(result: dict) -> list[str]:
    return list(dict.fromkeys(run["system"] for run in result["runs"]))


def _against(result: dict, system: str) -> str:
    """How Prima compares with this system."""
    if system == _systems(result)[0]:
        return ""
    ours, theirs = (results.median(result, name, "tpot_ms") for name in (_systems(result)[0], system))
    if ours is None or theirs is None:
        return "-"
    text = f"{theirs / ours:.2f}x" if theirs < 10 * ours else f"{theirs / ours:.1f}x"
    interval = results.paired(result, _systems(result)[0], system)
    if interval:
        text += f" [{interval['low']:.2f}, {interval['high']:.2f}], {interval['pairs']} pairs"
    return text


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)] + ["| " + " | ".join(row) + " |" for row in rows]


def system_rows(result: dict) -> tuple[list[str], list[list[str]]]:
    lengths = sorted({length for system in _systems(result) for length in results.ttft(result, system)})
    header = ["system", "TPOT", *(f"TTFT, {length} tokens" for length in lengths), "TPOT to limit", "Prima is faster"]
    rows = []
    for system in _systems(result):
        tpot = results.spread(result, system, "tpot_ms")
        if tpot is None:
            reasons = results.failures(result, system)
            rows.append([results.shown_title(system), f"failed: {reasons[0] if reasons else 'not measured'}",
                         *["-"] * (len(header) - 2)])
            continue
        first = results.ttft(result, system)
        rows.append([results.shown_title(system), _spread(tpot), *(_spread(first.get(length)) for length in lengths),
                     f"{tpot['median'] / result['limit_tpot_ms']:.2f}", _against(result, system)])
    return header, rows


def _device_rows(result: dict) -> list[list[str]]:
    """What the first system's median run took from each device."""
    runs = sorted(results.of_system(result, _systems(result)[0]), key=lambda run: run["tpot_ms"] or 0)
    run = runs[len(runs) // 2]
    rows = []
    for device in result["devices"]:
        seen = run["devices"][device["name"]]
        rows.append([device["name"], _size(device["memory_bytes"]),
                     f"{device['disk_bytes_per_second'] / 1e6:.0f} MB/s", f"{device['cores'] or result['machine']['cores']:g}",
                     _size(seen["peak_memory_bytes"]), f"{100 * seen['memory_pressure']:.1f} % ({_size(seen['unreclaimable_bytes'])})",
                     _size(seen["read_bytes"]), f"{seen['processor_seconds']:.1f} s"])
    return rows


DEVICE_HEADER = ["device", "memory", "disk", "cores", "peak memory", "memory pressure", "read", "processor time"]


def _facts(result: dict) -> list[str]:
    lines = []
    plan, network, reference = result["plan"], result["network"], result["reference"]
    model = result["model"]
    lines.append(f"Model: {model['name']}, {_size(model['bytes'])}, of which {_size(model['weight_bytes'])} are used for "
                 f"each token. Each device has {'a copy of its own' if result['copies'] == 'own' else 'its part of one file'}"
                 f"{', and its layers in its processor’s layout' if result.get('stores') else ''}.")
    asked = result["asked"]
    lines.append(f"Asked: {asked['repetitions']} answers of {asked['tokens']} tokens; of llama.cpp alone, "
                 f"{asked['slow_repetitions']} of {asked['slow_tokens']}.")
    if network:
        unsteady = f" and up to {network['jitter_ms']:g} ms of jitter" if network["jitter_ms"] else ""
        unsteady += f", {network['loss_percent']:g} % of packets lost" if network["loss_percent"] else ""
        lines.append(f"Network: {network['mbit_per_second']:g} Mbit/s, {network['one_way_ms']:g} ms one way{unsteady}"
                     f"{'; all share the air' if network['shared'] else ''}.")
    lines.append(f"Physical limit: {_ms(result['limit_tpot_ms'])} a token"
                 + (f" (in memory, on this whole machine: {_ms(reference['tpot_ms'])})." if reference else " (of the disks: the model does not fit this machine's memory)."))
    measured = results.median(result, "prima", "tpot_ms")
    if measured and plan["predicted_tpot_ms"]:
        layers = ", ".join(f"{name} {'+'.join(map(str, counts))}" for name, counts in zip(plan["devices"], plan["layers"]))
        lines.append(f"Plan: {len(plan['devices'])} of {len(result['devices'])} devices, {plan['rounds']} rounds, layers in "
                     f"each: {layers}. Predicted {_ms(plan['predicted_tpot_ms'])}, measured {_ms(measured)} "
                     f"({100 * (measured / plan['predicted_tpot_ms'] - 1):+.0f} %).")
        if plan["windows_by_hand"]:
            lines.append(f"Run with the same windows in each round: {', '.join(map(str, plan['windows_by_hand']))}.")
    expected = results.spread(result, "prima-by-itself", "expected_tpot_ms")
    itself = results.spread(result, "prima-by-itself", "tpot_ms")
    if expected and itself:
        lines.append(f"Planning by itself, for a prompt and an answer, it expected {_ms(expected['median'])}, measured "
                     f"{_ms(itself['median'])} ({100 * (itself['median'] / expected['median'] - 1):+.0f} %).")
    cold = results.spread(result, "prima", "start_ms", cold=True)
    warm = results.spread(result, "prima", "start_ms", cold=False)
    if cold and warm:
        lines.append(f"Prima is ready for a prompt after {_ms(cold['median'])}, {_ms(warm['median'])} when it ran before.")
    told = results.tokens(result)
    if told.runs:
        layouts = ", in one of the two layouts of its weights," if reference and "budgeted_tokens" in reference else ""
        in_memory = f"; those of the model in memory on one device{layouts} in {told.as_in_memory}" if reference else ""
        lines.append(f"Each system gave the same tokens in {told.as_first} of {told.runs} runs{in_memory}.")
    lines.append(f"Thrown out because the machine was disturbed: {results.thrown_out(result)} runs. Counted although it "
                 f"was, each time: {results.disturbed(result)}.")
    lines += [f"Failed: {what}." for what in result["failed"]]
    if result["not_emulated"]:
        lines.append("Not emulated: " + "; ".join(result["not_emulated"]) + ".")
    return lines


def _sweeps(result: dict) -> list[str]:
    lines = []
    rounds = result["sweeps"]["rounds"]
    if rounds:
        lines += ["", "Planned with at most so many rounds:", ""] + _table(["rounds", "predicted", "TPOT", "to limit"], [
            [str(point["rounds"]), _ms(point["predicted_tpot_ms"]), _spread(results.spread(point, "prima", "tpot_ms")),
             f"{(results.median(point, 'prima', 'tpot_ms') or 0) / result['limit_tpot_ms']:.2f}"] for point in rounds])
    points = results.sweep_points(result)
    if points:
        systems = _systems(result)
        lines += ["", "Over memory:", ""] + _table(["memory", "limit", "predicted", *map(results.shown_title, systems)], [
            [_size(point["memory_bytes"]), _ms(point["limit_tpot_ms"]), _ms(point["predicted_tpot_ms"]),
             *(_spread(results.spread(point, system, "tpot_ms")) for system in systems)] for point in points])
    return lines


def _throughput(result: dict) -> list[str]:
    measured = result.get("throughput")
    if not measured:
        return []
    return ["", "Tokens a second for several users at once, as a server:", ""] + _table(
        ["users", "tokens a second", "of one user's"],
        [[str(point["users"]), f"{point['tokens_per_second']:.2f}",
          f"{point['tokens_per_second'] / measured[0]['tokens_per_second']:.2f}x"] for point in measured])


def _faults(result: dict) -> list[str]:
    faults = result.get("faults")
    if not faults:
        return []
    stall, gone = faults["stall"], faults["gone"]
    lines = ["", f"{faults['device']} stops for {stall['for_seconds']:g} s during an answer: "
             + ("it hangs." if stall["hangs"] else "the answer goes on, its tokens "
                + ("the same." if stall["tokens_right"] else "others.") if stall["status"] == 0
                else f"the head ends after {stall['seconds']:.1f} s: {stall['says']}")]
    lines += ["", f"{faults['device']} is gone during an answer: "
              + ("it hangs." if gone["hangs"] else f"the head ends after {gone['seconds']:.1f} s and says: `{gone['says']}`")]
    return lines


def section(result: dict, drawings: dict[str, str], folder: str) -> list[str]:
    header, rows = system_rows(result)
    lines = [f"## {result['title']} (`{result['scenario']}`)", "", f"Measured {result['date']}.", ""]
    lines += [f"- {fact}" for fact in _facts(result)] + [""] + _table(header, rows)
    if results.of_system(result, _systems(result)[0]):
        lines += ["", f"{results.shown_title(_systems(result)[0])}, per device, in the median run:", ""]
        lines += _table(DEVICE_HEADER, _device_rows(result))
    lines += _sweeps(result) + _throughput(result) + _faults(result)
    for name in drawings:
        lines += ["", f"![{result['title']}: {name}]({folder}/{result['scenario']}-{name}.svg)"]
    lines += ["", "<details><summary>Commands</summary>", "", "```", *result["commands"], "```", "", "</details>", ""]
    return lines


def _behind(found: list[dict]) -> list[str]:
    """Where Prima is not ahead: every comparison whose interval, or median, does not say so."""
    lines = []
    for result in found:
        for system in _systems(result)[1:]:
            ours, theirs = (results.median(result, name, "tpot_ms") for name in (_systems(result)[0], system))
            if ours and theirs and theirs < ours:
                lines.append(f"- {result['title']}: {results.shown_title(system)} takes {_ms(theirs)} a token, Prima {_ms(ours)}.")
        measured, predicted = results.median(result, "prima", "tpot_ms"), result["plan"]["predicted_tpot_ms"]
        if measured and measured > 1.3 * result["limit_tpot_ms"]:
            lines.append(f"- {result['title']}: {measured / result['limit_tpot_ms']:.2f} times the physical limit.")
        if measured and predicted and abs(measured / predicted - 1) > 0.15:
            lines.append(f"- {result['title']}: the plan predicted {_ms(predicted)}, measured are {_ms(measured)}.")
    return lines or ["Nowhere in these scenarios."]


def page(found: list[dict], folder: str) -> str:
    machine = found[0]["machine"]
    lines = [
        "# Benchmarks", "",
        "Written by `lab/report.py` from the JSON files in this folder's `benchmarks`; a test fails where they "
        "differ. Households are emulated on one machine (lab/README.md says how); repeat them with `sudo make lab`.", "",
        f"Machine: {machine['processor']}, {machine['cores']} cores, {_size(machine['memory_bytes'])} of memory, Linux "
        f"{machine['kernel']}. All devices of a household share it: what devices do at the same time is slower here than "
        "on devices of their own.", "",
        "TPOT is the time per output token, TTFT that to the first token, without loading. The physical limit is the larger "
        "of the model in memory on the whole machine, and what does not fit the household's memory (weights used for each "
        "token, KV cache, 128 MiB a device for the program) over the speed of all disks together. Memory pressure is what "
        "the system could not take back: anonymous, locked, dirty and kernel memory, over the device's memory.", "",
        "## Where Prima is not ahead", "", *_behind(found), ""]
    for result in found:
        lines += section(result, all_plots(result), folder)
    return "\n".join(lines)


def terminal_table(result: dict) -> str:
    header, rows = system_rows(result)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [f"{result['title']} ({result['scenario']})"]
    lines += ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in [header, *rows]]
    return "\n".join([*lines, *(f"  {fact}" for fact in _facts(result))])


def _outputs(folder: pathlib.Path, page_path: pathlib.Path) -> dict[pathlib.Path, str]:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    if not found:
        return {}
    relative = os.path.relpath(folder, page_path.parent)
    outputs = {page_path: page(found, relative)}
    for result in found:
        for name, drawing in all_plots(result).items():
            outputs[folder / f"{result['scenario']}-{name}.svg"] = drawing
    return outputs


def write_report(folder: pathlib.Path, page_path: pathlib.Path) -> None:
    for path, text in _outputs(folder, page_path).items():
        path.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("page", type=pathlib.Path)
    arguments = parser.parse_args()
    if not arguments.check:
        write_report(arguments.folder, arguments.page)
        return 0
    outputs = _outputs(arguments.folder, arguments.page)
    wrong = [path for path, text in outputs.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    wrong += [path for path in arguments.folder.glob("*.svg") if path not in outputs]
    for path in wrong:
        print(f"{path} differs from what {arguments.folder}/*.json say; lab/report.py writes it", file=sys.stderr)
    return 1 if wrong or not outputs else 0


if __name__ == "__main__":
    sys.exit(main())
