"""The lab: a home cluster of emulated devices on this machine.

    python3 lab check CLUSTER.toml                   builds it and measures every limit
    python3 lab run CLUSTER.toml DEVICE=COMMAND ...  runs a command on each device, until the last named ends
    python3 lab bench SCENARIO ...                   measures scenarios (lab/scenarios/, or files)
    python3 lab publish                              writes docs/benchmarks.md from the measured scenarios
    python3 lab clean                                removes what a killed lab left

In COMMAND, {NAME} is the address of device NAME. Needs root.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys

import limits
import sweep
from bench import Options, measure, say
from cluster_file import ClusterFileError, read_cluster
from household import DEFAULT_NAME, DEFAULT_PARENT, DEFAULT_RELAY, HERE, Household, LabError, why_not
from models import Models
from report import terminal_table, write_report
from results import tokens
from scenario import Scenario, find_scenario, read_scenario
from systems import RIVALS

BUILD = HERE.parent / "build/release"
MEASURED = HERE.parent / "build/lab"


def check(home: Household, _: argparse.Namespace) -> int:
    print(f"{'':36} {'asked':>12} {'measured':>12}")
    wrong = 0
    for comparison in limits.check_all(home):
        print(comparison.line(), flush=True)
        wrong += abs(comparison.ratio - 1) > 0.1
    return 1 if wrong else 0


def run(home: Household, arguments: argparse.Namespace) -> int:
    addresses = {device.name: home.address(device.name) for device in home.cluster.devices}
    processes = []
    for assignment in arguments.commands:
        device, _, command = assignment.partition("=")
        if device not in addresses:
            raise LabError(f"no device is called {device!r}; they are {', '.join(addresses)}")
        for name, address in addresses.items():
            command = command.replace("{" + name + "}", address)
        processes.append(home.start(device, shlex.split(command)))
    return processes[-1].wait()


def llama_cpp_programs() -> pathlib.Path:
    """Their folder, in Prima's build, which compiles them where they are not there yet."""
    say("building llama.cpp's programs")
    built = subprocess.run(["cmake", "--build", str(BUILD), "--target", "llama_cpp_programs"],
                           stdout=sys.stderr, check=False)
    if built.returncode != 0:
        raise LabError("llama.cpp's programs could not be built; --only-prima leaves them out, --llama-cpp "
                       "names the folder of others")
    return BUILD / "llama.cpp"


def as_asked(scenario: Scenario, arguments: argparse.Namespace) -> Scenario:
    """The scenario, but for what the command line says otherwise."""
    if arguments.only_prima:
        scenario = dataclasses.replace(scenario, systems=tuple(s for s in scenario.systems if s not in RIVALS))
    if arguments.shared_copy:
        scenario = dataclasses.replace(scenario, copies="shared")
    if arguments.prompts:
        scenario = dataclasses.replace(scenario, prompts=tuple(arguments.prompts))
    if arguments.repetitions:
        scenario = dataclasses.replace(scenario, repetitions=arguments.repetitions,
                                       slow_repetitions=min(arguments.repetitions, scenario.slow_repetitions))
    return scenario


def bench(arguments: argparse.Namespace) -> int:
    reason = why_not(arguments.name)
    if reason:
        print(f"lab: not run: {reason}", file=sys.stderr)
        return 0 if arguments.if_possible else 2
    scenarios = [as_asked(read_scenario(find_scenario(name)), arguments) for name in arguments.scenarios]
    rivals = any(system in RIVALS for scenario in scenarios for system in scenario.systems)
    options = Options(arguments.name, arguments.folder, arguments.relay, arguments.prima.resolve(),
                      (arguments.llama_cpp or llama_cpp_programs()) if rivals else None, arguments.attempts, arguments.hook)
    arguments.output.mkdir(parents=True, exist_ok=True)
    failed = 0
    models = Models(options.prima, arguments.folder / f"{arguments.name}-models", arguments.model)
    with models:
        for scenario in scenarios:
            say(f"== {scenario.name}: {scenario.cluster.name}")
            result = measure(scenario, models, options)
            path = arguments.output / f"{scenario.name}.json"
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(terminal_table(result), flush=True)
            failed += any("failed" in run for run in result["runs"] if run["system"] not in RIVALS)
            failed += bool(result["failed"])
            told = tokens(result)
            failed += told.as_first < told.runs
    write_report(arguments.output, arguments.output / "benchmarks.md")
    say(f"results: {arguments.output}/benchmarks.md, *.json and *.svg")
    return 1 if failed else 0


def publish(measured: pathlib.Path) -> int:
    folder = HERE.parent / "docs/benchmarks"
    results = sorted(measured.glob("*.json"))
    if not results:
        print(f"lab: nothing was measured into {measured}", file=sys.stderr)
        return 2
    folder.mkdir(exist_ok=True)
    for result in results:
        shutil.copyfile(result, folder / result.name)
    write_report(folder, folder.parent / "benchmarks.md")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="lab", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--name", default=DEFAULT_NAME, help="of namespaces, cgroups and folder; one lab at a time")
    parser.add_argument("--folder", type=pathlib.Path, default=DEFAULT_PARENT, help="where the devices' files lie")
    parser.add_argument("--relay", type=pathlib.Path, default=DEFAULT_RELAY, help="the built lab_relay")
    verbs = parser.add_subparsers(required=True, dest="verb")
    verbs.add_parser("clean")
    for verb in (check, run):
        part = verbs.add_parser(verb.__name__)
        part.set_defaults(action=verb)
        part.add_argument("cluster", type=pathlib.Path)
        if verb is run:
            part.add_argument("commands", nargs="+", metavar="DEVICE=COMMAND")
    part = verbs.add_parser("publish")
    part.add_argument("--measured", type=pathlib.Path, default=MEASURED, help="the folder of the results")
    part = verbs.add_parser("bench")
    part.add_argument("scenarios", nargs="+", metavar="SCENARIO")
    part.add_argument("--model", type=pathlib.Path, help="a GGUF file to measure instead of the scenario's model")
    part.add_argument("--prima", type=pathlib.Path, default=BUILD / "prima")
    part.add_argument("--llama-cpp", type=pathlib.Path,
                      help="the folder of llama-completion and ggml-rpc-server, instead of those of Prima's build")
    part.add_argument("--output", type=pathlib.Path, default=MEASURED, help="a folder for the results")
    part.add_argument("--if-possible", action="store_true", help="succeed, saying why, where there can be no lab")
    part.add_argument("--only-prima", action="store_true", help="leave llama.cpp out")
    part.add_argument("--repetitions", type=int, help="of each system, instead of what the scenario says")
    part.add_argument("--attempts", type=int, default=3, help="of a run that was disturbed")
    part.add_argument("--hook", default="", help="a program told 'begin' before each measurement, 'end' after it")
    part.add_argument("--prompts", type=int, nargs="+", help="their lengths, instead of what the scenario says")
    part.add_argument("--shared-copy", action="store_true", help="one file for all devices, where disk space is short")
    arguments = parser.parse_args()

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    try:
        if arguments.verb == "clean":
            left = [what for name in (arguments.name, f"{arguments.name}-models")
                    for what in sweep.sweep(name, arguments.folder / name)]
            print("\n".join(f"lab: could not remove {what}" for what in left), end="", file=sys.stderr)
            return 1 if left else 0
        if arguments.verb == "publish":
            return publish(arguments.measured)
        if arguments.verb == "bench":
            return bench(arguments)
        with Household(read_cluster(arguments.cluster), arguments.name, arguments.folder, arguments.relay) as home:
            for what in home.not_emulated:
                print(f"lab: not emulated: {what}", file=sys.stderr)
            return arguments.action(home, arguments)
    except (ClusterFileError, LabError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
