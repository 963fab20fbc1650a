#!/usr/bin/env python3
"""The reports of bench_tokenizer through open_clip's SimpleTokenizer, on one thread.

    python3 -m venv venv && venv/bin/pip install torch safetensors open_clip_torch
    vocabulary=$(venv/bin/python benchmarks/peers/bench_tokenizer_peers.py --vocabulary)
    DAUG_VOCABULARY=$vocabulary DAUG_PEER_FILES=/tmp/peers build/benchmarks/bench_tokenizer
    DAUG_THREADS=1 venv/bin/python benchmarks/peers/bench_tokenizer_peers.py --files /tmp/peers

Compare with encode_77/open_clip:1 (rows of 77 ids) and tokenize_each/open_clip:1 (all ids), run just before or after. All ids
are compared with ours first. The first round fills the tokenizer's own memory of words; its time is printed, and the median
is of those after it.
"""

import pathlib

import peer

torch = peer.torch_with_threads()

import open_clip  # noqa: E402
from open_clip.tokenizer import SimpleTokenizer  # noqa: E402


def main():
    parser = peer.parser(__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", action="store_true", help="print the path of open_clip's merges and end")
    arguments = parser.parse_args()
    if arguments.vocabulary:
        print(pathlib.Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz")
        return
    texts = (arguments.files / "reports.txt").read_text(encoding="utf-8").splitlines()
    given = peer.load(arguments.files, "reports.io")
    results = peer.Results(arguments, torch=torch.__version__, open_clip=open_clip.__version__)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts)} reports, {megabytes:.2f} MB")

    rows, each = SimpleTokenizer(), SimpleTokenizer()
    work = {"encode_77/open_clip:1/pytorch": lambda: rows(texts, context_length=77),
            "tokenize_each/open_clip:1/pytorch": lambda: [each.encode(text) for text in texts]}
    check = SimpleTokenizer()
    peer.require_close("encode_77", check(texts, context_length=77), given["ids_77"], 0)
    ids = torch.tensor([id for text in texts for id in check.encode(text)])
    if len(ids) != len(given["ids"]):
        raise SystemExit(f"tokenize_each: {len(ids)} ids, ours {len(given['ids'])}: nothing was timed")
    peer.require_close("tokenize_each", ids, given["ids"], 0)
    results.measure(work)


if __name__ == "__main__":
    main()
