"""Measures `cosmine bench` beside other libraries: see `run`, which prepares what this needs.

Every measurement is a process of its own with the same number of threads: it warms up, runs for a second and at least
five times, and reports the median. Rounds go through all contenders in turn, in an order that rotates, so that drift of
the machine hits all alike; the figure is the median over the rounds. Peak memory is that of the process, preparation
included.

Rows are seeded Gaussian numbers. FAISS, numpy and PyTorch get rows that are normalised and an index that is built
before the clock starts; `cosmine bench` normalises and packs within the time.
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

# Product and sum of each matrix product: the scores; for gradients the scores and one product for each side.
FLOPS = {"top_k": 2, "info_nce_grad": 6}
CASES = {
    "top_k": [(1024, 100_000, 384)],
    "info_nce_grad": [(1024, 1024, 384), (4096, 4096, 384)],
}
K = 16
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


def cosmine(arguments, op, shape, dtype):
    rows, keys, dim = map(str, shape)
    command = [arguments.cosmine, "bench", "--op", op, "--rows", rows, "--keys", keys, "--dim", dim, "--k", str(K)]
    return [*command, "--dtype", dtype, "--device", "cpu", "--threads", str(arguments.threads), "--json"]


def plan(arguments, op, shape):
    """The contenders of a case: name and command."""
    own = [(f"cosmine {dtype}", cosmine(arguments, op, shape, dtype)) for dtype in ("f32", "f16", "bf16")]
    here = pathlib.Path(__file__).with_name("contenders.py")
    others = [
        (name, [sys.executable, str(here), name, json.dumps([*shape, K]), str(arguments.threads)])
        for name, (package, its_op, _) in contenders.CONTENDERS.items()
        if its_op == op and contenders.version(package)
    ]
    return own + others


def measure(arguments, op, shape):
    commands = plan(arguments, op, shape)
    seconds = {name: [] for name, _ in commands}
    memory = {name: [] for name, _ in commands}
    for round_number in range(arguments.rounds):
        turn = round_number % len(commands)
        for name, command in commands[turn:] + commands[:turn]:
            out, peak = run_process(command, arguments.threads)
            seconds[name].append(json.loads(out)["seconds"])
            memory[name].append(peak)
    work = FLOPS[op] * shape[0] * shape[1] * shape[2]
    own = statistics.median(seconds["cosmine f32"])
    return [
        {
            "op": op,
            "rows": shape[0],
            "keys": shape[1],
            "dim": shape[2],
            "name": name,
            "seconds": statistics.median(seconds[name]),
            "seconds_all": seconds[name],
            "gflops": work / statistics.median(seconds[name]) / 1e9,
            "ratio": statistics.median(seconds[name]) / own,
            "peak_mib": max(memory[name]),
        }
        for name, _ in commands
    ]


def agreement(arguments, shape):
    """The share of neighbours that `cosmine mine` and FAISS find alike on the same rows."""
    rows, keys, dim = shape
    with tempfile.TemporaryDirectory() as folder:
        queries, corpus = contenders.gaussian(1, rows, dim), contenders.gaussian(2, keys, dim)
        paths = [os.path.join(folder, name) for name in ("queries.npy", "corpus.npy", "found.npz")]
        np.save(paths[0], queries)
        np.save(paths[1], corpus)
        command = [arguments.cosmine, "mine", "--queries", paths[0], "--corpus", paths[1], "--k", str(K)]
        run_process([*command, "--threads", str(arguments.threads), "--json", "--out", paths[2]], arguments.threads)
        found = np.load(paths[2])["indices"]
    others = contenders.faiss_index(corpus, arguments.threads).search(contenders.normalised(queries), K)[1]
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), others.tolist())]))


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def machine():
    text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    fields = [line.split(":", 1) for line in text.splitlines() if ":" in line]
    values = {name.strip(): value.strip() for name, value in fields}
    sets = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile")
    return {
        "processor": values.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "instruction_sets": [name for name in sets if name in values.get("flags", "").split()],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
        "load_before": os.getloadavg()[0],
    }


def table(results):
    previous = None
    for row in results:
        case = (row["op"], row["rows"], row["keys"], row["dim"])
        if case != previous:
            print(f"\n{row['op']}, {row['rows']} × {row['keys']} × {row['dim']}")
            print(f"{'':<28}{'seconds':>10}{'GFLOP/s':>10}{'time ratio':>12}{'peak MiB':>10}")
            previous = case
        print(f"{row['name']:<28}{row['seconds']:>10.4f}{row['gflops']:>10.1f}{row['ratio']:>12.2f}{row['peak_mib']:>10.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cosmine", required=True, help="the command, built for release")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=CASES, help="this operation alone")
    parser.add_argument("--json", default="benches/results/peers.json", help="where the figures go")
    arguments = parser.parse_args()
    report = {
        "command": " ".join(["benches/peers/run", *sys.argv[3:]]),
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
    for op, shapes in CASES.items():
        if arguments.only in (None, op):
            for shape in shapes:
                report["results"] += measure(arguments, op, shape)
    if arguments.only in (None, "top_k"):
        report["neighbours_shared_with_faiss"] = agreement(arguments, CASES["top_k"][0])
    table(report["results"])
    print(f"\nratio: time over that of cosmine f32; above 1 is slower. {arguments.threads} threads, "
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
