"""Plots the throughput of `top_k` against rows, keys, dim and k; see `run`, whose environment and builds it uses:

    benches/peers/run --sweep

Every point is a process of its own, `case.rs`; the figures are written beside the plot.
"""

import json
import pathlib
import subprocess

BASE = {"rows": 1024, "keys": 100_000, "dim": 384, "k": 16}
AXES = {
    "rows": [1, 4, 16, 64, 256, 1024, 4096],
    "keys": [1_000, 10_000, 100_000, 1_000_000],
    "dim": [16, 64, 128, 256, 384, 768, 1024, 2048],
    "k": [1, 16, 64, 256, 1024],
}


def seconds(case, sizes, prepared, threads):
    flags = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    command = [case, *flags, "--threads", str(threads), *(["--prepared"] if prepared else [])]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["seconds"]


def measure(case, threads):
    found = []
    for axis, values in AXES.items():
        for value in values:
            sizes = {**BASE, axis: value}
            for prepared in (False, True):
                time = seconds(case, sizes, prepared, threads)
                work = 2 * sizes["rows"] * sizes["keys"] * sizes["dim"]
                found.append({"axis": axis, **sizes, "prepared": prepared, "seconds": time, "gops": work / time / 1e9})
    return found


def plot(found, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(AXES), figsize=(14, 3.6), sharey=True, layout="constrained")
    for panel, axis in zip(panels, AXES):
        for prepared, name in ((False, "from raw rows"), (True, "keys uploaded")):
            points = [point for point in found if point["axis"] == axis and point["prepared"] == prepared]
            panel.plot([point[axis] for point in points], [point["gops"] for point in points], "o-", label=name)
        others = ", ".join(f"{name} {value:,}" for name, value in BASE.items() if name != axis)
        panel.set(xscale="log", yscale="log", xlabel=axis, title=others)
        panel.title.set_fontsize(8)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("GOP/s, 2·rows·keys·dim counted")
    panels[0].legend()
    figure.savefig(path)


def main(arguments, machine):
    found = measure(arguments.case, arguments.threads)
    folder = pathlib.Path(arguments.json).parent
    folder.mkdir(parents=True, exist_ok=True)
    report = {"command": "benches/peers/run --sweep", "machine": machine, "threads": arguments.threads, "points": found}
    (folder / "sweep.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    plot(found, folder / "sweep.svg")
    print(f"written: {folder / 'sweep.json'}, {folder / 'sweep.svg'}")
