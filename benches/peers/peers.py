"""Measures `cosmine bench` beside other libraries: see `run`, which prepares what this needs.

Every measurement is a process of its own with the same number of threads: it warms up, runs for a second and at least
five times, and reports the median. Rounds go through all contenders in turn, in an order that rotates, so that drift of
the machine hits all alike; the figure is the median over the rounds. Peak memory is that of the process, preparation
included.

Rows are seeded Gaussian numbers. FAISS, numpy and PyTorch get rows that are normalised and an index that is built
before the clock starts; cosmine normalises and packs within the time, but for the cases that say `prepared`.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

import contenders
import sweep
from machine import machine, output_of

# Product and sum of each matrix product: the scores; for gradients the scores and one product for each side.
FLOPS = {"top_k": 2, "mine": 2, "info_nce_grad": 6}
K = 16
LARGE = {"op": "top_k", "rows": 1024, "keys": 100_000, "dim": 384, "k": K}
PAIRS = {"op": "mine", "rows": 16_000, "keys": 16_000, "dim": 384, "k": K, "ratio": 0.95, "data": None}
# `of` names the contenders that a case is measured with; without it all of its operation are.
CASES = [
    LARGE,
    {**LARGE, "prepared": True, "of": []},
    {**LARGE, "k": 100, "of": ["faiss IndexFlatIP f32"]},
    {**LARGE, "dim": 768, "of": ["faiss IndexFlatIP f32"]},
    {**LARGE, "dim": 1024, "of": ["faiss IndexFlatIP f32"]},
    {**LARGE, "planted": True, "of": []},
    {**LARGE, "op": "mine", "planted": True, "ratio": 0.95, "groups": 1000, "of": []},
    {**LARGE, "op": "mine", "planted": True, "ratio": 0.95, "groups": 1000, "counted": True, "of": []},
    {**LARGE, "rows": 1, "keys": 1_000_000, "prepared": True, "of": ["faiss IndexFlatIP f32"]},
    {**LARGE, "rows": 16, "keys": 1_000_000, "prepared": True, "of": ["faiss IndexFlatIP f32"]},
    PAIRS,
    {**PAIRS, "counted": True, "of": []},
    {"op": "info_nce_grad", "rows": 1024, "keys": 1024, "dim": 384},
    {"op": "info_nce_grad", "rows": 4096, "keys": 4096, "dim": 384},
]
# What tells cases of one operation and shape apart.
MARKS = ("prepared", "planted", "ratio", "groups", "counted", "data")
PACKAGES = ("numpy", "faiss-cpu", "torch")


def run_process(command, threads):
    """Standard output, and the peak of the resident memory in MiB."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    environment = {**os.environ, **{name: str(threads) for name in names}}
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdout=out, stdin=subprocess.DEVNULL, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        out.seek(0)
        return out.read().decode(), usage.ru_maxrss / 1024


def cosmine_bench(arguments, case, dtype):
    sizes = [word for name in ("rows", "keys", "dim") for word in (f"--{name}", str(case[name]))]
    command = [arguments.cosmine, "bench", "--op", case["op"], *sizes, "--k", str(case.get("k", K))]
    return [*command, "--dtype", dtype, "--device", "cpu", "--threads", str(arguments.threads), "--json"]


def cosmine_case(arguments, case):
    """`case.rs`, for what the command's own bench has no flag for."""
    command = [arguments.case, "--threads", str(arguments.threads)]
    for name in ("rows", "keys", "dim", "k", *MARKS):
        value = case.get(name)
        command += [] if value in (None, False) else [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return command


def plan(arguments, case):
    """The contenders of a case: name and command."""
    if case["op"] == "info_nce_grad" or case == LARGE:
        own = [(f"cosmine {dtype}", cosmine_bench(arguments, case, dtype)) for dtype in ("f32", "f16", "bf16")]
    else:
        own = [("cosmine", cosmine_case(arguments, case))]
    here = pathlib.Path(__file__).with_name("contenders.py")
    others = [
        (name, [sys.executable, str(here), name, json.dumps(case), str(arguments.threads)])
        for name, (package, its_op, _) in contenders.CONTENDERS.items()
        if its_op == case["op"] and name in case.get("of", [name]) and contenders.version(package)
    ]
    return own + others


def measure(arguments, case):
    commands = plan(arguments, case)
    seconds = {name: [] for name, _ in commands}
    memory = {name: [] for name, _ in commands}
    for round_number in range(arguments.rounds):
        turn = round_number % len(commands)
        for name, command in commands[turn:] + commands[:turn]:
            out, peak = run_process(command, arguments.threads)
            seconds[name].append(json.loads(out)["seconds"])
            memory[name].append(peak)
    work = FLOPS[case["op"]] * case["rows"] * case["keys"] * case["dim"]
    own = statistics.median(seconds[commands[0][0]])
    return [
        {
            # Where the data lies is nobody else's business.
            **{name: name == "data" or value for name, value in case.items() if name != "of"},
            "name": name,
            "seconds": statistics.median(seconds[name]),
            "seconds_all": seconds[name],
            "gflops": work / statistics.median(seconds[name]) / 1e9,
            "time_ratio": statistics.median(seconds[name]) / own,
            "peak_mib": max(memory[name]),
        }
        for name, _ in commands
    ]


def agreement(arguments, case):
    """The share of neighbours that `cosmine mine` and FAISS find alike on the same rows."""
    with tempfile.TemporaryDirectory() as folder:
        queries, corpus = contenders.inputs(case)
        paths = [os.path.join(folder, name) for name in ("queries.npy", "corpus.npy", "found.npz")]
        np.save(paths[0], queries)
        np.save(paths[1], corpus)
        command = [arguments.cosmine, "mine", "--queries", paths[0], "--corpus", paths[1], "--k", str(K)]
        run_process([*command, "--threads", str(arguments.threads), "--json", "--out", paths[2]], arguments.threads)
        found = np.load(paths[2])["indices"]
    others = contenders.faiss_index(corpus, arguments.threads).search(queries, K)[1]
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), others.tolist())]))


def table(results):
    previous = None
    for row in results:
        marks = [name if row[name] is True else f"{name} {row[name]}" for name in MARKS if name in row]
        case = ", ".join([f"{row['op']}, {row['rows']} × {row['keys']} × {row['dim']}, k {row.get('k', '–')}", *marks])
        if case != previous:
            print(f"\n{case}")
            print(f"{'':<28}{'seconds':>10}{'GFLOP/s':>10}{'time ratio':>12}{'peak MiB':>10}")
            previous = case
        print(f"{row['name']:<28}{row['seconds']:>10.4f}{row['gflops']:>10.1f}{row['time_ratio']:>12.2f}{row['peak_mib']:>10.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cosmine", required=True, help="the command, built for release")
    parser.add_argument("--case", required=True, help="the bench `case`, built")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=FLOPS, help="this operation alone")
    parser.add_argument("--json", default="benches/results/peers.json", help="where the figures go")
    parser.add_argument("--data", help="folder of 16,000 pairs: queries.npy and corpus.npy of f16, meta.tsv")
    parser.add_argument("--sweep", action="store_true", help="plot throughput against rows, keys, dim and k instead")
    arguments = parser.parse_args()
    if arguments.sweep:
        sweep.main(arguments, machine())
        return
    report = {
        "command": " ".join(["benches/peers/run", *sys.argv[5:]]).replace(arguments.data or "\0", "FOLDER"),
        "date": time.strftime("%Y-%m-%d"),
        "commit": output_of("git", "describe", "--always", "--dirty"),
        "versions": {
            "cosmine": output_of(arguments.cosmine, "--version"),
            "rustc": output_of("rustc", "--version"),
            "python": platform.python_version(),
            **{package: contenders.version(package) for package in PACKAGES},
        },
        "machine": machine(),
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "flops_counted": {op: f"{factor}·rows·keys·dim" for op, factor in FLOPS.items()},
        "results": [],
    }
    for case in CASES:
        if arguments.only not in (None, case["op"]):
            continue
        if "data" in case:
            if arguments.data is None:
                continue
            case = {**case, "data": arguments.data}
        report["results"] += measure(arguments, case)
    if arguments.only in (None, "top_k"):
        report["neighbours_shared_with_faiss"] = agreement(arguments, LARGE)
    table(report["results"])
    print(f"\ntime ratio: time over that of the case's first line; above 1 is slower. {arguments.threads} threads, "
          f"median of {arguments.rounds} rounds, {report['machine']['processor']}")
    for package in PACKAGES:
        print(f"{package}: {report['versions'][package] or 'absent, not measured'}")
    if "neighbours_shared_with_faiss" in report:
        print(f"neighbours shared with FAISS on the same rows: {report['neighbours_shared_with_faiss']:.6f}")
    path = pathlib.Path(arguments.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
