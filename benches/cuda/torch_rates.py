"""What torch takes for the work of the table: matmul and topk, and the loss with its gradients. One JSON object."""

import json
import statistics

import torch

DEVICE = torch.device("cuda")
SEED = 1


def seconds(work, runs):
    """The median time of some work by events, after a warm-up."""
    work()
    times = []
    for _ in range(runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def rows(count, dim, dtype):
    return torch.empty(count, dim, device=DEVICE, dtype=dtype).uniform_(-1, 1)


def top_k(queries, keys, dim, dtype, k, piece=65_536):
    """Pieces of the score matrix, the best of each, the best of those."""
    left = torch.nn.functional.normalize(rows(queries, dim, dtype))
    right = torch.nn.functional.normalize(rows(keys, dim, dtype))

    def work():
        found = []
        for start in range(0, keys, piece):
            scores = left @ right[start : start + piece].T
            found.append(scores.topk(min(k, scores.shape[1])))
        torch.cat([values for values, _ in found], 1).topk(k)

    return seconds(work, 3)


def info_nce(batch, dim, dtype):
    left, right = (rows(batch, dim, dtype).requires_grad_() for _ in range(2))
    labels = torch.arange(batch, device=DEVICE)

    def work():
        left.grad = right.grad = None
        normalize, entropy = torch.nn.functional.normalize, torch.nn.functional.cross_entropy
        logits = normalize(left) @ normalize(right).T / 0.05
        ((entropy(logits, labels) + entropy(logits.T, labels)) / 2).backward()

    return seconds(work, 3)


def measured(name, work, *arguments):
    line = {"name": name, "arguments": [str(argument) for argument in arguments]}
    try:
        line["seconds"] = work(*arguments)
    except torch.OutOfMemoryError:
        line["error"] = "out of memory"
    torch.cuda.empty_cache()
    return line


def main():
    torch.manual_seed(SEED)
    lines = [measured("matmul and topk", top_k, 16_384, 1_000_000, 768, torch.float16, k) for k in (16, 100, 1000)]
    lines += [measured("matmul and topk", top_k, 16_384, 1_000_000, dim, torch.float16, 16) for dim in (128, 256)]
    lines.append(measured("matmul and topk", top_k, 16_384, 1_000_000, 768, torch.float32, 16))
    lines.append(measured("normalise, matmul, cross_entropy, backward", info_nce, 32_768, 1024, torch.float16))
    print(json.dumps({"torch": torch.__version__, "lines": lines}, indent=1))


if __name__ == "__main__":
    main()
