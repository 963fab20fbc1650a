#!/usr/bin/env python3
"""Exact search with FAISS on the vectors of bench_index, 100k x 512 and ten nearest, and opening its file.

    python3 -m venv venv && venv/bin/pip install faiss-cpu numpy safetensors
    DAUG_PEER_FILES=/tmp/peers build/benchmarks/bench_index --benchmark_filter='search/storage:3'
    venv/bin/python benchmarks/peers/bench_index_peers.py --files /tmp/peers
    venv/bin/python benchmarks/peers/bench_index_peers.py --open 1000000

Compare with search/storage:3 and opening/alone of bench_index, run just before or after. FAISS picks its instruction set when
it is loaded. Between its two ways of searching (one product at a time, or a matrix product by BLAS) it chooses by batch
size; both are timed for every batch of up to 100, and the faster one counts. Items that it finds must be as near to their
query as ours.
"""

import os
import sys
import tempfile

import faiss
import numpy as np

import peer

DIMENSION, NEAREST = 512, 10
LARGEST_ONE_BY_ONE = 100  # ten times slower than BLAS from there on
LEAST_TIME = 0.5  # seconds a repetition, as Google Benchmark takes


def require_as_near(name, found, given):
    """Ends the program unless every row's items are different ones and, rank by rank, score what ours do, in float64."""
    queries, items = given["queries"][:len(found)].astype(np.float64), given["items"][found].astype(np.float64)
    products = np.einsum("qd,qkd->qk", queries, items)
    norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(items, axis=2)
    error = np.abs(-np.sort(-products / norms, axis=1) - given["scores"][:len(found)]).max()
    if not error <= 1e-6 or any(len(set(row)) != NEAREST for row in found):
        sys.exit(f"{name}: items that differ from ours by {error:.2g} in their score: nothing was timed")
    same = np.mean([len(set(row) & set(ours)) for row, ours in zip(found, given["ids"])]) / NEAREST
    print(f"{name}: scores differ from ours by {error:.2g}, {same:.4%} of the ids are the same")


def search(arguments, results):
    given = peer.load(arguments.files, "index.io", "numpy")
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(given["items"])
    for batch in (1, 16, 64, 1000):
        actions = {}
        for name, threshold in (("one_by_one", 1 << 30), ("blas", 1)):  # batches below it go one by one
            if name == "one_by_one" and batch > LARGEST_ONE_BY_ONE:
                continue

            def action(threshold=threshold, queries=given["queries"][:batch]):
                faiss.cvar.distance_compute_blas_threshold = threshold
                return index.search(queries, NEAREST)[1]

            name = f"search/batch:{batch}/threads:{arguments.threads}/faiss_{name}"
            require_as_near(name, action(), given)
            actions[name] = action
        results.measure(actions, least_time=LEAST_TIME)


def opening(items, results):
    """Reading an index from a file, which copies it, and mapping it. Its vectors are any."""
    index = faiss.IndexFlatIP(DIMENSION)
    for first in range(0, items, 50_000):  # at once they would take as much memory again
        rows = min(50_000, items - first)
        index.add(np.random.default_rng(first).standard_normal((rows, DIMENSION), dtype=np.float32))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "faiss.index")
        faiss.write_index(index, path)
        del index
        actions = {f"opening/items:{items}/faiss_{name}": lambda flags=flags: faiss.read_index(path, flags)
                   for name, flags in (("read", 0), ("mapped", faiss.IO_FLAG_MMAP))}
        for name, action in actions.items():
            if action().ntotal != items:
                sys.exit(f"{name}: {action().ntotal} items: nothing was timed")
        results.measure(actions, least_time=LEAST_TIME)


def main():
    parser = peer.parser(__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--open", type=int, metavar="ITEMS", help="time opening a file of so many items alone")
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(arguments.threads)
    results = peer.Results(arguments, faiss=f"{faiss.__version__} ({faiss.get_compile_options().strip()})",
                           threads=arguments.threads)
    if not arguments.open:
        search(arguments, results)
    opening(arguments.open or 100_000, results)


if __name__ == "__main__":
    main()
