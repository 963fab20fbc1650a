#!/usr/bin/env python3
"""Exact search with FAISS on the work of bench_index: 100k x 512 random unit vectors, inner product, ten nearest.

    python3 -m venv venv && venv/bin/pip install faiss-cpu numpy
    venv/bin/python benchmarks/peers/bench_faiss.py --threads 2
    venv/bin/python benchmarks/peers/bench_faiss.py --open 1000000

FAISS picks its instruction set when it is loaded. Between its two ways of searching (one product at a time, or a matrix
product by BLAS) it chooses by batch size; both are tried for every batch of up to 100, and the faster one counts.
"""

import argparse
import os
import statistics
import tempfile
import time

import faiss
import numpy as np

LARGEST_ONE_BY_ONE = 100  # ten times slower than BLAS from there on


def unit_rows(rows, columns, seed):
    values = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def seconds(action, least_time):
    """Median time of one call, over `least_time` seconds and at least five calls."""
    action()
    times = []
    while len(times) < 5 or sum(times) < least_time:
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def open_file(arguments):
    """Reading an index from a file, which copies it, and mapping it."""
    index = faiss.IndexFlatIP(arguments.dimension)
    for first in range(0, arguments.open, 50_000):  # at once they would take as much memory again
        index.add(unit_rows(min(50_000, arguments.open - first), arguments.dimension, first))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "faiss.index")
        faiss.write_index(index, path)
        del index
        for name, flags in (("faiss.read_index", 0), ("faiss.read_index, mapped", faiss.IO_FLAG_MMAP)):
            took = seconds(lambda: faiss.read_index(path, flags), arguments.least_time)
            print(f"{name}, {arguments.open} x {arguments.dimension}: {1e3 * took:.3f} ms", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--nearest", type=int, default=10)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 1000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--least-time", type=float, default=3.0, help="seconds a figure")
    parser.add_argument("--open", type=int, metavar="ITEMS", help="time opening a file of so many items instead")
    arguments = parser.parse_args()

    if arguments.open:
        open_file(arguments)
        return
    faiss.omp_set_num_threads(arguments.threads)
    index = faiss.IndexFlatIP(arguments.dimension)
    index.add(unit_rows(arguments.items, arguments.dimension, 1))
    print(f"faiss {faiss.__version__} ({faiss.get_compile_options().strip()}), {arguments.threads} threads, "
          f"{arguments.items} x {arguments.dimension}, top-{arguments.nearest}")
    print(f"{'batch':>6} {'one by one QPS':>16} {'BLAS QPS':>12} {'best QPS':>12}")
    for batch in arguments.batches:
        queries = unit_rows(batch, arguments.dimension, 2)
        rates = {}
        for name, threshold in (("one by one", 1 << 30), ("BLAS", 1)):  # batches below it go one by one
            if name == "one by one" and batch > LARGEST_ONE_BY_ONE:
                continue
            faiss.cvar.distance_compute_blas_threshold = threshold
            rates[name] = batch / seconds(lambda: index.search(queries, arguments.nearest), arguments.least_time)
        print(f"{batch:>6} {rates.get('one by one', float('nan')):>16.1f} {rates['BLAS']:>12.1f} "
              f"{max(rates.values()):>12.1f}", flush=True)


if __name__ == "__main__":
    main()
