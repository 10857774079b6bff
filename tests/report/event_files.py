"""Compares event files with the JSON lines of the same run, read by TensorBoard itself.

    event_files.py DIRECTORY    with run.jsonl and events/
"""

import json
import pathlib
import sys

from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator

import numpy

directory = pathlib.Path(sys.argv[1])
records = [json.loads(line) for line in (directory / "run.jsonl").read_text().splitlines()]


def scalars(record):
    """The scalars of a record that the run has, by tag."""
    expected = {"seconds/run": record["seconds"], "seconds/mining": record["mining_seconds"]}
    expected |= {"gap/average": record["gap"], "gap/rate": record["gap_rate"]}
    for kind in ("positive", "negative"):
        expected |= {f"{kind}/{field}": record[f"{kind}_{field}"] for field in ("average", "rate")}
    expected |= {field: record[field] for field in ("loss", "temperature", "hardness", "suspects", "short_rows")}
    for part in ("band", "age", "usage", "hashing", "refresh"):
        expected |= {f"{part}/{field}": value for field, value in record[part].items()}
    for kind in ("positives", "negatives"):
        expected[f"scores/mean_of_{kind}"] = record[kind]["mean"]
        expected[f"scores/median_of_{kind}"] = record[kind]["quantiles"][2]
    for source in record["sources"]:
        expected[f"sources/{source['source']}/drawn"] = source["drawn"]
        expected[f"sources/{source['source']}/gradient_mass"] = source["gradient_mass"]
    for tier in record["tiers"]:
        for field in ("share", "drawn", "missing", "mean_score", "gradient_mass"):
            expected[f"tiers/{tier['name']}/{field}"] = tier[field]
    for rule, keys in record["rejected"].items():
        expected[f"rejected/{rule}"] = keys
    if "held_out" in record:
        held_out = record["held_out"]
        for kind in ("recall", "ndcg"):
            for depth, value in held_out[kind].items():
                expected[f"held_out/{kind}@{depth}"] = value
        for field in ("mrr", "tied", "alignment", "uniformity", "purity"):
            expected[f"held_out/{field}"] = held_out[field]
    return expected


expected = {}
for record in records:
    for tag, value in scalars(record).items():
        expected.setdefault(tag, []).append((record["step"], float(numpy.float32(value))))

keep_all = {event_accumulator.SCALARS: 0, event_accumulator.HISTOGRAMS: 0, event_accumulator.COMPRESSED_HISTOGRAMS: 1}
reader = event_accumulator.EventAccumulator(str(directory / "events"), size_guidance=keep_all)
reader.Reload()
tags = reader.Tags()
assert sorted(tags["scalars"]) == sorted(expected), (sorted(tags["scalars"]), sorted(expected))
for tag, values in expected.items():
    got = [(event.step, event.value) for event in reader.Scalars(tag)]
    assert got == values, (tag, got, values)
assert sorted(tags["histograms"]) == ["scores/negatives", "scores/positives"], tags["histograms"]
for kind in ("positives", "negatives"):
    events = reader.Histograms(f"scores/{kind}")
    assert [event.step for event in events] == [record["step"] for record in records]
    for event, record in zip(events, records):
        scores, got = record[kind], event.histogram_value
        assert (got.min, got.max, got.num) == (scores["min"], scores["max"], scores["count"])
        assert list(got.bucket_limit) == scores["edges"][1:] and list(got.bucket) == scores["counts"]
        assert abs(got.sum - scores["mean"] * scores["count"]) < 1e-9
        squares = scores["count"] * (scores["mean"] ** 2 + scores["deviation"] ** 2)
        assert abs(got.sum_squares - squares) < 1e-9

# What TensorBoard's own pages are made from.
pages = plugin_event_accumulator.EventAccumulator(str(directory / "events"))
pages.Reload()
assert "loss" in pages.PluginTagToContent("scalars"), pages.Tags()
assert sorted(pages.PluginTagToContent("histograms")) == ["scores/negatives", "scores/positives"]
print(f"TensorBoard reads {len(expected)} scalars and 2 histograms over {len(records)} steps, all as they were written")
