#!/usr/bin/env python3
"""The work of bench_metrics in scikit-learn and torchmetrics: AUROC with patient bootstraps, mAP@10 and nDCG.

    python3 -m venv venv && venv/bin/pip install torch safetensors numpy scikit-learn torchmetrics
    DAUG_PEER_FILES=/tmp/peers build/benchmarks/bench_metrics --benchmark_filter='auroc_bootstrap/|map_at_10|tied_ndcg'
    venv/bin/python benchmarks/peers/bench_metrics_peers.py --files /tmp/peers

Compare with auroc_bootstrap/10000, map_at_10 and tied_ndcg of bench_metrics, run just before or after. All figures are those of
the same scores and labels, and are compared first. Of the 1000 resamples, which are equal steps of a loop, 20 are timed.
"""

import sys

import numpy as np
import sklearn
from sklearn.metrics import roc_auc_score

import peer

torch = peer.torch_with_threads()

import torchmetrics  # noqa: E402
from torchmetrics.retrieval import RetrievalMAP, RetrievalNormalizedDCG  # noqa: E402

TIMED = 20


def auroc_bootstrap(arguments, results):
    """Resamples of the patients (two rows each), the AUROC of every finding of each."""
    given = peer.load(arguments.files, "metrics_auroc.io")
    scores, labels, low, high = (given[name].numpy() for name in ("scores", "labels", "low", "high"))
    findings, patients = range(labels.shape[1]), len(labels) // 2
    random = np.random.default_rng(0)
    name = f"auroc_bootstrap/{len(labels)}/sklearn_{TIMED}_resamples"

    def resample():
        drawn = random.integers(0, patients, patients)
        rows = np.concatenate([2 * drawn, 2 * drawn + 1])
        return [roc_auc_score(labels[rows, f], scores[rows, f]) for f in findings]

    aurocs = torch.tensor([roc_auc_score(labels[:, f], scores[:, f]) for f in findings], dtype=torch.float64)
    peer.require_close(f"{name}, AUROC", aurocs, given["auroc"], 1e-12)
    # 95 % of normally distributed values lie within 3.92 standard deviations; of so many cells they are known to 4 %.
    widths = 3.92 * np.std([resample() for _ in range(TIMED)], axis=0, ddof=1).mean() / (high - low).mean()
    if not 0.8 <= widths <= 1.25:
        sys.exit(f"{name}: intervals {widths:.2f} times as wide as ours: nothing was timed")
    results.measure({name: lambda: [resample() for _ in range(TIMED)]})


def retrieval(arguments, results):
    for items in (100, 1000):
        given = peer.load(arguments.files, f"metrics_{items}.io")
        scores, relevant = given["scores"].flatten(), given["relevant"].flatten().to(torch.int64)
        indexes = torch.arange(len(given["scores"])).repeat_interleave(items)
        work = {f"map_at_10/{items}/torchmetrics": (RetrievalMAP, 10, "map_at_10"),
                f"tied_ndcg/{items}/10/torchmetrics": (RetrievalNormalizedDCG, 10, "ndcg_at_10")}
        if items == 100:
            work["tied_ndcg/100/100/torchmetrics"] = (RetrievalNormalizedDCG, None, "ndcg_at_100")
        actions = {}
        for name, (kind, k, figure) in work.items():
            def evaluate(kind=kind, k=k):
                metric = kind(top_k=k)
                metric.update(scores, relevant, indexes=indexes)
                return metric.compute()

            peer.require_close(name, evaluate().reshape(1), given[figure], 1e-5)
            actions[name] = evaluate
        results.measure(actions)


def main():
    arguments = peer.parser(__doc__.splitlines()[0]).parse_args()
    results = peer.Results(arguments, sklearn=sklearn.__version__, torchmetrics=torchmetrics.__version__,
                           torch=torch.__version__, threads=torch.get_num_threads())
    auroc_bootstrap(arguments, results)
    retrieval(arguments, results)


if __name__ == "__main__":
    main()
