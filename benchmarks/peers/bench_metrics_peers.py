#!/usr/bin/env python3
"""The work of bench_metrics in scikit-learn and torchmetrics: AUROC with patient bootstraps, mAP@10 and nDCG.

    python3 -m venv venv && venv/bin/pip install numpy scikit-learn torchmetrics
    venv/bin/python benchmarks/peers/bench_metrics_peers.py

Compare with auroc_bootstrap/10000, map_at_10 and tied_ndcg of bench_metrics, run just before or after. A loop of many
equal steps (resamples, queries) is timed over some of them and scaled; how many is printed. torchmetrics is left out where
it is not installed.
"""

import argparse
import time

import numpy as np
import sklearn
from sklearn.metrics import roc_auc_score

FINDINGS = 14


def seconds(action, repeats):
    """Median time of one call after a warm-up."""
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def auroc_bootstrap(arguments):
    """1000 resamples of the patients (two rows each), the AUROC of every finding of each."""
    random = np.random.default_rng(0)
    labels = (random.random((arguments.rows, FINDINGS)) < 0.2).astype(np.int64)
    scores = random.standard_normal(labels.shape) + labels
    patients = arguments.rows // 2
    timed = arguments.resamples

    def resample():
        drawn = random.integers(0, patients, patients)
        rows = np.concatenate([2 * drawn, 2 * drawn + 1])
        return [roc_auc_score(labels[rows, f], scores[rows, f]) for f in range(FINDINGS)]

    each = seconds(lambda: [resample() for _ in range(timed)], arguments.repeats) / timed
    print(f"scikit-learn {sklearn.__version__}: roc_auc_score, {FINDINGS} findings, {arguments.rows} rows, 1000 patient "
          f"resamples: {1000 * each:.3f} s ({timed} resamples timed)")


def retrieval(arguments):
    try:
        import torch
        import torchmetrics
        from torchmetrics.retrieval import RetrievalMAP, RetrievalNormalizedDCG
    except ImportError as error:
        print(f"torchmetrics: left out ({error})")
        return
    torch.manual_seed(0)
    for items, metric_class, k in ((100, RetrievalMAP, 10), (1000, RetrievalMAP, 10),
                                   (100, RetrievalNormalizedDCG, 10), (1000, RetrievalNormalizedDCG, 10),
                                   (100, RetrievalNormalizedDCG, None)):
        queries = arguments.queries
        scores = torch.rand(queries * items)
        relevant = (torch.rand(queries * items) < 0.1).to(torch.int64)
        indexes = torch.arange(queries).repeat_interleave(items)

        def evaluate():
            metric = metric_class(top_k=k)
            metric.update(scores, relevant, indexes=indexes)
            return metric.compute()

        print(f"torchmetrics {torchmetrics.__version__} (torch {torch.__version__}, {torch.get_num_threads()} threads): "
              f"{metric_class.__name__}, top_k={k}, {queries} queries of {items} items: "
              f"{seconds(evaluate, arguments.repeats):.3f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=20, help="resamples that are timed")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    auroc_bootstrap(arguments)
    retrieval(arguments)


if __name__ == "__main__":
    main()
