#!/usr/bin/env python3
"""benchmarks/gpu.sh with programs that only pretend: what it runs in which order, keeps, tells, proposes and packs.

It runs in a copy of benchmarks/, with a cmake, strip, nvidia-smi and compute-sanitizer of its own; needs bash.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CASES = [line.split("|") for line in (ROOT / "benchmarks/support/device_cases.txt").read_text().splitlines()
         if not line.startswith("#")]
KERNELS = list(dict.fromkeys(kernel for kernel, _ in CASES))
SCRIPT = (ROOT / "benchmarks/gpu.sh").read_text()
ALONE, COUNTING = (re.compile(re.search(rf"\b{kind}='([^']+)'", SCRIPT)[1]) for kind in ("alone", "counted"))
OTHERS = ["a run on a device makes what one on the CPU makes", "golden hybrid losses on a device",
          "the profiler counts what waits for a device and what reads it", "a [strange] case, with \\ in its name"]
MOST_FILES = 8  # of results that a lent machine gives back
MOST_SECONDS = 540  # of a call that is told nothing, its table included

# Writes down when each case began and ended, and what hangs under which process id; FAKE_FAIL, FAKE_MANY (137
# assertions that fail), FAKE_SKIP, FAKE_KILL and FAKE_HANG are patterns of names.
TEST_PROGRAM = r"""#!/usr/bin/env bash
if [[ $* == *--list-test-names-only* ]]; then cat "$FAKE/names"; exit 9; fi
if [[ $1 == "[every_kernel]" ]]; then echo "every kernel: group norms"; sleep "${FAKE_SANITIZED:-0}"; fi
name=$(sed 's/\\\(.\)/\1/g' <<<"$1")
echo "begin $name" >>"$FAKE/order"
sleep 0.05
echo "end $name" >>"$FAKE/order"
matches() { [[ -n $1 && $name =~ $1 ]]; }
if ! grep -qxF -e "$name" -e "[every_kernel]" "$FAKE/names"; then echo "No test cases matched '$name'"; exit 0; fi
if [[ -n ${FAKE_NO_DEVICE:-} ]]; then echo "no CUDA device: none"; exit 0; fi
if matches "${FAKE_HANG:-}"; then echo $$ >>"$FAKE/hanging"; exec sleep 60; fi
if matches "${FAKE_KILL:-}"; then echo "it takes more and more memory"; kill -KILL $$; fi
if matches "${FAKE_MANY:-}"; then echo "test cases: 1 | 1 failed"; exit 137; fi
if matches "${FAKE_FAIL:-}"; then echo "cuda_test.cpp:1: FAILED"; exit 1; fi
if [[ $name == *"replayed steps waits for nothing"* ]]; then echo "steps of a fake: 0 waits or read-backs"; fi
if matches "${FAKE_SKIP:-}"; then printf 'test cases: 1 | 1 passed\nassertions: - none -\n'; exit 0; fi
echo "All tests passed (3 assertions in 1 test case)"
"""
# One time of ours and of theirs under the name that it is asked for; of FAKE_HALF as far as it came. A profile has twelve
# kernels.
BENCHMARK = r"""#!/usr/bin/env bash
for argument; do
  case $argument in --benchmark_out=*) out=${argument#*=} ;; --benchmark_filter=*) filter=${argument#*=} ;; esac
done
if [[ -n ${DAUG_BENCH_PROFILE:-} ]]; then
  [[ $filter != *"${FAKE_SLOW:-no such work}"* ]] || { echo $$ >>"$FAKE/hanging"; exec sleep 60; }
  printf '%s\n' "== $filter: one call" "share us calls name" "kernel "{1..12} >>"$DAUG_BENCH_PROFILE"
  exit
fi
[[ $filter =~ \|([a-z_0-9]+)/ ]] && work=${BASH_REMATCH[1]}
[[ $work != "${FAKE_SLOW:-}" ]] || { echo $$ >>"$FAKE/hanging"; exec sleep 60; }
[[ $work != "${FAKE_KILLED:-}" ]] || kill -KILL $$
[[ $work != "${FAKE_BROKEN:-}" ]] || { echo "CUDA error of $work"; exit 3; }
run() { printf '{"run_type": "iteration", "run_name": "%s/x", "real_time": %s, "time_unit": "ms"}' "$work/$1" "$2"; }
if [[ $work == "${FAKE_HALF:-}" ]]; then
  lines=("$(run fused 1)" "$(run aten 3)")
  { printf '{\n  "context": {"date": "2026-01-01"},\n  "benchmarks": ['; printf '\n    %s\n    },' "${lines[@]%\}}"
    printf '\n    {\n      "name": "eag'; } >"$out"
  exit 3
fi
printf '{"context": {"date": "2026-01-01"}, "benchmarks": [%s, %s, %s, %s]}' \
  "$(run graph 1)" "$(run eager 2)" "$(run fused 1)" "$(run aten 3)" >"$out"
echo "$work" >>"$FAKE/measured"
[[ $work != "${FAKE_LATE_DEATH:-}" ]] || exit 7
"""
# FAKE_CUT: work of which half a file was written, as if it were whole.
PEERS = r"""import os, sys
work, out = sys.argv[1], sys.argv[sys.argv.index("--out") + 1]
print(f"{work}: not run: ModuleNotFoundError")
if work == os.environ.get("FAKE_CUT"):
    open(out.replace(".unfinished", ".json"), "w").write('{"context": {"date": "2026-')
else:
    open(out, "w").write('{"context": {"date": "2026-01-01"}, "benchmarks": []}')
"""
QUICKSTART = r"""#!/usr/bin/env bash
while [[ $# -gt 0 ]]; do case $1 in --data) data=$2 ;; --out) out=$2 ;; --budget) budget=$2 ;; esac; shift; done
[[ -f $data/labels.csv ]] || exit 1
mkdir -p "$out/heatmaps"
echo "{\"budget\": $budget}" >"$out/metrics.json"
echo >"$out/heatmaps/tests.daugmaps"
"""
PATH_PROGRAMS = {
    "cmake": "#!/bin/sh\necho \"$@\" >>\"$FAKE/cmake\"\n",
    "strip": "#!/bin/sh\ncp \"$3\" \"$2\"\n",
    "nvidia-smi": "#!/bin/sh\necho \"${FAKE_DEVICE:-NVIDIA H200}, 580.1\"\n",
    "compute-sanitizer": "#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; [[ $1 == --* ]] || shift; done\n"
                         "\"$@\"; echo \"========= RACECHECK SUMMARY: ${FAKE_HAZARDS:-0} hazards displayed\"\n"
                         "exit \"${FAKE_SANITIZER:-0}\"\n",
}


def require(condition, *what):
    if not condition:
        sys.exit("gpu_test.py: " + " ".join(map(str, what)))


class Tree:
    """A checkout in which gpu.sh finds nothing but what pretends."""

    def __init__(self, folder):
        self.root, self.fake, self.here = folder / "tree", folder / "fake", folder / "here"
        self.here.mkdir()
        shutil.copytree(ROOT / "benchmarks", self.root / "benchmarks")
        (self.root / "benchmarks/peers/bench_device_peers.py").write_text(PEERS)
        self.program("build/tests/daug_test_torch", TEST_PROGRAM)
        self.program("build/benchmarks/bench_device", BENCHMARK)
        self.program("build/benchmarks/bench_device_translator", BENCHMARK)
        self.program("build/examples/00_quickstart", QUICKSTART)
        (folder / "python/torch").mkdir(parents=True)
        (folder / "python/torch/__init__.py").write_text("")
        self.fake.mkdir()
        names = [*OTHERS, *reversed(list(dict.fromkeys(case for _, case in CASES)))]
        (self.fake / "names").write_text("\n".join(names) + "\n")
        for name, text in PATH_PROGRAMS.items():
            self.program(f"../fake/bin/{name}", text)
        self.environment = {**os.environ, "FAKE": str(self.fake), "PYTHONPATH": str(folder / "python"),
                            "PATH": f"{self.fake / 'bin'}:{os.environ['PATH']}", "DAUG_GPU_JOBS": "4",
                            "DAUG_SHARED_DATA": str(folder / "shared"), "TMPDIR": str(folder)}
        for name in ("OUT", "DAUG_GPU_SECONDS", "DAUG_GPU_DATA", "DAUG_GPU_WHEELS", "REPETITIONS"):
            self.environment.pop(name, None)

    def program(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)

    def start(self, *arguments, **settings):
        (self.fake / "hanging").unlink(missing_ok=True)
        return subprocess.Popen(["bash", self.root / "benchmarks/gpu.sh", *arguments], cwd=self.here, text=True,
                                env={**self.environment, **settings}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                start_new_session=True)

    def run(self, *arguments, status=0, **settings):
        """What it says; its exit status has to be this one."""
        process = self.start(*arguments, **settings)
        said = process.communicate(timeout=120)[0]
        require(process.returncode == status, *arguments, "ended with", process.returncode, "not", status, "\n", said)
        return said

    def hanging(self, count):
        """Process ids of what hangs, as soon as so many do."""
        file = self.fake / "hanging"
        for _ in range(400):
            ids = [int(line) for line in file.read_text().split()] if file.exists() else []
            if len(ids) >= count:
                return ids
            time.sleep(0.05)
        sys.exit("gpu_test.py: too little hangs")

    def out(self, name):
        """A folder of results, of which few enough are there."""
        folder = self.here / name
        entries = list(folder.iterdir())
        require(len(entries) <= MOST_FILES and all(entry.is_file() for entry in entries), "results are", entries)
        return folder


def table_of(out, *contains):
    text = (out / "gpu.md").read_text()
    for part in contains:
        require(part in text, f"the table lacks '{part}':\n", text)
    return text


def check_list_of_cases():
    """Its test cases are there, and its kernels those that the library asks for."""
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*_test.cpp"))
    for _, case in CASES:
        require(re.search(r'TEST_CASE\(\s*"' + re.escape(case) + '"', sources), "no test case is called", case)
    for needed, apart in (("check_no_waits(", COUNTING), ("const FullDevice ", ALONE)):
        names = [case.split('"')[1] for case in sources.split("\nTEST_CASE(")[1:] if needed in case.split("\n}\n")[0]]
        require(names and all(apart.search(name) for name in names), "with others would run one of", names)
    graphs = {"cuda_graph", "gradient_graph", "training_graph"}
    there = graphs | {path.stem for path in (ROOT / "src/kernels/cuda").glob("*.cu")}
    require(there == set(KERNELS), "kernels are", sorted(there), "listed are", sorted(KERNELS))
    code = re.sub("//.*", "", "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.[ch]*")))
    asked = set(re.findall(r'ran_on_a_device\("([a-z_]+)"\)', code)) | {name for name in graphs if f'"{name}"' in code}
    require(asked == there, "rows are asked for of", sorted(asked), "and not of", sorted(there - asked))


def check_calls(tree):
    """Two calls on a warm machine, the second with results of its own."""
    said = tree.run("first", "tests", "kernels", status=1, FAKE_FAIL="^a step of AdamW on a device agrees",
                    FAKE_SKIP="^a batch is resized", FAKE_BROKEN="residual_add", REPETITIONS="3")
    out = tree.out("first")
    table_of(out, "FAILED:", "test 'a step of AdamW on a device agrees with float64'",
             "figures of residual_add (kernels)", "solver_update/fused/x", "Checked: steps of a fake: 0 waits")
    require("cuda_test.cpp:1: FAILED" in said, "what failed is not shown:\n", said)
    log = (out / "log.txt").read_text()
    for line in ("== figures of residual_add (kernels)", "CUDA error of residual_add", "resize_augment: not run: ModuleNotFoundError"):
        require(line in log, "the log lacks", line, "\n", log)
    require("not found by its name" not in (out / "gpu.md").read_text(), "a name was not taken as it is")
    today = time.strftime("%F")
    rows = (out / "device_runs.csv").read_text().splitlines()
    expected = [f"{kernel},NVIDIA H200,{today},passed" for kernel in KERNELS
                if kernel not in ("adamw", "resize_images")]
    require(rows == expected, "rows are", rows)

    order = (tree.fake / "order").read_text().splitlines()
    begun = [line[6:] for line in order if line.startswith("begin ")]
    require(sorted(begun) == sorted({*OTHERS, *(case for _, case in CASES)}), "cases that ran:", begun)
    require(any(order[i].startswith("begin") and order[i + 1].startswith("begin") for i in range(len(order) - 1)),
            "no two cases ran at once")
    together = [name for name in begun if not ALONE.search(name) and not COUNTING.search(name)]
    counting = [name for name in begun if COUNTING.search(name)]
    require(OTHERS[0] in together[-4:] and CASES[0][1] in together[:8], "cases ran in this order:", begun)
    behind = order[2 * len(together):2 * (len(together) + len(counting))]
    require(all(COUNTING.search(line) for line in behind), "together with what counts ran one of", behind)
    alone = order[2 * (len(together) + len(counting)):]
    require(alone, "no case ran alone")
    require(all(ALONE.search(line) for line in alone), "together with others ran one of", alone)
    require(all(alone[i][6:] == alone[i + 1][4:] for i in range(0, len(alone), 2)), "at once ran some of", alone)

    # Races are looked for until the time is over; what is known from before stays.
    tree.run("second", "sanitizer", "training", "kernels", status=1, DAUG_GPU_SECONDS="4", FAKE_SANITIZED="60")
    text = table_of(tree.out("second"), "parts tests training kernels sanitizer", "solver_update/fused/x",
                    "racecheck: not finished in", "by then through: group norms", "left for another call:", "memcheck;",
                    "all of training", "test 'a step of AdamW on a device agrees with float64'")
    require("all of kernels" not in text, "figures of an earlier call were given up")
    # What failed is mended, and a race is no clean run.
    tree.run("third", "tests", "kernels", "sanitizer")
    text = table_of(tree.out("third"), "nothing failed", "racecheck: clean", "memcheck: clean", "synccheck: clean")
    require(len((tree.here / "third/device_runs.csv").read_text().splitlines()) == len(KERNELS), "rows are missing")
    # What a sanitizer says of the machine, or a test under it, is said; rows are for what it finds.
    for settings in ({"FAKE_SANITIZER": "99"}, {"FAKE_SANITIZER": "9", "FAKE_HAZARDS": "2"}):
        tree.run("third", "sanitizer", **settings)
        table_of(tree.out("third"), "nothing failed", "racecheck: did not run to its end, status")
        require(len((tree.here / "third/device_runs.csv").read_text().splitlines()) == len(KERNELS), "rows are missing")
    tree.run("third", "sanitizer", status=1, FAKE_SANITIZER="99", FAKE_HAZARDS="2")
    table_of(tree.out("third"), "FAILED: racecheck", "racecheck: FAILED, RACECHECK SUMMARY: 2 hazards displayed")
    require(not (tree.here / "third/device_runs.csv").read_text(), "there are rows in spite of a race")


def check_cuts(tree):
    """A case that hangs or is killed costs itself alone; a call that is killed has left its table."""
    tree.run("half", "search", "loss")
    tree.run("half", "search", "loss", status=1, FAKE_HALF="search", FAKE_BROKEN="hybrid_loss")
    text = table_of(tree.out("half"), "FAILED: figures of hybrid_loss (loss); figures of search (search)", "| search/fused/x")
    require("hybrid_loss/fused/x" not in text, "there are figures of what fails")
    began = time.monotonic()
    said = tree.run("hung", "tests", "targets", status=1, DAUG_GPU_SECONDS="8",
                    FAKE_HANG="^encoder_maps on a device are", FAKE_KILL="^golden hybrid", FAKE_MANY="^a .strange")
    over = time.monotonic() - began - 8
    limit = int(re.search("DAUG_GPU_SECONDS:-([0-9]+)", SCRIPT)[1])
    require(limit + over < MOST_SECONDS, "a call by itself takes", limit, "and", over, "s")
    require("failed (signal 9) in" in said and re.search(r"failed in \d+ s: a \[strange", said), "signals are:\n", said)
    require("it takes more and more memory" in said, "what was killed is not shown:\n", said)
    text = table_of(tree.out("hung"), "FAILED:", "test 'golden hybrid losses on a device'", "all of targets")
    late = text[text.index("left for another call:"):]
    require("test 'encoder_maps on a device are those of the CPU'" in late, "late are", late)
    rows = (tree.here / "hung/device_runs.csv").read_text()
    require("map_postprocess" not in rows and "adamw" in rows, "rows are", rows)
    tree.run("killed", "targets", "maps", "training", status=1, FAKE_KILLED="targets_256", FAKE_CUT="maps")
    table_of(tree.out("killed"), "figures of targets_256 (targets) (signal 9)",
             "the table, not all of which could be made", "-maps.peers.maps.json: the file cannot be read", "| maps_256/graph/x", "| training_256/graph/x",
             "denoiser_training_64/graph/x", "denoiser_training_256/graph/x")
    process = tree.start("cut", "targets", "training", FAKE_SLOW="training_256")
    process.stdout.readline()
    slow = tree.hanging(1)[0]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    os.kill(slow, signal.SIGKILL)  # nobody else does
    process.stdout.close()
    table_of(tree.out("cut"), "targets_256/graph/x")
    said = tree.run("none", "tests", "kernels", status=1, FAKE_NO_DEVICE="1")
    table_of(tree.out("none"), "no device: nothing was tested", "left for another call: rest of training.")
    require("group_norm_silu" not in said.split("| work |")[0], "figures were asked of no device")
    tree.run("none", "tests", "unheard_of", status=2)
    said = tree.run("none", "maps", DAUG_GPU_WHEELS="no folder", status=1)
    require("wheels of" in said and "cannot be used" in said, "wheels that are none are taken:\n", said)
    require("DAUG_GPU_JOBS" in tree.run("none", "tests", status=2, DAUG_GPU_JOBS="0"), "no job at a time is taken")


def check_profile(tree):
    """Of each work the ten kernels that take most, all of them in what is kept; and what was called, built from what."""
    tree.run("profiled", "profile", "maps")
    text = table_of(tree.out("profiled"), "parts maps profile, nothing failed", "| maps_256/graph/x",
                    "Called: gpu.sh profile maps (DAUG_GPU_SECONDS=500, built from unknown). Device")
    require("profile of" not in text, "something of the profile is left:\n", text)
    lines = (tree.here / "profiled/profile.txt").read_text().splitlines()
    heads = [line for line in lines if line.startswith("== ")]
    require(len(heads) == 3 and len(lines) == 36 and "kernel 11" not in lines, "of a profile came", lines)
    for work in ("hybrid_loss", "encoder_maps", "resize_augment", "unet_256", "training_256", "search"):
        require(any(work in head for head in heads), "there is no profile of", work, heads)
    with tarfile.open(tree.here / "profiled/runs.tgz") as archive:
        whole = archive.extractfile("./profile.txt").read().decode()
    require(whole.count("kernel 12\n") == 3, "kept is", whole)
    # What takes too long costs itself alone.
    tree.run("cut", "profile", DAUG_GPU_SECONDS="3", FAKE_SLOW="unet_256")
    table_of(tree.out("cut"), "left for another call:", "profile of networks", "profile of search",
             "built from unknown); gpu.sh profile (DAUG_GPU_SECONDS=3,")
    require("hybrid_loss" in (tree.here / "cut/profile.txt").read_text(), "a profile that was made is lost")
    # Beside all else there may be, it would be a file too many.
    for name in ("tests.txt", "sanitizer.txt"):
        (tree.root / "gpu_results/kept" / name).write_text("a file\n")
    (tree.here / "profiled/train.tgz").write_text("a file\n")
    tree.run("profiled", "profile")
    require(len(list(tree.out("profiled").iterdir())) == MOST_FILES, "results are", os.listdir(tree.here / "profiled"))
    require(not (tree.here / "profiled/profile.txt").exists(), "profiles are a file too many")


def check_resumed(tree):
    """A part that was cut off is completed by a later call; of one that was done all is done anew."""
    measured = tree.fake / "measured"

    def works():
        found = measured.read_text().split() if measured.exists() else []
        measured.unlink(missing_ok=True)
        return found

    process = tree.start("cut", "tests", "kernels", FAKE_SLOW="residual_add", FAKE_LATE_DEATH="group_norm_silu")
    tree.hanging(1)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    require(works() == ["solver_update", "group_norm_silu", "group_norm_silu_gradient"], "something else was measured")
    died = "figures of group_norm_silu (kernels)"
    table_of(tree.out("cut"), "rest of kernels", "group_norm_silu/fused/x", died)
    (tree.fake / "order").unlink()
    tree.run("rest", "kernels", status=1, DAUG_GPU_SECONDS="100")
    require(works() == ["residual_add", "adamw", "encoder_maps", "resize_augment"], "what was measured is measured again")
    text = table_of(tree.out("rest"), "FAILED: " + died, *(f"| {work}/fused/x" for work in ("solver_update", "residual_add")))
    require("left for another call" not in text, "something is left of a part that is complete")
    tree.run("anew", "kernels")
    require(len(works()) == 7, "a part is not done anew")
    # A failure takes the figures of an earlier call with it, want of time does not.
    tree.run("failed", "kernels", status=1, FAKE_BROKEN="adamw")
    require("| adamw/fused/x" not in table_of(tree.out("failed")), "there are figures of what fails")
    tree.run("late", "kernels", FAKE_SLOW="solver_update", DAUG_GPU_SECONDS="1")
    table_of(tree.out("late"), "| solver_update/fused/x", "figures of solver_update (kernels)")
    # Of test cases, too: of those that were not finished a later call asks alone.
    tree.run("hung", "tests", DAUG_GPU_SECONDS="6", FAKE_HANG="^encoder_maps on a device are")
    (tree.fake / "order").unlink()
    tree.run("hung", "tests")
    begun = [line[6:] for line in (tree.fake / "order").read_text().splitlines() if line.startswith("begin ")]
    unfinished = [name for name in begun if ALONE.search(name) or COUNTING.search(name) or name.startswith("encoder_maps")]
    require(unfinished and unfinished == begun, "ran again:", begun)
    require("test '" not in table_of(tree.out("hung")), "cases are left that were finished")


def check_stop(tree):
    """A signal ends all that runs; what was found by then, and before, counts."""
    tree.run("whole", "tests")
    calls = ((signal.SIGINT, ("tests", "loss"), 2, {"FAKE_HANG": "^(golden|encoder_maps on a device are)"}),
             (signal.SIGTERM, ("maps", "training", "loss"), 1, {"FAKE_SLOW": "training_256"}))
    for number, parts, count, settings in calls:
        process = tree.start("stopped", *parts, **settings)
        hanging = tree.hanging(count)
        # A terminal tells all that it sees, others the script alone.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        said = process.communicate(timeout=30)[0]
        require(process.returncode == 130, "it ended with", process.returncode, "\n", said)
        for one in hanging:
            try:
                os.kill(one, 0)
                sys.exit(f"gpu_test.py: {one} of {parts} lives on")
            except ProcessLookupError:
                pass
        table_of(tree.out("stopped"), "rest of " + parts[-2], "all of loss")
        rows = [(tree.here / out / "device_runs.csv").read_text() for out in ("whole", "stopped")]
        require(rows[0] and rows[0] == rows[1], "rows differ:", rows)
    table_of(tree.here / "stopped", "maps_256/graph/x", "figures of training_256 (training)")


def check_merge(tree):
    """Calls on two machines, of which neither knows what the other found."""
    kept = tree.root / "gpu_results"
    for out, parts, settings in (("a", ("tests", "targets"), {"FAKE_FAIL": "^golden hybrid"}),
                                 ("b", ("maps", "targets"), {"FAKE_BROKEN": "targets_256"}),
                                 ("c", ("maps",), {"FAKE_DEVICE": "NVIDIA B200"}),
                                 ("d", ("tests",), {"FAKE_HANG": ".", "DAUG_GPU_SECONDS": "1"})):
        shutil.rmtree(kept, ignore_errors=True)
        tree.run(out, *parts, status=1 if out in "ab" else 0, **settings)
    a, b, c, d = (f"{out}/runs.tgz" for out in "abcd")
    tree.run("merge", b, a, "ba")
    table_of(tree.out("ba"), "maps_256/graph/x", "targets_256/graph/x", "test 'golden hybrid losses on a device'")
    tree.run("merge", a, d, "ad")
    table_of(tree.out("ad"), "FAILED: test 'golden hybrid losses on a device'")
    rows = [(tree.here / out / "device_runs.csv").read_text() for out in ("a", "ba", "ad")]
    require(rows[0] and rows[0] == rows[1] == rows[2], "rows differ:", rows)
    tree.run("merge", a, b, "ab")
    text = table_of(tree.out("ab"), "maps_256/graph/x", "figures of targets_256 (targets)")
    require("targets_256/graph/x" not in text, "figures of a part are from the first call")
    require("B200" in tree.run("merge", a, c, "ac", status=1), "devices are mixed")
    # Of a part that was cut off elsewhere what was finished there counts, beside what an earlier call has of the rest.
    for out, settings in (("e", {}), ("f", {"FAKE_SLOW": "adamw", "DAUG_GPU_SECONDS": "3"})):
        shutil.rmtree(kept, ignore_errors=True)
        tree.run(out, "kernels", **settings)
    tree.run("merge", "e/runs.tgz", "f/runs.tgz", "ef")
    text = table_of(tree.out("ef"), "| adamw/fused/x", "| residual_add/fused/x")
    require("left for another call" not in text, "something is left of what an earlier call has")
    require(text.count("| residual_add/fused/x") == 1, "figures of two calls are not one line")


def check_pack(tree):
    """Programs as one archive, and run from it where nothing was built; a cohort as another."""
    git = ["git", "-C", tree.root]
    subprocess.run([*git, "init", "-q"], check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    another = [*git, *identity, "commit", "-q", "--allow-empty", "-m", "a commit"]
    subprocess.run(another, check=True)
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (tree.root / ".gitignore").write_text("/build*/\n/.gpu/\n/gpu_results/\n")
    golden, data = tree.root.parent / "shared/golden", tree.root.parent / "cohort"
    packed = ["unet_a.json", "loss_a.json", "sampler_a.json", "clip_a/config.json", "knn_a.json", "diffusion_chain_a.json",
              "diffusion_compat.json", "diffusion_loss.json", "diffusion_p.json", "diffusion_q.json", "diffusion_step.json",
              "heatmap_a.json", "resize_torch_a.json"]
    left = ["tokenizer_a.json", "diffusion_tables.json", "metrics_a.json"]
    for file in (*(golden / name for name in packed + left), data / "labels.csv"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("a file\n")
    tree.run("pack", "--data", os.path.relpath(data, tree.here))
    require(".gpu" not in tree.run("built", "targets"), "programs are not those that were built")
    require("bytes and" in tree.run("pack"), "sizes are not told")
    table_of(tree.out("built"), f"gpu.sh targets (DAUG_GPU_SECONDS=500, built from {head})")
    tree.run("pack", "--data", golden, status=2)
    require("-DDAUG_CUDA_ARCHITECTURES=90 -DCMAKE_CUDA_FLAGS=-lineinfo" in (tree.fake / "cmake").read_text(),
            "kernels are of other devices, too, or do not know their lines")
    require(sorted(path.name for path in (tree.root / ".gpu").iterdir()) == ["pack.tar.gz", "train.tar.gz"],
            "more than archives was packed")
    with tarfile.open(tree.root / ".gpu/pack.tar.gz") as archive:
        names = archive.getnames()
    for name in ("./tests/daug_test_torch", "./benchmarks/bench_device", *("./shared/golden/" + name for name in packed)):
        require(name in names, name, "is not packed but", names)
    for name in left:
        require("./shared/golden/" + name not in names, name, "is packed, and nobody reads it there")
    shutil.rmtree(tree.root / "build")
    subprocess.run(another, check=True)  # which what was packed is not from
    said = tree.run("packed", "tests", "train", DAUG_GPU_SECONDS="100")
    require("not built but from .gpu/pack.tar.gz of " + time.strftime("%Y-") in said, "programs are of unknown age")
    table_of(tree.out("packed"), "parts tests targets train, nothing failed", "targets_256/graph/x",
             f"gpu.sh tests train (DAUG_GPU_SECONDS=100, built from {head})")
    with tarfile.open(tree.here / "packed/train.tgz") as archive:
        require(sorted(archive.getnames()) == ["run/metrics.json", "train.txt"], "of a run came", archive.getnames())
        budget = float(re.search(r"[\d.]+", archive.extractfile("run/metrics.json").read().decode())[0])
    require(0.5 < budget < 1.25, "the run has", budget, "minutes")
    with open(tree.root / "large", "wb") as file:
        file.truncate(61 << 20)
    tree.program("build/examples/00_quickstart", QUICKSTART)
    require("too much" in tree.run("pack", "--data", data, status=1), "what cannot travel is not told")
    # Of other programs nothing is known.
    (tree.root / ".gpu/pack.tar.gz").unlink()
    tree.program("build/tests/daug_test_torch", TEST_PROGRAM + "# another\n")
    tree.program("build/benchmarks/bench_device", BENCHMARK)
    tree.program("build/benchmarks/bench_device_translator", BENCHMARK)
    require("set aside" in tree.run("rebuilt", "maps"), "what is known of other programs counts")
    require("parts maps, nothing" in table_of(tree.out("rebuilt")), "what is known of other programs is in the table")


def main():
    check_list_of_cases()
    for check in (check_calls, check_cuts, check_profile, check_resumed, check_stop, check_merge, check_pack):
        with tempfile.TemporaryDirectory() as folder:
            check(Tree(pathlib.Path(folder)))


if __name__ == "__main__":
    main()
