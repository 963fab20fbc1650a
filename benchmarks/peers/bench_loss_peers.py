#!/usr/bin/env python3
"""The contrastive loss of bench_loss in PyTorch, forward and backward, with open_clip's ClipLoss where it is installed.

    python3 -m venv venv && venv/bin/pip install torch open_clip_torch
    OMP_NUM_THREADS=2 venv/bin/python benchmarks/peers/bench_loss_peers.py

Compare with clip_tiled of bench_loss, run just before or after. Without open_clip two products and two cross-entropies are
timed, which is what its ClipLoss does on one process.
"""

import argparse
import resource
import time

import torch
import torch.nn.functional as F

WIDTH, LOGIT_SCALE = 512, 4.602


def two_products(image, text, scale):
    labels = torch.arange(len(image))
    return (F.cross_entropy(scale * image @ text.T, labels) + F.cross_entropy(scale * text @ image.T, labels)) / 2


def published_loss():
    try:
        import open_clip
    except ImportError:
        return "two products", two_products
    return f"open_clip {open_clip.__version__}", open_clip.loss.ClipLoss()


def median_seconds(loss, batch, repeats):
    image = torch.randn(batch, WIDTH, requires_grad=True)
    text = torch.randn(batch, WIDTH, requires_grad=True)
    scale = torch.tensor(LOGIT_SCALE).exp()
    times = []
    for _ in range(repeats + 1):
        image.grad = text.grad = None
        start = time.perf_counter()
        loss(F.normalize(image, dim=-1), F.normalize(text, dim=-1), scale).backward()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    name, loss = published_loss()
    for batch in arguments.batches:
        took = median_seconds(loss, batch, arguments.repeats)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(f"{name} (torch {torch.__version__}, {torch.get_num_threads()} threads): B={batch} D={WIDTH}: {took:.3f} s, "
              f"process at {peak:.0f} MB at most")


if __name__ == "__main__":
    main()
