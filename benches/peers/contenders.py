"""What other libraries do for the same job. As a script, measures one of them and prints JSON:

    contenders.py NAME '{"rows": 1024, "keys": 100000, "dim": 384, "k": 16}' THREADS

A case may name `planted` (query i is a noisy copy of key i), `groups`, `ratio`, and a folder of `data` in place of made
rows, as `case.rs` does.
"""

import json
import pathlib
import statistics
import sys
import time
from importlib import metadata

import numpy as np

TEMPERATURE = 0.05
NOISE = 0.75


def version(package):
    """The version of a package, or None where it is absent. Does not load it: a process starts with the peak memory of
    the one that starts it, so that one must stay small."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def gaussian(seed, rows, dim):
    return np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32)


def normalised(rows):
    """In place: rows may be all that fits."""
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def inputs(case):
    """Unit rows of f32."""
    if "data" in case:
        folder = pathlib.Path(case["data"])
        return [normalised(np.load(folder / f"{name}.npy").astype(np.float32)) for name in ("queries", "corpus")]
    queries, keys = gaussian(1, case["rows"], case["dim"]), gaussian(2, case["keys"], case["dim"])
    if case.get("planted"):
        queries = keys[: case["rows"]] + NOISE * queries
    return normalised(queries), normalised(keys)


def groups_of(case):
    if "data" in case:
        lines = (pathlib.Path(case["data"]) / "meta.tsv").read_text(encoding="utf-8").splitlines()[1:]
        ids = np.array([int(line.split("\t")[4]) for line in lines])
        return ids, ids
    return np.arange(case["rows"]) % case["groups"], np.arange(case["keys"]) % case["groups"]


def faiss_index(keys, threads):
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(keys.shape[1])
    index.add(keys)
    return index


def faiss_flat(case, threads):
    queries, keys = inputs(case)
    index = faiss_index(keys, threads)
    return lambda: index.search(queries, case["k"])


def numpy_argpartition(case, _threads):
    queries, keys = inputs(case)

    def search():
        scores = queries @ keys.T
        found = np.argpartition(-scores, case["k"], axis=1)[:, : case["k"]]
        order = np.argsort(-np.take_along_axis(scores, found, 1), axis=1, kind="stable")
        return np.take_along_axis(found, order, 1)

    return search


def torch_topk(dtype):
    def prepare(case, threads):
        import torch

        torch.set_num_threads(threads)
        queries, keys = (torch.from_numpy(rows).to(getattr(torch, dtype)) for rows in inputs(case))
        return lambda: (queries @ keys.T).topk(case["k"], dim=1)

    return prepare


def torch_mining(case, threads):
    """The mining of sentence-transformers from embeddings, with its filters before the top-k so that no row starves:
    key i is the positive of query i; what is above `ratio` of it or of the query's group drops out."""
    import torch

    torch.set_num_threads(threads)
    queries, keys = map(torch.from_numpy, inputs(case))
    query_groups, key_groups = map(torch.from_numpy, groups_of(case))

    def search():
        found = []
        for start in range(0, len(queries), 2048):
            part = slice(start, start + 2048)
            positive = (queries[part] * keys[: len(queries)][part]).sum(1)
            bound = positive - positive.abs() * (1 - case["ratio"])
            scores = queries[part] @ keys.T
            out = (scores > bound[:, None]) | (query_groups[part, None] == key_groups[None])
            found.append(scores.masked_fill_(out, -torch.inf).topk(case["k"], dim=1))
        return found

    return search


def torch_info_nce(dtype):
    def prepare(case, threads):
        import torch
        from torch.nn import functional

        torch.set_num_threads(threads)
        rows, keys, dim = case["rows"], case["keys"], case["dim"]
        sides = [torch.from_numpy(gaussian(seed, size, dim)) for seed, size in ((1, rows), (2, keys))]
        sides = [side.to(getattr(torch, dtype)).requires_grad_() for side in sides]
        temperature = torch.tensor(TEMPERATURE, requires_grad=True)
        target = torch.arange(rows)

        def step():
            for leaf in (*sides, temperature):
                leaf.grad = None
            queries, keys = (functional.normalize(side, dim=1) for side in sides)
            functional.cross_entropy((queries @ keys.T) / temperature, target).backward()

        return step

    return prepare


CONTENDERS = {
    "faiss IndexFlatIP f32": ("faiss-cpu", "top_k", faiss_flat),
    "numpy argpartition f32": ("numpy", "top_k", numpy_argpartition),
    "torch topk f32": ("torch", "top_k", torch_topk("float32")),
    "torch topk bf16": ("torch", "top_k", torch_topk("bfloat16")),
    "torch mining f32": ("torch", "mine", torch_mining),
    "torch cross_entropy f32": ("torch", "info_nce_grad", torch_info_nce("float32")),
    "torch cross_entropy bf16": ("torch", "info_nce_grad", torch_info_nce("bfloat16")),
}


def main():
    name, case, threads = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    call = CONTENDERS[name][2](case, threads)
    call()
    seconds = []
    begin = time.perf_counter()
    while len(seconds) < 5 or (time.perf_counter() - begin < 1 and len(seconds) < 101):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": statistics.median(seconds)}))


if __name__ == "__main__":
    main()
