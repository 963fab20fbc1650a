#!/usr/bin/env python3
"""A line of benchmarks/support/table.py is met by ratio, error, bytes a second and memory, and says what it misses."""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "peers"))

import peer  # noqa: E402: from there

TABLE = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "support" / "table.py"
FLOAT, PLAIN, HALF = "forward/unet_64/8", "forward/unet_64_plain/8", "forward/unet_64_bf16/8"
STEP = "solver_update/contrast_{}/threads:1"
TRAINING = "training/unet_64/workers:{}"
WIDE, TILES = "avx2 avx512f avx512bf16", "avx2 avx512f avx512bf16 amx_bf16"


def run(name, milliseconds, error=None, **counters):
    """One repetition as Google Benchmark writes it."""
    result = {"run_type": "iteration", "run_name": name + "/min_time:5.000/real_time", "real_time": milliseconds,
              "time_unit": "ms"}
    return {**result, **counters} if error is None else {**result, **counters, "error": error}


def lines_of(folder, *runs, sets="avx2", table="cpu"):
    """Lines of the table of these runs, each as JSON and as the cells of Markdown."""
    file = folder / "runs.json"
    file.write_text(json.dumps({"context": {"date": "2026-01-01", "instruction_sets": sets}, "benchmarks": runs}))
    subprocess.run([sys.executable, TABLE, table, folder / "table", file], check=True, stdout=subprocess.DEVNULL)
    rows = json.loads((folder / "table.json").read_text())["rows"]
    texts = [line for line in (folder / "table.md").read_text().splitlines()
             if any(line.startswith(f"| {row['work']} ") for row in rows)]
    return [(row, [cell.strip() for cell in text.split("|")]) for row, text in zip(rows, texts, strict=True)]


def line_of(folder, *runs, **settings):
    """The only line."""
    (line,) = lines_of(folder, *runs, **settings)
    return line


def check_device_lines(folder):
    """Works on a device: against which peers, whose work may be a part, and what is asked of them."""
    unet, small, training = "unet_256/{}/bfloat16/26", "unet_64/{}/float32/1", "training_256/{}/bfloat16/16"
    maps, targets = "maps_256/{}/bfloat16/4", "targets_256/{}/bfloat16/evaluations:2"
    loss, search, update = "hybrid_loss/{}/bfloat16/32768", "search/{}/float32/64", "solver_update/{}/float32/{}"
    planes, changed = "encoder_maps/{}/float32/min_max/64", "resize_augment/{}/float32/256"
    blurred = "encoder_maps/{}/float32/wide_blur/64"
    steps, doubled = "denoiser_training_64/{}/bfloat16/16", "residual_add/{}/bfloat16/doubled/26/128/128"
    # ours, their times by way, our time; of each line the peer, ratio, what it must and should be, whether that is met
    cases = [
        (unet.format("graph"), {"pytorch": 20, "pytorch_native_norms": 15, "compile": 9, "compile_max_autotune": 9.5},
         unet, 10,
         [("pytorch_native_norms", 1.5, "1.50", "", True), ("compile", 0.9, "0.95 missed", "1.15", False),
          (None, None, "", "35% of products", None)]),
        (small.format("graph"), {"pytorch": 40, "pytorch_nchw": 29}, small, 10,
         [("pytorch_nchw", 2.9, "3.00 missed", "", False)]),
        (targets.format("graph"), {"pytorch_one_target": 10}, targets, 13,
         [("pytorch_one_target", 10, "8.00", "15.00", True)]),
        (training.format("trainer"), {"pytorch": 11, "compile": 10}, training, 10,
         [("pytorch", 1.1, "1.20 missed", "", False), ("compile", 1, "0.90", "1.05", True)]),
        (steps.format("graph"), {"eager": 14}, steps, 10, [("eager", 1.4, "", "", None)]),
        (doubled.format("fused"), {"aten": 25}, doubled, 10, [("aten", 2.5, "", "", None)]),
        (maps.format("evidence/graph"), {"published_10_steps": 10}, maps, 34.93,
         [("published_10_steps", 100, "100.00", "", True)]),
        (maps.format("difference/graph"), {"published_10_steps": 10}, maps, 69.87,
         [("published_10_steps", 49.993, "50.00 missed", "", False)]),
        (update.format("fused", 512), {"aten": 45}, update.replace("/{}", "/{{}}", 1).format(512), 10,
         [("aten", 4.5, "5.00 missed", "85% of copy", False)]),
        (update.format("fused", 8), {"aten": 45}, update.replace("/{}", "/{{}}", 1).format(8), 10, [("aten", 4.5, "", "", None)]),
        (loss.format("fused"), {"aten": 30, "eager": 21, "pytorch": 19, "compile": 16, "inf_cl": 14}, loss, 10,
         [("aten", 3, "", "", None), (None, None, "", "55% of products", None), ("eager", 2.1, "2.00", "", True),
          ("pytorch", 1.9, "2.00 missed", "", False), ("compile", 1.6, "1.50", "", True),
          ("inf_cl", 1.4, "1.50 missed", "", False)]),
        ("hybrid_loss/class/fused/bfloat16/32768", {"eager": 21}, "hybrid_loss/class/{}/bfloat16/32768", 10,
         [("eager", 2.1, "", "", None)]),
        (planes.format("fused"), {"pytorch": 99, "aten": 200}, planes, 10,
         [("pytorch", 9.9, "10.00 missed", "80% of copy", False), ("aten", 20, "", "", None)]),
        (blurred.format("fused"), {"pytorch": 19, "aten": 40}, blurred, 10,
         [("pytorch", 1.9, "2.00 missed", "", False), ("aten", 4, "", "", None)]),
        (changed.format("fused"), {"aten": 50, "torchvision": 21}, changed, 10,
         [("aten", 5, "", "80% of copy", None), ("torchvision", 2.1, "2.00", "", True)]),
        (search.format("fused"), {"faiss": 19, "aten": 21, "product": 5}, search, 10,
         [("faiss", 1.9, "2.00 missed", "", False), ("aten", 2.1, "2.00", "", True), ("product", 0.5, "", "0.40", None)]),
        (search.format("streamed"), {"fused": 2}, search, 10, [("fused", 0.2, "", "", None)]),
    ]
    for name, theirs, names, our_time, lines in cases:
        expected = [(peer and names.format(peer), ratio, must, aim, met) for peer, ratio, must, aim, met in lines]
        runs = [run(names.format(way), time) for way, time in theirs.items()]
        actual = [(row["peer"], row["ratio"] and round(row["ratio"], 3), cells[6], cells[7], row["met"])
                  for row, cells in lines_of(folder, run(name, our_time, 1e-2), *runs, table="gpu")]
        if actual != expected:
            sys.exit(f"{name}: expected {expected}, got {actual}")
    row, cells = line_of(folder, run(maps.format("evidence/graph"), 10, images_a_second=13.2),
                         run(maps.format("published_10_steps"), 10), table="gpu")
    if cells[15] != "13.20 images a second":
        sys.exit(f"a line of maps does not say how many images a second: {cells[15]}")
    if cells[14] != "1 few" or not row["few"]:
        sys.exit(f"a median of one is not marked: {cells[14]}")
    many = [run(name, time) for name, time in ((maps.format("evidence/graph"), 1), (maps.format("published_10_steps"), 1))]
    row, cells = line_of(folder, *(20 * many), table="gpu")
    if cells[14] != "20" or row["few"]:
        sys.exit(f"a median of twenty is marked: {cells[14]}")
    # Numbers of int8 stand beside the nearest product of matrices that selects, and beside their own.
    whole = "search/{}/int8/64"
    lines = lines_of(folder, run(whole.format("fused"), 10), run(whole.format("product"), 5),
                     run("search/aten/bfloat16/64", 30), table="gpu")
    if [(row["peer"], row["aim"]) for row, _ in lines] != [(whole.format("product"), 0.4), ("search/aten/bfloat16/64", None)]:
        sys.exit(f"int8 stands beside {[row['peer'] for row, _ in lines]}")
    # The loss's error and memory are held to their bounds by the line of its tiles.
    large = "hybrid_loss/{}/bfloat16/65536"
    for error, peak, shown in ((1e-2, 1500, ("1.0e-02 of 2e-02", "1500 of 2000")),
                               (3e-2, 2500, ("3.0e-02 of 2e-02 missed", "2500 of 2000 missed"))):
        lines = lines_of(folder, run(large.format("fused"), 1, error, peak_MB=peak, bound_MB=2000),
                         run(large.format("aten"), 2), table="gpu")
        if (lines[0][1][11], lines[0][1][13]) != shown:
            sys.exit(f"expected {shown}, got {lines[0][1]}")


def check_runs(folder):
    """Pairs are of one run, of several runs the last counts; rates and what was left out are in the head."""
    def file(name, *runs):
        (folder / name).write_text(json.dumps({"context": {"date": "2026-01-01"}, "benchmarks": runs}))
        return folder / name

    def table(*files):
        subprocess.run([sys.executable, TABLE, "gpu", folder / "runs", *files], check=True, stdout=subprocess.DEVNULL)
        return json.loads((folder / "runs.json").read_text()), (folder / "runs.md").read_text()

    ours, theirs = "adamw/fused/float32/8", "adamw/aten/float32/8"
    first = file("1-kernels.adamw.json", run(ours, 2), run(theirs, 6), run("copy_1GB", 1, copy_GBs=4000),
                 run("products_8192", 1, products_TFLOPs=790))
    alone = file("2-kernels.adamw.json", run(ours, 1))
    both = file("3-kernels.adamw.json", run(ours, 1)), file("3-kernels.peers.adamw.json", run(theirs, 4))
    for files, ratio in (((first,), 3), ((first, alone), 3), ((first, alone, *both), 4)):
        found, text = table(*files)
        if [row["ratio"] for row in found["rows"]] != [ratio]:
            sys.exit(f"{[file.name for file in files]}: expected {ratio}, got {found['rows']}")
        if "copy 4000.0 GB/s; large products 790 TFLOP/s" not in text:
            sys.exit(f"rates of the machine are not told:\n{text}")
    if table(alone)[0]["rows"]:
        sys.exit("there is a line without another side")
    results = peer.Results(argparse.Namespace(out=folder / "4-kernels.peers.adamw.json", repetitions=1))
    results.left_out(theirs, ImportError("No module named 'faiss'\nand more"))
    results.left_out("search/faiss/float32/64", "not asked for")
    found, text = table(first, results.arguments.out)
    if found["not_run"] != {theirs: "ImportError: No module named 'faiss'", "search/faiss/float32/64": "not asked for"}:
        sys.exit(f"what was left out is not told: {found['not_run']}")
    if table(results.arguments.out, first)[0]["not_run"] != {"search/faiss/float32/64": "not asked for"}:
        sys.exit("what was measured later is still left out")


def main():
    # ours, theirs, our time, theirs, our error; what it must have become, the cells of ratio and error; instruction sets,
    # if not AVX2.
    cases = [
        (FLOAT, PLAIN, 1, 2, 9e-6, True, "1.20", "9.0e-06 of 1e-05"),
        (FLOAT, PLAIN, 1, 1.1, 9e-6, False, "1.20 missed", "9.0e-06 of 1e-05"),
        (FLOAT, PLAIN, 1, 2, 2e-5, False, "1.20", "2.0e-05 of 1e-05 missed"),
        (FLOAT, PLAIN, 1, 2, float("nan"), False, "1.20", "nan of 1e-05 missed"),
        (FLOAT, PLAIN, 1, 2, None, False, "1.20", "unknown of 1e-05 missed"),
        (FLOAT, PLAIN, 1, 1.3, 9e-6, False, "1.40 missed", "9.0e-06 of 1e-05", WIDE),
        (HALF, PLAIN, 1, 5, 1.9e-2, True, "4.50", "1.9e-02 of 2e-02", TILES),
        (HALF, PLAIN, 1, 5, 2.1e-2, False, "4.50", "2.1e-02 of 2e-02 missed", TILES),
        (HALF, PLAIN, 1, 4, 1.9e-2, False, "4.50 missed", "1.9e-02 of 2e-02", TILES),
        # Without AMX there is nothing that half types must reach.
        (HALF, PLAIN, 1, 2, 1.9e-2, None, "", "1.9e-02 of 2e-02", WIDE),
        (STEP.format("fused"), STEP.format("operators"), 1, 3, None, True, "2.50", ""),
        (STEP.format("fused"), STEP.format("operators"), 1, 2, None, False, "2.50 missed", ""),
        # Two one-thread workers beside one of two intra-op threads.
        (TRAINING.format(2), TRAINING.format(1), 1, 1.21, None, True, "1.20", ""),
        (TRAINING.format(2), TRAINING.format(1), 1, 1.19, None, False, "1.20 missed", ""),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for ours, theirs, our_time, their_time, error, met, must, shown, *sets in cases:
            row, cells = line_of(pathlib.Path(folder), run(ours, our_time, error), run(theirs, their_time),
                                 sets=sets[0] if sets else "avx2")
            expected = (ours, met, must, shown)
            actual = (row["work"], row["met"], cells[6], cells[11])
            if actual != expected:
                sys.exit(f"expected {expected}, got {actual}")
        check_device_lines(pathlib.Path(folder))
        check_runs(pathlib.Path(folder))
        # Where nothing could be run the table still says so.
        subprocess.run([sys.executable, TABLE, "gpu", pathlib.Path(folder) / "none", "--note", "FAILED: all",
                        "--check=memcheck: clean", "--check=racecheck: skipped"], check=True, stdout=subprocess.DEVNULL)
        if "FAILED: all" not in (pathlib.Path(folder) / "none.md").read_text():
            sys.exit("a table without runs lacks its note")
        none = json.loads((pathlib.Path(folder) / "none.json").read_text())
        if none["rows"]:
            sys.exit("a table without runs has rows")
        if none["checks"] != ["memcheck: clean", "racecheck: skipped"]:
            sys.exit(f"a table lacks what was checked: {none['checks']}")
        if "Checked: racecheck: skipped." not in (pathlib.Path(folder) / "none.md").read_text():
            sys.exit("a table does not say what was checked")
        # Nobody stands beside the tokenizer's bytes a second, and memory has a bound of its own.
        for name, rate, met, shown in (("encode_77", 1.5e6, True, "1.50 of 1"),
                                       ("tokenize_broken/mojibake_pieces", 9e5, False, "0.90 of 1 missed")):
            row, cells = line_of(pathlib.Path(folder), run(f"{name}/open_clip:1", 1, bytes_per_second=rate))
            expected, actual = (met, shown, None), (row["bytes_met"], cells[10], row["met"])
            if actual != expected:
                sys.exit(f"expected {expected}, got {actual}")
        for peak, met, shown in ((90, True, "90 of 100"), (101, False, "101 of 100 missed")):
            row, cells = line_of(pathlib.Path(folder), run("hybrid_loss/clip_tiled/B:16384", 1, peak_MB=peak, bound_MB=100),
                                 run("run/clip_one_product/B:16384", 2))
            expected, actual = (met, shown, True), (row["memory_met"], cells[13], row["met"])
            if actual != expected:
                sys.exit(f"expected {expected}, got {actual}")
        # Times that are merely to be known have what was counted besides in their last cell.
        for name, counters, shown in (
                ("by_size/batch:64/items:2000000", {"bytes_a_row": 2588.4}, "2588 bytes a row"),
                ("during_changes/changes:100", {"p50_ms": 2.5, "p99_ms": 4, "changes": 99.6},
                 "median 2.500 ms, 99th percentile 4.000 ms, 100 changes a second")):
            row, cells = line_of(pathlib.Path(folder), run(name, 3, **counters))
            expected, actual = (name, 3e-3, None, shown), (row["work"], row["ours_s"], row["met"], cells[15])
            if actual != expected:
                sys.exit(f"expected {expected}, got {actual}")


if __name__ == "__main__":
    main()
