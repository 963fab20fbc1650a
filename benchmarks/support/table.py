#!/usr/bin/env python3
"""Pairs of benchmarks as one Markdown table, and the same as JSON.

    table.py TABLE OUT RUNS.json... [--title TEXT] [--note TEXT] [--check TEXT]...    writes OUT.md and OUT.json, prints the table

RUNS are files of Google Benchmark, repetitions included, or of benchmarks/peers in the same form. Files whose names agree up
to the first dot were written in one run: a benchmark that is in several has the repetitions of all, and pairs are made among
them alone; of runs that have the same line the last named counts. Without any there is a title with its note alone. Every row
of TABLE (see TABLES) whose two sides are there becomes a line, and one without another side in any case; figures are medians
over the repetitions (fewer than FEWEST are marked), and `ratio` is their time / our time: above 1 we are faster. A line misses
what its row asks of ratio or bytes a second, or its bound on memory where it has one; the table then says "missed". A file that
cannot be read is named in the table, and makes the program fail once that is written.
"""

import argparse
import json
import pathlib
import re
import statistics
import sys
from dataclasses import dataclass


@dataclass
class Row:
    """One pair, or as many as `ours` matches. `theirs` are templates of its groups; the fastest of them counts.

    must and aim are ratios; on machines with AMX those of `amx` (must, aim) hold, with AVX-512 those of `avx512`. With
    `most_error` a line is met only by results whose error, ours, is known and at most that.
    `aim_rate` is a part of the machine's rate that is aimed at, that of copying unless `aim_of` names another;
    `must_bytes` are bytes a second.
    Neither these nor times that are merely to be known need anybody beside ours (theirs: none). Their time is multiplied
    by `factor` first. With `recall` one pair is made for each value of the groups: of ours the fastest that reaches it,
    of theirs likewise or, where none does, the nearest to it.
    """

    ours: str
    theirs: tuple
    against: str
    must: float = None
    aim: float = None
    avx512: tuple = None
    amx: tuple = None
    aim_rate: float = None
    aim_of: str = "copy"
    must_bytes: float = None
    factor: float = 1
    recall: float = None
    most_error: float = None


FORWARD = r"forward/unet_(\d+)/(\d+)"
NCHW, LAST, COMPILED = (rf"forward/unet_\1/\2/pytorch_{how}" for how in ("nchw", "channels_last", "compile"))
TILED = r"hybrid_loss/clip_tiled/B:"
EAGER = tuple(rf"\1/{how}/\2" for how in ("pytorch", "pytorch_nchw", "pytorch_native_norms"))
HNSWLIB = tuple(rf"\1/hnswlib/breadth:{breadth}" for breadth in (32, 64, 128, 256, 512, 1024))

TABLES = {
    "gpu": [
        Row(r"(adamw|group_norm_silu(?:_gradient)?|residual_add)/fused/(.+)", (r"\1/aten/\2",), "LibTorch's operators"),
        Row(r"(solver_update)/fused/(.+/8)", (r"\1/aten/\2",), "LibTorch's operators, in the cache"),
        Row(r"(solver_update)/fused/(?!.*/8$)(.+)", (r"\1/aten/\2",), "LibTorch's operators", 5, aim_rate=0.85),
        Row(r"(.+)/graph/(.+)", (r"\1/eager/\2",), "the plain call or step, without a CUDA graph"),
        Row(r"(unet_256)/graph/(.+)", EAGER, "guided-diffusion's, PyTorch eager, best of its forms", 1.5,
            most_error=2e-2),
        Row(r"(unet_256)/graph/(.+)", (r"\1/compile/\2", r"\1/compile_max_autotune/\2"),
            "guided-diffusion's, torch.compile, better of default and max-autotune", 0.95, 1.15, most_error=2e-2),
        Row(r"unet_256/graph/(.+)", (), "the rate of large products", aim_rate=0.35, aim_of="products"),
        Row(r"(unet_64)/graph/(.+)", EAGER, "guided-diffusion's, PyTorch eager, best of its forms", 3),
        Row(r"targets_256/graph/(.+)", (r"targets_256/pytorch_one_target/\1",),
            "13 times guided-diffusion's, PyTorch eager, one target from an inversion of its own", 8, 15, factor=13),
        Row(r"training_256/trainer/(.+)", (r"training_256/pytorch/\1",), "PyTorch eager, autocast, fused AdamW", 1.2),
        Row(r"training_256/trainer/(.+)", (r"training_256/compile/\1",), "torch.compile, autocast, fused AdamW", 0.9,
            1.05),
        # 499 steps up and as many down for each of seven targets, of which ten each are measured.
        *(Row(rf"maps_256/{kind}/graph/(.+)", (r"maps_256/published_10_steps/\1",),
              "the published loop, PyTorch eager, 10 of 499 steps of one of 7 targets, times 349.3", must,
              factor=7 * 499 / 10)
          for kind, must in (("evidence", 100), ("difference", 50))),
        Row(r"hybrid_loss/fused/(.+)", (r"hybrid_loss/aten/\1",), "the same tiles of LibTorch's operators", most_error=2e-2),
        Row(r"hybrid_loss/fused/(.+)", (), "the rate of large products", aim_rate=0.55, aim_of="products"),
        Row(r"(hybrid_loss)/fused/(bfloat16/32768)", (r"\1/eager/\2",), "whole matrices, LibTorch eager", 2),
        Row(r"(hybrid_loss)/fused/(.+/(?:8192|65536))", (r"\1/eager/\2",), "whole matrices, LibTorch eager"),
        Row(r"(hybrid_loss/class)/fused/(.+)", (r"\1/eager/\2",), "whole matrices, LibTorch eager, class term included"),
        Row(r"encoder_maps/fused/(.+/(?:min_max|quantile)/.+)", (r"encoder_maps/pytorch/\1",), "PyTorch eager, float32", 10,
            aim_rate=0.8),
        Row(r"encoder_maps/fused/(.+/(?:min_max|quantile)/.+)", (r"encoder_maps/aten/\1",),
            "LibTorch's operators as on the CPU"),
        # 98 products a pixel: what is aimed at is no rate of memory.
        Row(r"encoder_maps/fused/(.+/wide_blur/.+)", (r"encoder_maps/pytorch/\1",), "PyTorch eager, float32, sigma 8",
            2),
        Row(r"encoder_maps/fused/(.+/wide_blur/.+)", (r"encoder_maps/aten/\1",), "LibTorch's operators as on the CPU"),
        # Nor here, with ten dependent reads of a table a pixel.
        Row(r"encoder_maps/fused/(.+/calibrated/.+)", (r"encoder_maps/aten/\1",), "LibTorch's operators as on the CPU", 2),
        Row(r"resize_augment/fused/(.+)", (r"resize_augment/aten/\1",), "LibTorch's operators in float64",
            aim_rate=0.8),
        Row(r"resize_augment/fused/(.+)", (r"resize_augment/torchvision/\1",), "torchvision v2 on the device", 2),
        Row(r"(hybrid_loss)/fused/(bfloat16/32768)", (r"\1/pytorch/\2",), "PyTorch, eager", 2),
        Row(r"(hybrid_loss)/fused/(bfloat16/32768)", (r"\1/compile/\2",), "torch.compile", 1.5),
        Row(r"(hybrid_loss)/fused/(bfloat16/32768)", (r"\1/inf_cl/\2",), "Inf-CL's kernel", 1.5),
        Row(r"search/fused/(.+)", (r"search/faiss/\1",), "FAISS, flat index on the device", 2),
        Row(r"search/fused/(.+)", (r"search/aten/\1",), "LibTorch's matmul and topk", 2),
        Row(r"search/fused/(.+)", (r"search/product/\1",), "the product alone", None, 0.4),
        Row(r"search/fused/int8/(.+)", (r"search/aten/bfloat16/\1",), "LibTorch's matmul and topk of bfloat16"),
        Row(r"search/streamed/(.+)", (r"search/fused/\1",), "itself, items on the device"),
    ],
    "cpu": [
        # Translator and maps.
        Row(FORWARD, (r"forward/unet_\1_plain/\2",), "plain operators, NCHW", 1.2, 1.5, avx512=(1.4, 2),
            most_error=1e-5),
        Row(FORWARD, (NCHW, LAST), "PyTorch, best of eager NCHW and channels_last", 1.1, most_error=1e-5),
        Row(FORWARD, (NCHW, LAST, COMPILED), "PyTorch, best of eager and torch.compile", 0.95, 1.2, most_error=1e-5),
        Row(r"training/unet_(\d+)/workers:2", (r"training/unet_\1_plain/workers:1",), "plain operators, NCHW", 1.2,
            1.5),
        Row(r"training/unet_(\d+)/workers:2", (r"training/unet_\1/workers:1",), "one worker, two intra-op threads",
            1.2, 1.5),
        Row(r"training/unet_(\d+)_bf16/workers:2", (r"training/unet_\1/workers:2",), "ours, float32"),
        Row(r"forward/unet_(\d+)_bf16/(\d+)", (r"forward/unet_\1_plain/\2",), "plain operators, NCHW, float32",
            amx=(4.5, 8), most_error=2e-2),
        Row(r"group_norm_silu(_in_place)?/(nchw|channels_last)_fused/(.+)", (r"group_norm_silu\1/\2_operators/\3",),
            "two operators, same layout", 1.5, aim_rate=0.9),
        Row(r"group_norm_silu_gradient/(\w+)_fused/(.+)", (r"group_norm_silu_gradient/\1_operators/\2",),
            "operators, forward and backward"),
        Row(r"conv3x3/(\w+)_fused/(.+)", (r"conv3x3/\1_operators/\2",), "operators"),
        Row(r"conv3x3_training/\w+_fused/(.+)",
            (r"conv3x3_training/nchw_operators/\1", r"conv3x3_training/channels_last_operators/\1"),
            "operators, best of both layouts, with gradients"),
        Row(r"solver_update/(\w+)_fused/(.+)", (r"solver_update/\1_operators/\2",), "operators", 2.5, aim_rate=0.8),
        Row(r"encoder_maps/(\w+)_fused/(.+)", (r"encoder_maps/\1_operators/\2",), "operators", 10, 40),
        Row(r"targets/shared/(.+)", (r"targets/loop/\1",), "a loop over targets", 1.4),
        Row(r"targets/interval/(.+)", (r"targets/loop/\1",), "a loop over targets, guided everywhere", None, 1.8),
        Row(r"map_kind/score_difference/(.+)", (r"map_kind/difference/\1",), "difference maps, contrast guidance",
            12, 20),
        Row(r"map_kind/evidence/(.+)", (r"map_kind/difference/\1",), "difference maps, contrast guidance", 8, 20),
        # Encoders and loss.
        *(Row(TILED + f"({batch})", (theirs,), against, must, 1.6, avx512=(must, 2.5))
          for batch, must in ((4096, 1.3), (16384, 1.4))
          for theirs, against in ((r"run/clip_two_products/B:\1", "two products and cross-entropies"),
                                  (r"clip_loss/B:\1/pytorch", "PyTorch, open_clip's loss"))),
        Row(TILED + "(4096|16384)", (r"run/clip_one_product/B:\1",), "one product, logsumexp by hand", 1.1),
        Row(TILED + "65536", (TILED + "16384",), "itself at B:16384, times 16", 1 / 1.3, factor=16),
        Row(r"forward_16/(vit_b_32/maps:\d)", (r"forward_16/\1/pytorch",), "PyTorch eager, open_clip", 1.0, 1.2),
        Row(r"forward_16/((?:resnet|densenet)\w+/maps:\d)", (r"forward_16/\1/pytorch",), "PyTorch eager, torchvision"),
        Row(r"(encode_77|tokenize_each)/open_clip:1", (r"\1/open_clip:1/pytorch",), "open_clip's SimpleTokenizer", 20,
            50),
        Row(r"(?:encode_77|tokenize_each|tokenize_beyond_ascii|tokenize_broken/\w+)/open_clip:1", (), "1 MB/s",
            must_bytes=1e6),
        # Index and metrics.
        *(Row(rf"search/storage:3/batch:{batch}/threads:2",
              tuple(rf"search/batch:{batch}/threads:2/faiss_{way}" for way in ("one_by_one", "blas")),
              "FAISS flat, better of its two ways", must, aim, amx=amx)
          for batch, must, aim, amx in ((1, 1.2, 3, (3, 9)), (16, 1.3, 2, (6, 6)), (64, 1.1, 1.5, (4, 8)),
                                        (1000, 0.95, 1.5, (4, None)))),
        *(Row(f"opening/alone/items:{items}", (f"opening/items:{items}/faiss_read",), "faiss.read_index", must)
          for items, must in ((100_000, None), (1_000_000, 100))),
        Row(r"opening/alone/items:(\d+)", (r"opening/items:\1/faiss_mapped",), "faiss.read_index, mapped"),
        Row(r"(approximate)/ours/breadth:\d+", HNSWLIB, "hnswlib, recall 0.995", 1.0, 1.3, recall=0.995),
        Row(r"(filtered/(?:50|10)%)/ours/breadth:\d+", HNSWLIB, "hnswlib with a filter, recall 0.99", recall=0.99),
        Row(r"(filtered/(?:1|0\.1)%)/ours/breadth:\d+", HNSWLIB, "hnswlib with a filter, recall 0.99", 5, recall=0.99),
        Row(r"by_size/batch:\d+/items:\d+", (), "itself at other sizes"),
        Row(r"during_changes/changes:\d+", (), "itself under other loads"),
        Row(r"map_at_10/(\d+)", (r"map_at_10/\1/torchmetrics",), "torchmetrics RetrievalMAP", 50),
        Row(r"tied_ndcg/(\d+)/(\d+)", (r"tied_ndcg/\1/\2/torchmetrics",), "torchmetrics RetrievalNormalizedDCG", 50),
        Row(r"auroc_bootstrap/(\d+)", (r"auroc_bootstrap/\1/sklearn_20_resamples",),
            "a loop over scikit-learn's, 20 resamples times 50", 50, factor=50),
    ],
}
FEWEST = {"gpu": 20}  # repetitions of a median
RATES = {"sgemm_GFLOPs": "sgemm {:.0f} GFLOP/s", "copy_GBs": "copy {:.1f} GB/s",
         "products_TFLOPs": "large products {:.0f} TFLOP/s"}  # of the machine; those that depend on threads: the largest
SECONDS = {"s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
MORE = {"of_products": "{:.2f} of the rate of large products", "bytes_a_row": "{:.0f} bytes a row",
        "p50_ms": "median {:.3f} ms", "p99_ms": "99th percentile {:.3f} ms",
        "changes": "{:.0f} changes a second",
        "images_a_second": "{:.2f} images a second"}  # what a line may say besides
COUNTERS = ("of_sgemm", "of_copy", "error", "recall", "peak_MB", "bound_MB", "bytes_per_second", *RATES, *MORE)


class Runs:
    """Repetitions by benchmark of files that were written in one run, with what they say of the machine."""

    def __init__(self, paths):
        self.context, self.times, self.counters, self.failed, self.unreadable = {}, {}, {}, {}, []
        settings = re.compile(r"/(min_time:[\d.]+|iterations:\d+|real_time|manual_time)(?=/|$)")
        for path in paths:
            try:
                file = json.loads(path.read_text())
                context, benchmarks = file["context"], file["benchmarks"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.failed[path.name] = f"the file cannot be read ({error!r})"
                self.unreadable.append(path.name)
                continue
            for key, value in context.items():
                if isinstance(value, (str, int)) and key not in ("host_name", "executable"):
                    self.context.setdefault(key, set()).add(str(value))
            for run in benchmarks:
                if run.get("run_type") == "iteration":
                    self.add(settings.sub("", run["run_name"]), run)

    def add(self, name, run):
        if run.get("error_occurred"):
            self.failed[name] = run["error_message"]
            return
        self.times.setdefault(name, []).append(run["real_time"] * SECONDS[run["time_unit"]])
        for counter in COUNTERS:
            if counter in run:
                self.counters.setdefault(name, {}).setdefault(counter, []).append(run[counter])

    def seconds(self, name):
        return statistics.median(self.times[name])

    def rates(self):
        """What the machine reached, where it was measured."""
        known = {rate: [self.counter(name, rate) for name in self.counters] for rate in RATES}
        return {rate: max(filter(None, values)) for rate, values in known.items() if any(values)}

    def counter(self, name, counter):
        values = self.counters.get(name, {}).get(counter)
        return statistics.median(values) if values else None


def fastest_at(recall, matches, runs):
    """Of matches with the same groups the fastest that reaches a recall."""
    best = {}
    for match in sorted(matches, key=lambda match: runs.seconds(match[0])):
        if runs.counter(match[0], "recall") >= recall:
            best.setdefault(match.groups(), match)
    for match in matches:
        if match.groups() not in best:
            runs.failed[match[0]] = f"recall {runs.counter(match[0], 'recall'):.4f}, must be {recall}"
    return best.values()


def within(error, most):
    """Whether an error may be; one that is unknown or no number may not."""
    return most is None or (error is not None and error <= most)


def lines_of(table, runs):
    """Lines by the place of their row in the table and what is measured."""
    sets = " ".join(runs.context.get("instruction_sets", ()))
    for place, row in enumerate(TABLES[table]):
        matches = [match for match in (re.fullmatch(row.ours, name) for name in runs.times) if match]
        for match in fastest_at(row.recall, matches, runs) if row.recall else matches:
            name = match[0]
            theirs = [other for other in (match.expand(template) for template in row.theirs) if other in runs.times]
            if row.theirs and not theirs:
                continue
            if row.recall:
                most = min(row.recall, max(runs.counter(other, "recall") for other in theirs))
                theirs = [other for other in theirs if runs.counter(other, "recall") >= most]
            best = min(theirs, key=runs.seconds, default=None)
            must, aim = next((ratios for part, ratios in (("amx", row.amx), ("avx512f", row.avx512))
                              if ratios and part in sets), (row.must, row.aim))
            ours_time, theirs_time = runs.seconds(name), best and row.factor * runs.seconds(best)
            ratio = best and theirs_time / ours_time
            line = {"work": name, "against": row.against, "peer": best, "ours_s": ours_time, "theirs_s": theirs_time,
                    "ratio": ratio, "must": must, "aim": aim, "aim_rate": row.aim_rate, "aim_of": row.aim_of,
                    "must_bytes": row.must_bytes, "most_error": row.most_error,
                    "repetitions": min(len(runs.times[side]) for side in (name, best) if side)}
            line.update({counter: runs.counter(name, counter) for counter in COUNTERS})
            line["met"] = None if must is None else ratio >= must and within(line["error"], row.most_error)
            line["their_recall"] = runs.counter(best, "recall")
            speed, peak = line["bytes_per_second"], line["peak_MB"]
            line["bytes_met"] = None if row.must_bytes is None else speed is not None and speed >= row.must_bytes
            line["memory_met"] = None if peak is None else peak <= line["bound_MB"]
            line["few"] = line["repetitions"] < FEWEST.get(table, 0)
            yield (place, name), line


def machine_of(context, rates):
    """What figures mean nothing without, in words."""
    known = ("instruction_sets", "hardware_threads", "intra_op_threads", "libtorch", "libtorch_kernels",
             "kernel_instruction_set", "search_instruction_set", "hnswlib_arithmetic", "torch", "threads", "open_clip",
             "torchvision", "faiss", "sklearn", "torchmetrics", "python", "torch.compile", "cuda", "sizes")
    parts = [f"{key.replace('_', ' ')} {' / '.join(context[key])}" for key in known if key in context]
    parts += [text.format(rates[counter]) for counter, text in RATES.items() if counter in rates]
    return "; ".join(parts)


def figure(value, digits=2):
    return "" if value is None else f"{value:.{digits}f}"


def judged(text, met):
    return text + (" missed" if met is False else "")


def markdown(title, note, context, rates, lines, failed, checks):
    result = [f"# {title}", "",
              ". ".join(filter(None, [note, machine_of(context, rates), min(context.get("date", ["no figures"]))])) + ".", "",
              "Medians of n repetitions; ratio: their time / ours; of sgemm, of copy: the part of those rates reached (more "
              "than 1 of copying by what fits into a cache); error: of the most allowed; few: fewer repetitions than a median "
              "should have.", "",
              "| work | against | ours, ms | theirs, ms | ratio | must | aim | of sgemm | of copy | MB/s | error | recall | "
              "memory, MB | n | more |", "|" + "---|" * 15]
    for line in lines:
        must = judged(figure(line["must"]), None if line["must"] is None else line["ratio"] >= line["must"])
        aim = figure(line["aim"]) if line["aim_rate"] is None else f"{line['aim_rate']:.0%} of {line['aim_of']}"
        error = "" if line["error"] is None else f"{line['error']:.1e}"
        if line["most_error"] is not None:
            missed = "" if within(line["error"], line["most_error"]) else " missed"
            error = f"{error or 'unknown'} of {line['most_error']:.0e}{missed}"
        recall = "" if line["recall"] is None else f"{line['recall']:.3f} / {line['their_recall']:.3f}"
        memory = "" if line["peak_MB"] is None else f"{line['peak_MB']:.0f} of {line['bound_MB']:.0f}"
        theirs = None if line["theirs_s"] is None else 1e3 * line["theirs_s"]
        speed = ""
        if line["must_bytes"] is not None:
            speed = f"{(line['bytes_per_second'] or 0) / 1e6:.2f} of {line['must_bytes'] / 1e6:.0f}"
        cells = [line["work"], line["against"], figure(1e3 * line["ours_s"], 3), figure(theirs, 3), figure(line["ratio"]),
                 must, aim, figure(line["of_sgemm"]), figure(line["of_copy"]), judged(speed, line["bytes_met"]), error, recall,
                 judged(memory, line["memory_met"]), f"{line['repetitions']}{' few' if line['few'] else ''}",
                 ", ".join(text.format(line[counter]) for counter, text in MORE.items() if line[counter] is not None)]
        result.append("| " + " | ".join(cells) + " |")
    result += [f"\nNot run: {name}: {reason}." for name, reason in failed.items()]
    result += [f"\nChecked: {check}." for check in checks]
    return "\n".join(result) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("out", help="path without its ending")
    parser.add_argument("runs", nargs="*", type=pathlib.Path)
    parser.add_argument("--title", default="Speed")
    parser.add_argument("--note", default="")
    parser.add_argument("--check", action="append", default=[], dest="checks", help="what was found besides figures")
    arguments = parser.parse_args()
    groups = {}
    for path in arguments.runs:
        groups.setdefault(path.name.split(".")[0], []).append(path)
    last, failed, context, rates, unreadable = {}, {}, {}, {}, []
    for runs in map(Runs, groups.values()):
        last.update(lines_of(arguments.table, runs))
        failed = {name: reason for name, reason in failed.items() if name not in runs.times}
        failed.update(runs.failed)
        for counter, rate in runs.rates().items():
            rates[counter] = max(rate, rates.get(counter, 0))
        unreadable += runs.unreadable
        for key, values in runs.context.items():
            context[key] = sorted(values | set(context.get(key, ())))
    lines = [last[key] for key in sorted(last, key=lambda key: key[0])]  # rows stay together, whichever runs they are from
    text = markdown(arguments.title, arguments.note, context, rates, lines, failed, arguments.checks)
    pathlib.Path(arguments.out + ".md").write_text(text)
    pathlib.Path(arguments.out + ".json").write_text(
        json.dumps({"context": context, "rows": lines, "not_run": failed, "checks": arguments.checks}, indent=1) + "\n")
    print(text)
    if unreadable:
        sys.exit(f"table.py: cannot be read: {', '.join(unreadable)}")


if __name__ == "__main__":
    main()
