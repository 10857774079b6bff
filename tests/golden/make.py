"""Writes golden.json: cases worked out from the formulas alone, in numpy, sharing nothing with the Rust code.

    python3 tests/golden/make.py

Scores and losses are float64. Gradients are exact to rounding by the complex step: f(x + ih) = f(x) + ih f'(x), with
h = 1e-30 nothing cancels. All decisions (bands, guards, order) are taken on the real part, and every score that decides
lies 1e-5 away from what it is compared with, so they hold for the canonical f32 score as well.
"""

import json
import math
import pathlib

import numpy as np

GAP = 1e-5
STEP = 1e-30


def f32(value):
    """A number that f32 holds, as options and rows are."""
    return float(np.float32(value))


def numbers(array):
    return [None if math.isnan(x) else x for x in np.asarray(array, dtype=float).ravel().tolist()]


# ---- the canonical score, to the bit, in numpy's float32 ----

def canonical_parts(row):
    largest = max(abs(float(x)) for x in row)
    exponent = math.frexp(largest)[1] - 1 if largest else 0
    high, low = [], []
    for x in row:
        scaled = np.float32(math.ldexp(float(x), -exponent))
        masked = (scaled.view(np.uint32) & np.uint32(0xFFFFF000)).view(np.float32)
        parts = [masked, np.float32(scaled - masked)]
        parts = [np.float32(0) if abs(part) < 2.0**-50 else part for part in parts]
        high.append(parts[0])
        low.append(parts[1])
    return high, low, exponent


def canonical_dot(x, y):
    lanes = [np.float32(0)] * 16
    for e in range(len(x[0])):
        for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
            lanes[e % 16] = np.float32(lanes[e % 16] + np.float32(x[a][e] * y[b][e]))
    for distance in (8, 4, 2, 1):
        for lane in range(distance):
            lanes[lane] = np.float32(lanes[lane] + lanes[lane + distance])
    return lanes[0]


def canonical(metric, x, y):
    x, y = canonical_parts(x), canonical_parts(y)
    dot = canonical_dot(x, y)
    if metric == "dot":
        exact = math.ldexp(float(dot), x[2] + y[2])
        largest = float(np.finfo(np.float32).max)
        return np.float32(0.0 if abs(exact) < 2.0**-126 else min(max(exact, -largest), largest))
    inverse = [np.float32(1) / np.sqrt(canonical_dot(z, z)) if any(z[0]) else np.float32(0) for z in (x, y)]
    score = np.float32(np.float32(dot * inverse[0]) * inverse[1])
    return np.clip(score, np.float32(-1), np.float32(1))


def canonical_cases(rng):
    def normal(dim):
        return rng.standard_normal(dim).astype(np.float32)

    pairs = [(normal(dim), normal(dim)) for dim in (1, 2, 15, 16, 17, 33, 100)]
    pairs.append((normal(40).astype(np.float16).astype(np.float32), normal(40)))
    x = normal(48)
    pairs.append((x, x))
    pairs.append((x, -x))
    pairs.append((normal(20) * np.float32(1e20), normal(20) * np.float32(1e-30)))
    pairs.append(((normal(20) * np.float32(1e-42)), normal(20)))
    spread = np.exp2(rng.uniform(-70, 0, 64)).astype(np.float32)
    pairs.append((normal(64) * spread, normal(64)))
    pairs.append((normal(64) * spread, normal(64) * spread[::-1]))
    pairs.append((np.zeros(5, np.float32), normal(5)))
    pairs.append((np.full(4, 3e38, np.float32), np.full(4, 2.0, np.float32)))
    return [
        {
            "metric": metric,
            "query": numbers(x),
            "key": numbers(y),
            "bits": int(np.float32(canonical(metric, x, y)).view(np.uint32)),
        }
        for x, y in pairs
        for metric in ("cosine", "dot")
    ]


# ---- data ----

def rounded(rng, rows, dim, dtype, near=None):
    values = rng.standard_normal((rows, dim))
    if near is not None:
        count = min(rows, len(near))
        values[:count] = near[:count] + 0.6 * values[:count]
    return values.astype({"f32": np.float32, "f16": np.float16}[dtype]).astype(float)


def dataset(rng, dtype, queries, keys, extras, dim):
    q = rounded(rng, queries, dim, dtype)
    k = rounded(rng, keys, dim, dtype, near=q)
    e = rounded(rng, extras, dim, dtype, near=q[::-1])
    q[2] = q[0]
    k[keys - 1] = k[1]
    e[2] = k[0]
    return {"dtype": dtype, "dim": dim, "queries": q, "keys": k, "negatives": e}


def scores(metric, x, y):
    """The score matrix; sqrt(x·x) without conjugation, so that a complex step passes through."""
    dots = np.array([[np.sum(a * b) for b in y] for a in x]).reshape(len(x), len(y))
    if metric == "dot":
        return dots
    return dots / np.sqrt(np.sum(x * x, axis=1))[:, None] / np.sqrt(np.sum(y * y, axis=1))[None, :]


def far(values, bound):
    assert np.all(np.abs(np.asarray(values) - bound) > GAP), "a score lies too close to what decides it; change the seed"


# ---- top_k and histogram ----

RULES = ("nonfinite", "excluded_key", "self", "positive", "excluded_pair", "group", "below_band", "above_band", "margin",
         "ratio")


def top_k(data, o):
    s = scores(o.get("metric", "cosine"), data["queries"], data["keys"])
    k = o["k"]
    answer = {"indices": [], "scores": [], "counts": [], "positive_scores": [], "rejected": []}
    for i, row in enumerate(s):
        own = o.get("positives", [[]] * len(s))[i]
        p = min((row[j] for j in own), default=None)
        rejected = dict.fromkeys(RULES, 0)
        stay = []
        for j, score in enumerate(row):
            rules = [
                ("excluded_key", j in o.get("excluded_keys", ())),
                ("self", "self_offset" in o and j == i + o["self_offset"]),
                ("positive", j in own),
                ("excluded_pair", j in o.get("pairs", [[]] * len(s))[i]),
                ("group", "query_groups" in o and o["query_groups"][i] == o["key_groups"][j]),
            ]
            bounds = [("below_band", o["lo"], -1)] if "lo" in o else []
            bounds += [("above_band", o["hi"], 1)] if "hi" in o else []
            if p is not None:
                bounds += [("margin", p - o["margin"], 1)] if "margin" in o else []
                bounds += [("ratio", p - abs(p) * (1 - o["ratio"]), 1)] if "ratio" in o else []
            if not any(hit for _, hit in rules):
                for _, bound, _ in bounds:
                    far(score, bound)
            rules += [(name, sign * (score - bound) > 0) for name, bound, sign in bounds]
            first = next((name for name, hit in rules if hit), None)
            if first:
                rejected[first] += 1
            else:
                stay.append((-score, j))
        stay.sort()
        gaps = np.diff([score for score, _ in stay])
        assert np.all((gaps == 0) | (gaps > GAP)), "two scores lie too close; change the seed"
        taken = stay[o.get("skip", 0):][:k]
        answer["indices"] += [j for _, j in taken] + [-1] * (k - len(taken))
        answer["scores"] += [-score for score, _ in taken] + [None] * (k - len(taken))
        answer["counts"].append(len(taken))
        answer["positive_scores"].append(None if p is None else p)
        answer["rejected"].append([rejected[name] for name in RULES])
    return answer


def top_k_cases(rng, data):
    queries, keys = len(data["queries"]), len(data["keys"])
    aligned = [[i] for i in range(queries)]
    several = [[i, keys - 1 - i] if i % 3 else [] for i in range(queries)]
    groups = {
        "query_groups": rng.integers(0, 4, queries).tolist(),
        "key_groups": rng.integers(0, 4, keys).tolist(),
    }
    pairs = [sorted(rng.choice(keys, 3, replace=False).tolist()) for _ in range(queries)]
    excluded = sorted(rng.choice(keys, 5, replace=False).tolist())
    cases = [
        {"k": 5},
        {"k": keys + 3},
        {"k": 0},
        {"k": 6, "lo": f32(-0.3), "hi": f32(0.4)},
        {"k": 4, "positives": aligned},
        {"k": 6, "positives": aligned, "margin": f32(0.2)},
        {"k": 6, "positives": aligned, "margin": f32(-0.1)},
        {"k": 6, "positives": aligned, "ratio": f32(0.6)},
        {"k": 6, "positives": aligned, "ratio": f32(1.2)},
        {"k": 6, "positives": several, "margin": f32(0.1), "ratio": f32(0.9)},
        {"k": 4, "skip": 3},
        {"k": 9, "positives": aligned, "lo": f32(-0.5), "ratio": f32(0.8), "skip": 2},
        {"k": 5, "self_offset": 2},
        {"k": 5, "self_offset": -1},
        {"k": 5, "pairs": pairs, "excluded_keys": excluded},
        {"k": 5, **groups},
        {"k": 7, "positives": several, "lo": f32(-0.6), "hi": f32(0.8), "margin": f32(0.05), "skip": 1, "pairs": pairs,
         "excluded_keys": excluded, "self_offset": 0, **groups},
    ]
    cases += [{"metric": "dot", **case} for case in (
        {"k": 5}, {"k": 5, "lo": f32(-1.0), "hi": f32(2.0)}, {"k": 5, "positives": aligned, "ratio": f32(0.7)})]
    return cases


def histogram(data, o):
    s = scores(o.get("metric", "cosine"), data["queries"], data["keys"])
    edges = np.array([f32(o["lo"] + (o["hi"] - o["lo"]) * i / o["bins"]) for i in range(o["bins"] + 1)])
    tables = []
    for i, row in enumerate(s):
        table = {"counts": [0] * o["bins"], "below": 0, "above": 0}
        for j, score in enumerate(row):
            if "self_offset" in o and j == i + o["self_offset"]:
                continue
            far(score, edges)
            if score < edges[0]:
                table["below"] += 1
            elif score > edges[-1]:
                table["above"] += 1
            else:
                table["counts"][int(np.sum(edges[:-1] <= score)) - 1] += 1
        tables.append(table)
    return tables


# ---- info_nce ----

def log_sum_exp(x):
    shift = max(x.real)
    return shift + np.log(np.sum(np.exp(x - shift)))


def info_nce(q, k, e, tau, o, bump=None):
    """Loss, rows and statistics; the log-sums weighted as in the loss are summed into `mass` for the influence.

    `bump` = ("key" | "extra", index) adds i·STEP to that candidate's logit wherever it stands in a log-sum.
    """
    metric = o.get("metric", "cosine")
    n, m, extras = len(q), len(k), len(e)
    qk, qe, qq = scores(metric, q, k), scores(metric, q, e), scores(metric, q, q)
    kk, ke = scores(metric, k, k), scores(metric, k, e)
    own = o.get("positives", [[i] for i in range(n)])
    listed = o.get("listed", [[]] * n)
    shared = o.get("shared", extras)
    margin, smoothing = o.get("margin", 0.0), o.get("label_smoothing", 0.0)
    supcon = o.get("reading") == "supcon"
    names = o.get("directions", "qk").split(",")
    rows, mass = [], 0
    statistics = {"positive": [], "hardest_negative": [], "mean_negative": [], "entropy": []}

    for i in range(n):
        if not own[i]:
            rows.append(0)
            for values in statistics.values():
                values.append(math.nan)
            continue
        smallest = min(qk[i, p].real for p in own[i])
        bounds = [smallest + o["guard_above"]] if "guard_above" in o else []
        bounds += [smallest - abs(smallest) * (1 - o["guard_ratio"])] if "guard_ratio" in o else []

        def dropped(s, kind, j):
            for bound in bounds:
                far(s.real, bound)
                if s.real > bound:
                    return True
            groups = o.get({"query": "query_groups", "key": "key_groups", "extra": "negative_groups"}[kind])
            if groups is not None and groups[j] == o["query_groups"][i]:
                return True
            if o.get("duplicates"):
                row = {"query": q, "key": k, "extra": e}[kind][j].real
                return any(np.array_equal(row, x) for x in ([q[i].real] if kind == "query" else k[own[i]].real))
            return False

        terms, met, entropies = [], [], []
        for p in own[i]:
            # A candidate: (kind, index, score, is a positive, is listed for the row).
            blocks = {
                "qk": [("key", j, qk[i, j], j in own[i], False) for j in range(m)
                       if j == p or supcon or j not in own[i]]
                + [("extra", j, qe[i, j], False, j in listed[i]) for j in range(extras) if j < shared or j in listed[i]],
                "kq": [("query", j, qk[j, p], j == i or p in own[j], False) for j in range(n)
                       if j == i or supcon or p not in own[j]],
                "qq": [("query", j, qq[i, j], False, False) for j in range(n) if j != i],
                "kk": [("key", j, kk[p, j], False, False) for j in range(m) if j not in own[i]]
                + [("extra", j, ke[p, j], False, False) for j in range(shared) if j not in listed[i]],
            }
            positive_logit = (qk[i, p] - margin) / tau
            parts = []
            for name in names:
                logits, raw, negative, main = [], [], [], None
                for kind, j, s, is_positive, is_listed in blocks[name]:
                    if not is_positive and dropped(s, kind, j):
                        continue
                    x = (s - (margin if is_positive else 0)) / tau
                    if name == "qk" and not is_positive and "alpha" in o:
                        if {"in-batch": not is_listed, "listed": is_listed, "all": True}[o["alpha_on"]]:
                            x = x + o["alpha"] * s.real
                    if not is_positive:
                        met.append(s.real)
                    if name == "qk" and kind == "key" and j == p:
                        main = len(logits)
                    raw.append(x)
                    logits.append(x + (1j * STEP if (kind, j) == bump else 0))
                    negative.append(not is_positive)
                parts.append((name, np.array(logits, complex), np.array(raw, complex), np.array(negative, bool), main))

            groups = [parts] if o.get("joint") else [[part] for part in parts]
            for group in groups:
                raw = np.concatenate([part[2] for part in group])
                if len(raw) == 0:
                    terms.append((0, 0))
                    continue
                share = np.exp(raw.real - log_sum_exp(raw).real)
                entropies.append(-np.sum(share * np.log(np.maximum(share, 1e-300))))
                pieces = []
                for name, logits, _, negative, main in group:
                    if name == "qk" and ("beta" in o or "tau_plus" in o) and negative.any():
                        beta, tau_plus = o.get("beta", 0.0), o.get("tau_plus", 0.0)
                        # e^{1/τ} is small enough here to write the formula down as it stands.
                        pos, neg = np.exp(logits[main]), np.exp(logits[negative])
                        count = len(neg)
                        r = np.sum(neg ** (beta + 1)) / np.mean(neg**beta)
                        estimate = (r - tau_plus * count * pos) / (1 - tau_plus)
                        floor = count * np.exp(-1 / tau)
                        assert abs(estimate.real - floor.real) > GAP
                        n_g = estimate if estimate.real > floor.real else floor
                        pieces += [logits[~negative], np.log(np.array([n_g], complex))]
                    else:
                        pieces.append(logits)
                log_z = log_sum_exp(np.concatenate(pieces))
                value = log_z - (1 - smoothing) * positive_logit - smoothing * np.mean(raw)
                terms.append((value, log_z))
        rows.append(np.mean([value for value, _ in terms]))
        mass = mass + np.mean([log_z for _, log_z in terms])
        statistics["positive"].append(smallest)
        statistics["hardest_negative"].append(max(met, default=math.nan))
        statistics["mean_negative"].append(np.mean(met) if met else math.nan)
        statistics["entropy"].append(np.mean(entropies) if entropies else math.nan)

    weights = np.array(o.get("weights", [1.0] * n)) * [1.0 if positives else 0.0 for positives in own]
    loss = np.sum(weights * np.array(rows)) / np.sum(weights) if np.sum(weights) > 0 else 0j
    return loss, np.array(rows), statistics, mass


def info_nce_answer(data, o):
    q, k, e = (data[name].astype(complex) for name in ("queries", "keys", "negatives"))
    tau, upstream = o["temperature"], o.get("upstream", 1.0)
    loss, rows, statistics, _ = info_nce(q, k, e, tau, o)
    answer = {"loss": loss.real, "rows": numbers(rows.real)}
    answer.update({name: numbers(values) for name, values in statistics.items()})
    answer["grad_temperature"] = upstream * info_nce(q, k, e, tau + 1j * STEP, o)[0].imag / STEP
    for name, matrix in (("grad_queries", q), ("grad_keys", k), ("grad_negatives", e)):
        gradient = []
        for place in np.ndindex(matrix.shape):
            matrix[place] += 1j * STEP
            gradient.append(upstream * info_nce(q, k, e, tau, o)[0].imag / STEP)
            matrix[place] = matrix[place].real
        answer[name] = numbers(gradient)
    for name, kind, count in (("key_influence", "key", len(k)), ("negative_influence", "extra", len(e))):
        bumped = [info_nce(q, k, e, tau, o, bump=(kind, j))[3] for j in range(count)]
        answer[name] = [float(np.imag(value)) / STEP for value in bumped]
    return answer


def info_nce_cases():
    every = "qk,kq,qq,kk"
    listed = {"listed": [[1, 3], [4], [], [0, 3, 4], [2]], "shared": 3}
    several = {"positives": [[0, 2], [1], [0, 2, 4], [], [3, 5]]}
    groups = {"query_groups": [7, 8, 7, 9, 8], "key_groups": [7, 8, 9, 9, 7, 8, 1], "negative_groups": [8, 7, 9, 9, 1]}
    options = [
        {},
        {"metric": "dot"},
        *({"directions": name} for name in ("kq", "qq", "kk", "qk,kq", every)),
        {"directions": every, "joint": True},
        listed,
        {"positives": [[3], [0], [1], [6], [3]]},
        several,
        {**several, "reading": "supcon"},
        {"margin": f32(0.15)},
        {"guard_above": f32(0.1)},
        {"guard_above": f32(-0.3)},
        {"guard_ratio": f32(0.7)},
        groups,
        {"duplicates": True},
        {"beta": f32(1.5), "tau_plus": f32(0.02)},
        {"tau_plus": f32(0.01)},
        {"beta": f32(0.5)},
        {"beta": f32(0.5), "tau_plus": f32(0.95)},
        *({"alpha": f32(3.0), "alpha_on": on, **listed} for on in ("in-batch", "listed", "all")),
        {"weights": [0.5, 2.0, 0.0, 1.5, 1.0]},
        {"label_smoothing": f32(0.2)},
        {"upstream": -2.5},
        # Combinations.
        {**several, **listed, "directions": every, "reading": "supcon", "margin": f32(0.1)},
        {**several, **listed, "directions": every, "joint": True, "duplicates": True},
        {**groups, **listed, "directions": every, "guard_above": f32(0.05), "duplicates": True},
        {"directions": every, "joint": True, "beta": f32(1.0), "tau_plus": f32(0.02), "label_smoothing": f32(0.1)},
        {**several, **listed, "directions": "qk,kq", "reading": "supcon", "beta": f32(1.0), "margin": f32(0.1)},
        {**listed, "directions": "qk,kk", "beta": f32(0.7), "alpha": f32(2.0), "alpha_on": "all"},
        {"metric": "dot", "directions": every, "guard_ratio": f32(0.5), "margin": f32(0.2)},
        {"positives": [[], [], [], [], []], "directions": "qk,kk"},
        {**several, **groups, **listed, "directions": every, "joint": True, "reading": "supcon", "guard_above": f32(0.2),
         "duplicates": True, "beta": f32(1.0), "tau_plus": f32(0.01), "alpha": f32(1.5), "alpha_on": "in-batch",
         "weights": [1.0, 0.5, 2.0, 4.0, 0.25], "label_smoothing": f32(0.1), "margin": f32(0.05), "upstream": 0.25},
    ]
    return [{"temperature": f32(0.3), **option} for option in options] + [
        {"temperature": f32(tau), "directions": every} for tau in (0.07, 0.01, 0.005)]


def main():
    rng = np.random.default_rng(20240607)
    retrieval = {dtype: dataset(rng, dtype, 6, 20, 3, 7) for dtype in ("f32", "f16")}
    batch = {dtype: dataset(rng, dtype, 5, 7, 5, 4) for dtype in ("f32", "f16")}
    golden = {"canonical": canonical_cases(rng), "retrieval": {}, "batch": {}}
    for dtype, data in retrieval.items():
        options = top_k_cases(rng, data)
        bins = [{"lo": f32(lo), "hi": f32(hi), "bins": count, **more} for lo, hi, count, more in (
            (-1.01, 1.01, 8, {}), (-0.5, 0.5, 5, {"self_offset": 0}), (-2.0, 2.0, 7, {"metric": "dot"}))]
        golden["retrieval"][dtype] = {
            **{name: value if isinstance(value, (str, int)) else numbers(value) for name, value in data.items()},
            "top_k": [{"options": o, **top_k(data, o)} for o in options],
            "histogram": [{"options": o, "tables": histogram(data, o)} for o in bins],
        }
    for dtype, data in batch.items():
        golden["batch"][dtype] = {
            **{name: value if isinstance(value, (str, int)) else numbers(value) for name, value in data.items()},
            "info_nce": [{"options": o, **info_nce_answer(data, o)} for o in info_nce_cases()],
        }
    path = pathlib.Path(__file__).with_name("golden.json")
    path.write_text(json.dumps(golden, separators=(",", ":"), allow_nan=False).replace('{"options"', '\n{"options"') + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
