"""What other libraries do for the same job. As a script, measures one of them and prints JSON:

    contenders.py NAME '[rows, keys, dim, k]' THREADS
"""

import json
import statistics
import sys
import time
from importlib import metadata

import numpy as np

TEMPERATURE = 0.05


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
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def inputs(shape):
    rows, keys, dim, _ = shape
    return normalised(gaussian(1, rows, dim)), normalised(gaussian(2, keys, dim))


def faiss_index(keys, threads):
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(keys.shape[1])
    index.add(normalised(keys))
    return index


def faiss_flat(shape, threads):
    queries, keys = inputs(shape)
    index = faiss_index(keys, threads)
    return lambda: index.search(queries, shape[3])


def numpy_argpartition(shape, _threads):
    queries, keys = inputs(shape)

    def search():
        scores = queries @ keys.T
        found = np.argpartition(-scores, shape[3], axis=1)[:, : shape[3]]
        order = np.argsort(-np.take_along_axis(scores, found, 1), axis=1, kind="stable")
        return np.take_along_axis(found, order, 1)

    return search


def torch_topk(dtype):
    def prepare(shape, threads):
        import torch

        torch.set_num_threads(threads)
        queries, keys = (torch.from_numpy(rows).to(getattr(torch, dtype)) for rows in inputs(shape))
        return lambda: (queries @ keys.T).topk(shape[3], dim=1)

    return prepare


def torch_info_nce(dtype):
    def prepare(shape, threads):
        import torch
        from torch.nn import functional

        torch.set_num_threads(threads)
        rows, keys, dim, _ = shape
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
    "torch cross_entropy f32": ("torch", "info_nce_grad", torch_info_nce("float32")),
    "torch cross_entropy bf16": ("torch", "info_nce_grad", torch_info_nce("bfloat16")),
}


def main():
    name, shape, threads = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    call = CONTENDERS[name][2](shape, threads)
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
