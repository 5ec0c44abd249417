"""Figures, scenario files, plans and pages; and that docs/benchmarks.md says what its JSON says."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

import lab_under_test
from bench import SWEEP_TOKENS, Measurement
from cluster_file import read_cluster
from figures import ratio_interval, summary
from plots import all_plots
from report import page, write_report
from scenario import FOLDER, read_scenario
import planning
import results

REPOSITORY = lab_under_test.LAB.parent
REPORT = [sys.executable, str(lab_under_test.LAB / "report.py")]


def run(system: str, repetition: int, tpot: float, **more) -> dict:
    seen = {"peak_memory_bytes": 1 << 30, "unreclaimable_bytes": 1 << 26, "memory_pressure": 0.0625,
            "read_bytes": 1 << 31, "processor_seconds": 12.5}
    return {"system": system, "repetition": repetition, "cold": repetition == 0, "seconds": 10.0, "stolen": 0.0,
            "foreign": 0.0, "disturbed": False, "thrown_out": False, "devices": {"one": seen, "two": seen},
            "tpot_ms": tpot, "ttft_ms": {"16": 2 * tpot}, "start_ms": 3000.0, "tokens": [1, 2]} | more


def result(**more) -> dict:
    device = {"memory_bytes": 1 << 30, "reserve_bytes": 0, "disk_bytes_per_second": 300_000_000, "cores": None,
              "outage": None, "gpus": 0}
    return {
        "version": 1, "scenario": "two", "title": "Two devices", "date": "2026-01-02 03:04 UTC",
        "machine": {"processor": "P", "cores": 2, "memory_bytes": 24 << 30, "kernel": "6.1"},
        "model": {"name": "M", "bytes": 5 << 30, "weight_bytes": 4 << 30},
        "devices": [{"name": "one"} | device, {"name": "two"} | device],
        "network": {"one_way_ms": 2, "mbit_per_second": 400, "shared": True, "jitter_ms": 10, "loss_percent": 0},
        "copies": "own", "stores": False, "context": 1024,
        "asked": {"tokens": 2, "repetitions": 3, "slow_tokens": 2, "slow_repetitions": 3},
        "reference": {"tpot_ms": 300.0, "prefill_tokens_per_second": 20.0, "budgeted_tpot_ms": 360.0, "budgeted_prefill_tokens_per_second": 15.0, "weight_bytes": 4 << 30, "tokens": [1, 2]},
        "plan": {"devices": ["one", "two"], "layers": [[4, 4], [4, 4]], "rounds": 2, "windows_by_hand": [], "predicted_tpot_ms": 1000.0,
                 "timeline": {"one": [["compute", 0.0, 0.1]], "two": [["compute", 0.1, 0.4]]}},
        "runs": [run("prima", i, tpot) for i, tpot in enumerate((1000.0, 1100.0, 900.0))]
                + [run("llama.cpp", i, tpot) for i, tpot in enumerate((12000.0, 12100.0, 12200.0))]
                + [run("prima", 0, 5000.0, thrown_out=True, disturbed=True)],
        "limit_tpot_ms": 800.0,
        "sweeps": {"rounds": [{"rounds": k, "predicted_tpot_ms": 1900.0 / k, "runs": [run("prima", 0, 2000.0 / k)]}
                              for k in (1, 2)], "memories": []},
        "not_emulated": ["GPUs of one"], "failed": [], "frames": "", "commands": ["one$ prima run"], "seconds": 100.0,
    } | more


class FiguresTest(unittest.TestCase):
    def test_medians_and_spread(self):
        self.assertEqual({"median": 2, "least": 1, "most": 9, "n": 3}, summary([9, 1, 2]))
        self.assertIsNone(summary([]))

    def test_an_interval_of_pairs(self):
        interval = ratio_interval([100] * 10, [95, 105, 100, 101, 99, 100, 102, 98, 100, 100])
        self.assertEqual((1.0, 10), (interval["median"], interval["pairs"]))
        self.assertLess(interval["low"], 1)
        self.assertGreater(interval["high"], 1)
        self.assertEqual(2.0, ratio_interval([1, 2, 3], [2, 4, 6])["low"])
        self.assertIsNone(ratio_interval([1, 2], [1, 2]))


class ResultsTest(unittest.TestCase):
    def test_what_was_thrown_out_does_not_count(self):
        self.assertEqual(1000.0, results.median(result(), "prima", "tpot_ms"))
        self.assertEqual(1, results.thrown_out(result()))

    def test_pairs_are_of_one_repetition(self):
        self.assertEqual(3, results.paired(result(), "prima", "llama.cpp")["pairs"])
        self.assertEqual(12.0, results.paired(result(), "prima", "llama.cpp")["median"])

    def test_tokens(self):
        self.assertEqual(results.Tokens(7, 7, 7), results.tokens(result()))
        runs = [run("prima", 0, 1.0, tokens=[1]), run("prima", 1, 1.0, tokens=[2]), run("other", 0, 1.0, tokens=[2])]
        self.assertEqual(results.Tokens(3, 2, 1), results.tokens(result(runs=runs)))
        by_other_kernels = result()["reference"] | {"tokens": [1, 3], "budgeted_tokens": [1, 2, 3]}
        self.assertEqual(results.Tokens(7, 7, 7), results.tokens(result(reference=by_other_kernels)))

    def test_prompts_by_length(self):
        self.assertEqual([16], list(results.ttft(result(), "prima")))
        self.assertEqual(2000.0, results.ttft(result(), "prima")[16]["median"])


class PlanningTest(unittest.TestCase):
    def test_the_limit(self):
        cluster = read_scenario(FOLDER / "home4-even.toml").cluster
        weights = 4_620_000_000
        # 4.62 GB and the programs' 0.54, less 4.29 of memory, from disks of 1.2 GB/s.
        self.assertAlmostEqual(1000 * (weights + (512 << 20) - (4 << 30)) / 1.2e9,
                               planning.limit_ms(cluster, weights, 0, None))
        fast = planning.Reference(5000.0, 10.0, 6000.0, 8.0, weights, ())
        self.assertEqual(5000.0, planning.limit_ms(cluster, weights, 0, fast))
        self.assertEqual(0.0, planning.limit_ms(cluster, 1 << 30, 0, None))

    def test_a_plan_by_hand(self):
        planned = {"n_layer": 32, "rounds": 8, "devices": [
            {"name": name, "windows": [[0, layers, []]]} for name, layers in
            (("one", 5), ("two", 9), ("three", 9), ("four", 9), ("none", 0))]}
        plan = planning.plan_by_hand(planned)
        self.assertEqual((("one", "two", "three", "four"), (1, 2, 2, 2), 5), (plan.devices, plan.windows, plan.rounds))

    def test_a_rated_cluster_file(self):
        scenario = read_scenario(FOLDER / "home4-uneven.toml")
        reference = planning.Reference(400.0, 20.0, 500.0, 16.0, 4_000_000_000, ())
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(planning.rated_cluster_file(scenario, reference))
            file.flush()
            again = read_cluster(pathlib.Path(file.name))
            text = pathlib.Path(file.name).read_text(encoding="utf-8")
        self.assertEqual([d.memory_bytes for d in scenario.cluster.devices], [d.memory_bytes for d in again.devices])
        self.assertEqual(("D3", scenario.cluster.links), (again.head, again.links))
        self.assertEqual(4, text.count("weights = "))
        self.assertEqual(1, text.count("weights = 8000000000.0"))  # D3's, with the kernels of a budget
        with_stores = planning.rated_cluster_file(dataclasses.replace(scenario, stores=True), reference)
        self.assertEqual(1, with_stores.count("weights = 10000000000.0"))

    def test_a_rated_cluster_file_of_another_memory(self):
        scenario = planning.with_memory(read_scenario(FOLDER / "solo-starved.toml"), 3 << 30)
        self.assertIn(f"memory = {3 << 30}\n", planning.rated_cluster_file(scenario, None))


class ScenarioTest(unittest.TestCase):
    def test_all_can_be_read(self):
        names = {read_scenario(path).name for path in FOLDER.glob("*.toml")}
        self.assertLessEqual({"solo-starved", "home4-even", "home4-uneven", "fits-on-one", "flaky", "home4-70b"}, names)


class MeasurementTest(unittest.TestCase):
    def test_a_program_finds_its_own_file_cache_or_none(self):
        scenario = read_scenario(FOLDER / "home4-roomy.toml")
        measurement = Measurement(scenario, unittest.mock.Mock(), unittest.mock.Mock())
        home = unittest.mock.Mock()
        dropped = []
        for system in ("prima", "prima-alone", "llama.cpp-rpc", "llama.cpp-rpc", "prima-by-itself", "llama.cpp"):
            home.reset_mock()
            measurement.forget_others(home, system)
            dropped.append(home.drop_caches.call_count)
        self.assertEqual([0, 0, 1, 0, 1, 1], dropped)

    def test_a_sweep_s_answers_are_short(self):
        scenario = dataclasses.replace(read_scenario(FOLDER / "home4-even.toml"), rounds=(2,))
        measurement = Measurement(scenario, unittest.mock.Mock(), unittest.mock.Mock())
        measurement.reference = None
        measurement.plan_for = lambda *_, max_rounds: {"predicted": {"tpot_seconds": 1}, "asked": max_rounds}
        measurement.ring_of = lambda planned: planned
        measurement.observe = lambda bench, *_, **__: [(bench.plan["asked"], bench.scenario.tokens)]
        bench = unittest.mock.Mock(plan="all", scenario=scenario)
        self.assertEqual([(2, SWEEP_TOKENS)], measurement.sweep_rounds(bench)[0]["runs"])
        self.assertEqual(("all", scenario), (bench.plan, bench.scenario))


class PageTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.page = self.folder.parent / f"{self.folder.name}.md"
        self.addCleanup(self.page.unlink, missing_ok=True)
        self.write(result())
        write_report(self.folder, self.page)

    def write(self, what: dict) -> None:
        (self.folder / "two.json").write_text(json.dumps(what), encoding="utf-8")

    def check(self) -> int:
        return subprocess.run([*REPORT, "--check", str(self.folder), str(self.page)], stderr=subprocess.DEVNULL,
                              check=False).returncode

    def test_figures_are_on_the_page(self):
        text = self.page.read_text(encoding="utf-8")
        for figure in ("1.00 s (900 ms to 1.10 s, 3 runs)", "| 1.25 |", "12.1x [11.00, 13.56], 3 pairs",
                       "Not emulated: GPUs of one", "800 ms a token", "Thrown out because the machine was disturbed: 1"):
            self.assertIn(figure, text)
        self.assertIn("1.25", text)

    def test_the_page_is_what_the_json_says(self):
        self.assertEqual(0, self.check())

    def test_another_figure_in_the_page_fails(self):
        self.page.write_text(self.page.read_text(encoding="utf-8").replace("800 ms", "700 ms"), encoding="utf-8")
        self.assertEqual(1, self.check())

    def test_another_figure_in_the_json_fails(self):
        self.write(result(limit_tpot_ms=801.0))
        self.assertEqual(1, self.check())

    def test_a_drawing_of_old_fails(self):
        (self.folder / "three-bars.svg").write_text("<svg/>", encoding="utf-8")
        self.assertEqual(1, self.check())

    def test_no_results_fail(self):
        (self.folder / "two.json").unlink()
        self.assertEqual(1, self.check())

    def test_drawings_are_of_the_results(self):
        drawings = all_plots(result())
        self.assertEqual({"systems", "rounds", "timeline"}, set(drawings))
        self.assertIn("12.10 s", drawings["systems"])

    def test_a_system_that_failed_says_why(self):
        failed = {key: value for key, value in run("llama.cpp-rpc", 0, 1).items() if not key.startswith(("tpot", "ttft"))}
        text = page([result(runs=result()["runs"] + [failed | {"failed": "ended with -9"}])], "benchmarks")
        self.assertIn("failed: ended with -9", text)

    def test_without_a_reference_no_tokens_are_compared_with_it(self):
        text = page([result(reference=None)], "benchmarks")
        self.assertIn("Each system gave the same tokens in 7 of 7 runs.", text)
        self.assertIn("the model does not fit this machine's memory", text)

    def test_where_prima_is_behind_is_said(self):
        runs = [run("prima", 0, 1000.0), run("llama.cpp-rpc", 0, 500.0)]
        self.assertIn("llama.cpp, RPC servers takes 500 ms a token, Prima 1.00 s", page([result(runs=runs)], "benchmarks"))

    def test_the_repository_s_page(self):
        folder = REPOSITORY / "docs/benchmarks"
        if not folder.exists():
            self.skipTest("nothing was published yet")
        done = subprocess.run([*REPORT, "--check", str(folder), str(REPOSITORY / "docs/benchmarks.md")],
                              capture_output=True, text=True, check=False)
        self.assertEqual(0, done.returncode, done.stderr)


if __name__ == "__main__":
    unittest.main()
