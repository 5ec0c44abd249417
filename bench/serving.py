#!/usr/bin/env python3
"""What docs/serving.md promises, measured on one machine.

    serving.py users --models M0,M1,M2,M3 --memory 300M --disk 300M --rounds 4
        One user, then eight, of a ring whose devices stream from throttled disks: throughput,
        fairness, and whether each answer is the one that its user gets alone.
    serving.py conversation --model M
        Time to the first token of a 1,000-token conversation's first and second turn.
    serving.py drafts --model M --draft ngram|FILE --prompt FILE [--memory 200M --disk 300M]
        Time per token without and with drafts, in turns.
    serving.py greedy --model M --draft FILE
        100 greedy answers without drafts, with n-grams and with a draft model: the same?

As root where --disk is given: devices are control groups, as small_devices.py makes them.
Prints what it measured, and writes it as JSON (--json FILE).
"""
import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

from small_devices import Device, drop_caches, listed, size, speed

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


class Server:
    """prima serve, alone or with workers, each in a control group where the disk is throttled."""

    def __init__(self, options, folder, model, workers=(), arguments=(), memory=None):
        self.url = f"http://127.0.0.1:{options.port}"
        self.folder = folder
        self.devices = []
        self.processes = []
        environment = {**os.environ, "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder),
                       "XDG_CONFIG_HOME": str(folder), "XDG_STATE_HOME": str(folder)}
        prima = str(options.build / "prima")
        same = ["--threads", str(options.threads)]
        if memory:
            same += ["--memory", str(memory), "--no-store"]
        command = [prima, "serve", "-m", str(model), "--listen", f"127.0.0.1:{options.port}",
                   *same, *arguments]
        if workers:
            command += ["--workers", str(len(workers)), "--port", str(options.port + 1)]
        self.start(options, 0, model, memory, command, environment)
        for i, worker in enumerate(workers, 1):
            time.sleep(1)  # in this order they take their places in the ring
            self.start(options, i, worker, memory,
                       [prima, "join", "-m", str(worker), "--name", f"device{i}", "--head",
                        f"127.0.0.1:{options.port + 1}", *same], environment)
        self.wait()

    def start(self, options, i, model, memory, command, environment):
        log = open(self.folder / f"device{i}.log", "a")
        if options.disk:
            self.devices.append(Device(f"serving{i}", memory, options.disk, [model]))
            begin = self.devices[-1].start
        else:
            begin = subprocess.Popen
        self.processes.append(begin(command, env=environment, stdout=subprocess.DEVNULL, stderr=log))

    def wait(self, seconds=180):
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.processes[0].poll() is None:
            try:
                urllib.request.urlopen(self.url + "/health", timeout=5).close()
                return
            except OSError:
                time.sleep(0.2)
        raise SystemExit((self.folder / "device0.log").read_text())

    def ask(self, path, body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=500) as response:
            return json.load(response)

    def metrics(self):
        with urllib.request.urlopen(self.url + "/metrics", timeout=5) as response:
            return response.read().decode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            process.wait(60)
        for device in self.devices:
            device.close()


def prima_bench(options, server, folder, users):
    report = folder / "bench.json"
    subprocess.run([options.build / "prima", "bench", "--server", server.url, "--users", str(users),
                    "--requests", str(options.requests), "--prompt-words", str(options.words),
                    "--tokens", str(options.tokens), "--seed", str(users), "--json", report],
                   check=True, stdout=subprocess.DEVNULL)
    return json.loads(report.read_text())


def users(options):
    arguments = ["--rounds", str(options.rounds), "-c", str(options.context), "--kv-cells",
                 str(options.context * options.users)]
    if options.windows:
        arguments += ["--windows", options.windows]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        drop_caches()
        try:
            with Server(options, folder, options.models[0], options.models[1:], arguments,
                        options.memory) as server:
                prima_bench(options, server, folder, 1)  # graphs are built, costs learnt
                runs = {n: prima_bench(options, server, folder, n) for n in (1, options.users)}
                show = [line for line in server.metrics().splitlines()
                        if line.startswith(("prima_device", "prima_network", "prima_steps"))]
        finally:
            if options.logs:
                options.logs.mkdir(exist_ok=True)
                for log in folder.glob("*.log"):
                    (options.logs / log.name).write_bytes(log.read_bytes())
    for n, run in runs.items():
        print(f"{n} users: {run['tokens_per_second']:.2f} tokens/s, TTFT {run['ttft_ms']['p50']:.0f}"
              f" ms, TPOT {run['tpot_ms']['p50']:.0f} ms, slowest "
              f"{run['slowest_user_tokens_per_second']:.3f}, fastest "
              f"{run['fastest_user_tokens_per_second']:.3f} tokens/s, {run['failed']} failed")
    one, all_users = runs[1], runs[options.users]
    print(f"throughput {all_users['tokens_per_second'] / one['tokens_per_second']:.2f} times; slowest "
          f"user {all_users['slowest_user_tokens_per_second'] / all_users['fastest_user_tokens_per_second']:.2f}"
          " of the fastest")
    print("\n".join(show))
    return runs


def conversation(options):
    text = "The river was wide and the boat was small, so they waited for the wind to turn. "
    results = []
    with tempfile.TemporaryDirectory() as name:
        with Server(options, pathlib.Path(name), options.model, memory=options.memory) as server:
            for i in range(options.requests):
                messages = [{"role": "user",
                             "content": f"{i}. " + text * 50 + "What did they wait for?"}]
                body = {"messages": messages, "max_tokens": 24, "temperature": 0}
                first = server.ask("/v1/chat/completions", body)
                messages += [first["choices"][0]["message"], {"role": "user", "content": "And why?"}]
                second = server.ask("/v1/chat/completions", body)
                ttft = [turn["timings"]["ttft_ms"] for turn in (first, second)]
                results.append({"prompt_tokens": first["usage"]["prompt_tokens"], "ttft_ms": ttft,
                                "ratio": ttft[1] / ttft[0]})
                print(f"{first['usage']['prompt_tokens']} tokens: first turn {ttft[0]:.0f} ms, second "
                      f"{ttft[1]:.0f} ms, {ttft[1] / ttft[0]:.3f} of it", flush=True)
    return results


def run_once(options, folder, draft, seed):
    report = folder / "run.json"
    command = [str(options.build / "prima"), "run", "-m", options.model, "--raw", "-f",
               options.prompt, "-n", str(options.tokens), "--ignore-eos", "-c",
               str(options.context), "--threads",
               str(options.threads), "--temp", str(options.temperature), "--seed", str(seed),
               "--top-k", "0", "--top-p", "1", "--min-p", "0", "--json", str(report)]
    if options.memory:
        command += ["--memory", str(options.memory), "--no-store"]
    if draft:
        command += ["--draft", draft]
    with open(folder / "answer.txt", "w") as answer, open(folder / "log.txt", "w") as log:
        if options.disk:
            device = Device("serving0", options.memory + options.room, options.disk,
                            [options.model])
            begin = device.start
        else:
            begin = subprocess.Popen
        code = begin(command, stdout=answer, stderr=log).wait()
        if options.disk:
            device.close()
    if code != 0:
        raise SystemExit((folder / "log.txt").read_text())
    return json.loads(report.read_text()), (folder / "answer.txt").read_text()


def drafts(options):
    pairs = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for i in range(options.requests):
            order = [None, options.draft] if i % 2 == 0 else [options.draft, None]
            runs = {draft: run_once(options, folder, draft, i + 1) for draft in order}
            (plain, text), (drafted, drafted_text) = runs[None], runs[options.draft]
            # Each step tries until a token is wrong: every token written was tried but the first.
            tried = max(1, options.tokens - 1)
            rate = drafted["accepted_tokens"] / tried if drafted["drafted_tokens"] else 0.0
            pairs.append({"plain_ms": plain["tpot_ms"], "drafted_ms": drafted["tpot_ms"],
                          "drafted": drafted["drafted_tokens"], "acceptance": rate,
                          "same": text == drafted_text})
            print(f"{plain['tpot_ms']:.1f} ms/token without, {drafted['tpot_ms']:.1f} with: "
                  f"{plain['tpot_ms'] / drafted['tpot_ms']:.3f} times as fast; "
                  f"{drafted['drafted_tokens']} drafted, {100 * rate:.0f} % of the tokens tried were "
                  f"right; text {'the same' if text == drafted_text else 'differs'}", flush=True)
    ratios = [pair["plain_ms"] / pair["drafted_ms"] for pair in pairs]
    print(f"median: {statistics.median(ratios):.3f} times as fast")
    return pairs


def stories(n):
    choose = random.Random(3).choice
    return [f"{choose(['Once upon a time, there was a', 'One day, a', 'In the morning, the'])} "
            f"{choose(['little', 'big', 'happy', 'sad'])} {choose(['girl', 'boy', 'cat'])} named "
            f"{choose(['Lily', 'Tom', 'Ben', 'Mia', 'Sam', 'Anna', 'Max', 'Sue'])} who liked the "
            f"{choose(['ball', 'dog', 'tree', 'boat', 'hat', 'cake', 'bird', 'car'])} in the "
            f"{choose(['park', 'garden', 'house', 'forest', 'beach'])}." for _ in range(n)]


def greedy(options):
    answers = {}
    for draft in (None, "ngram", options.draft):
        with tempfile.TemporaryDirectory() as name:
            more = ["--draft", draft] if draft else []
            with Server(options, pathlib.Path(name), options.model, memory=options.memory,
                        arguments=["-c", str(options.context), "--kv-cells",
                                   str(options.context), *more]) as server:
                asked = [server.ask("/v1/completions", {"prompt": prompt, "temperature": 0,
                                                        "max_tokens": options.tokens})
                         for prompt in stories(100)]
        texts = [answer["choices"][0]["text"] for answer in asked]
        answers[draft or "none"] = texts
        count = lambda name: sum(answer["timings"][name] for answer in asked)
        same = sum(a == b for a, b in zip(texts, answers["none"]))
        print(f"{draft or 'without drafts'}: {same} of {len(texts)} the same; "
              f"{count('drafted_tokens')} tokens drafted, {count('accepted_tokens')} right", flush=True)
    return answers


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind, work in (("users", users), ("conversation", conversation), ("drafts", drafts),
                       ("greedy", greedy)):
        sub = kinds.add_parser(kind)
        sub.set_defaults(work=work)
        sub.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build/release")
        sub.add_argument("--threads", type=int, default=0)
        sub.add_argument("--port", type=int, default=47180)
        sub.add_argument("--memory", type=size)
        sub.add_argument("--disk", type=speed, default=0)
        sub.add_argument("--json", type=pathlib.Path)
        sub.add_argument("--requests", type=int, default={"users": 1}.get(kind, 3))
        if kind == "users":
            sub.add_argument("--models", type=listed(str), required=True)
            sub.add_argument("--users", type=int, default=8)
            sub.add_argument("--words", type=int, default=8)
            sub.add_argument("--tokens", type=int, default=24)
            sub.add_argument("--rounds", type=int, default=4)
            sub.add_argument("--windows")
            sub.add_argument("--context", type=int, default=256)
            sub.add_argument("--logs", type=pathlib.Path, help="a folder to keep what devices say")
        else:
            sub.add_argument("--model", required=True)
        if kind in ("drafts", "greedy"):
            sub.add_argument("--draft", required=True)
            sub.add_argument("--tokens", type=int, default=48)
            sub.add_argument("--context", type=int, default=256)
        if kind == "drafts":
            sub.add_argument("--prompt", required=True)
            sub.add_argument("--temperature", type=float, default=0.0)
            sub.add_argument("--room", type=size, default=0,
                             help="memory of the control group beyond --memory, for a draft model")
    options = parser.parse_args()
    results = options.work(options)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    sys.exit(main())
