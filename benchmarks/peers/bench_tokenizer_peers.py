#!/usr/bin/env python3
"""The reports of bench_tokenizer through open_clip's SimpleTokenizer, on one thread.

    python3 -m venv venv && venv/bin/pip install torch open_clip_torch
    DAUG_REPORTS=/tmp/reports.txt build/benchmarks/bench_tokenizer
    OMP_NUM_THREADS=1 venv/bin/python benchmarks/peers/bench_tokenizer_peers.py /tmp/reports.txt

Compare with encode_77/open_clip:1 (rows of 77 ids) and tokenize_each/open_clip:1 (all ids), run just before or after. The first
round fills the tokenizer's own memory of words; it is printed apart, and the median is of those after it.
"""

import argparse
import time

import open_clip
from open_clip.tokenizer import SimpleTokenizer


def rounds(action, repeats):
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return times[0], sorted(times[1:])[repeats // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", help="a text a line, as bench_tokenizer writes them")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with open(arguments.reports, encoding="utf-8") as file:
        texts = file.read().splitlines()
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    work = {
        "encode_77": lambda tokenizer: tokenizer(texts, context_length=77),
        "tokenize_each": lambda tokenizer: [tokenizer.encode(text) for text in texts],
    }
    for name, action in work.items():
        tokenizer = SimpleTokenizer()
        first, median = rounds(lambda: action(tokenizer), arguments.repeats)
        print(f"{name} (open_clip {open_clip.__version__}): {len(texts)} reports, {megabytes:.2f} MB: first {first:.3f} s, "
              f"then {median:.3f} s, {megabytes / median:.2f} MB/s")


if __name__ == "__main__":
    main()
