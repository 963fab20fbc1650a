#!/usr/bin/env bash
# Everything there is to know about the CUDA part on one machine: tests of the device kernels, of golden sets (where
# DAUG_SHARED_DATA, by default ../shared or what was packed, has them) and of a whole run beside one on the CPU, then figures, and
# what compute-sanitizer finds of all kernels, where it is installed.
#
#   bash benchmarks/gpu.sh [OUT] [PARTS...]  on a machine with a device and LibTorch with CUDA (Python's torch will do); writes
#                                            into OUT (default: the variable OUT, or gpu_results) what is listed below
#   bash benchmarks/gpu.sh pack              on a machine that can build: programs, the libraries they need and the golden sets
#                                            as .gpu/pack.tar.gz, from which the first form then runs where nothing can be built
#   bash benchmarks/gpu.sh pack --data DIR   the program of whole runs and the cohort DIR as .gpu/train.tar.gz, for part train
#   bash benchmarks/gpu.sh merge RUNS.tgz... OUT   one table of the runs.tgz of several calls, on the same kind of device; of a
#                                            part that is in several the last counts, of a test case the last result
# OUT, DIR and RUNS.tgz are paths as the caller sees them.
#
# PARTS, by default all but the last, in the order given (in brackets seconds, estimated: no device has run them yet). Peers are
# Python's, where there is torch for it; what is not installed besides is said and left out, unless DAUG_GPU_WHEELS is a folder
# of wheels of it, which are then used without being installed.
#   tests      every test case of devices: those of every kernel first, whole runs last, several at a time (DAUG_GPU_JOBS: half
#              of the cores, at most 8); what counts waits comes behind them, what fills the device last, alone   (60 to 100)
#   networks   calls of U-256 at batch 26 and of U-64 and its guide at batch 1 from CUDA graphs:
#              PyTorch, eager; 50 steps of U-64                                                 (150)
#   training   a training step of U-256 at batch 16: PyTorch, eager; steps of train_denoiser, U-64 and U-256 at batch 16,
#              from CUDA graphs: plain ones                                                     (110)
#   kernels    device kernels: LibTorch's operators; PyTorch's; torchvision                      (150)
#   targets    13 targets of one 256 x 256 image: one at a time in PyTorch                       (90)
#   maps       evidence and difference maps of seven targets: the published loop in PyTorch      (80)
#   loss       contrastive loss: LibTorch's operators; PyTorch, also compiled; Inf-CL            (120)
#   search     exact search of a million items: LibTorch's matmul and topk; FAISS                (100)
#   sanitizer  racecheck, memcheck and synccheck of every kernel                                 (60 to 210)
#   compile    U-256 and its training step again, beside torch.compile, U-256 also by max-autotune in what is left
#              of 300 s                                                                         (200 to 500)
#   profile    which kernels the time of a call goes to: U-256, its training step, the loss of 32,768 items, the search of 1000
#              queries, encoder maps, resizing                                                  (60 at most)
#   train      by name alone: the preset small on a cohort (of pack --data, or DAUG_GPU_DATA) at DAUG_GPU_SIDE (128) pixels, with
#              a budget of three quarters of the time that is left                              (all there is)
# What would begin later than DAUG_GPU_SECONDS after the start, builds not counted, or is not finished then, is named in the table
# and left for another call with those parts, which on the same machine completes them: what was finished of a part that was cut off
# is not repeated. It is 500 unless set, with which a call is over in less than nine minutes and has come through the first four
# parts or so; 0: no limit. REPETITIONS (20) of all whose repetition takes a second or less; of what takes two to six a quarter,
# which the table marks.
#
# OUT gets, after every part anew: gpu.md and gpu.json, the table; tests.txt and sanitizer.txt, what they said; log.txt, the end of
# what figures and peers said; device_runs.csv, a row for src/kernels/cuda/device_runs.csv of each kernel whose test cases
# (support/device_cases.txt) all ran and passed; runs.tgz, what the table is made of; profile.txt, the ten kernels that take most
# of each work of part profile, all of which are in runs.tgz, and there alone beside a train.tgz; train.tgz, of part train,
# whose weights of 8 MB and more stay behind. What earlier calls found stays in gpu_results/kept, and is in the table, too; when the programs are
# others it is set aside. A test case that is not finished keeps the result it had, figures those that they had. What ends the
# script (Ctrl-C, TERM) ends what runs, and what was found by then is written. The driver is kept loaded meanwhile.
#
# A machine lent for 15 minutes, of which starting it, copying and waiting are part, 10 a command, and whose results are at most 8
# files: first what nothing else can tell, then what costs most to miss.
#   pack; there, with .gpu/pack.tar.gz in carry, which stays there for a second call:
#   DAUG_GPU_SECONDS=550 bash benchmarks/gpu.sh "$OUT" tests networks kernels targets       ended after 590 s
#   DAUG_GPU_SECONDS=170 bash benchmarks/gpu.sh "$OUT" sanitizer training                   at once after it, ended after 200 s
#   Next time: DAUG_GPU_SECONDS=550 ... profile training maps loss search compile, then merge. Or pack --data, and with
#   .gpu/train.tar.gz in carry:
#   DAUG_GPU_SECONDS=540 bash benchmarks/gpu.sh "$OUT" train                                ended after 590 s
#
# Every test case has a process and minutes of its own, and so have the figures of a kernel: what fails or hangs costs itself
# alone, is named in the table and makes the script fail once that is written.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
programs=(tests/daug_test_torch benchmarks/bench_device benchmarks/bench_device_translator)
cases=benchmarks/support/device_cases.txt
all=(tests networks training kernels targets maps loss search sanitizer compile profile)

# from_caller PATH: the same from here.
from_caller() { if [[ $1 == /* ]]; then echo "$1"; else echo "$caller/$1"; fi; }

# build TARGETS... [-- OPTIONS OF CMAKE...]
build() {
  local targets=()
  while [[ $# -gt 0 && $1 != -- ]]; do targets+=("$1") && shift; done
  cmake --preset default -DDAUG_CUDA=ON -DDAUG_BUILD_TESTS=ON -DDAUG_BUILD_BENCHMARKS=ON "${@:2}"
  cmake --build build --target "${targets[@]}"
}

# ---- What travels ----

# The commit of the tree.
commit() { git rev-parse --short HEAD 2>/dev/null || echo unknown; }

# staged FOLDER PROGRAMS...: of build, with its commit, and of libraries what a bare machine lacks; LibTorch, the C and the C++
# library are its own.
staged() {
  local folder=$1 program
  shift
  rm -rf "$folder"
  mkdir -p "$folder/lib"
  commit >"$folder/commit"
  for program; do
    mkdir -p "$folder/${program%/*}"
    strip -o "$folder/$program" "build/$program"
  done
  ldd "${@/#/build/}" 2>/dev/null | awk '$3 ~ /^\// {print $3}' | sort -u |
    grep -E '/lib(fmt|hwy|benchmark|cpp-httplib|z|brotli[a-z]*|ssl|crypto)\.so' |
    xargs -r -I{} cp -L {} "$folder/lib/" || true
}

# archived FOLDER: as one file, which with the tree has to be smaller than what may travel (64 MiB).
archived() {
  local archive=$1.tar.gz tree packed
  tar czf "$archive" -C "$1" .
  rm -rf "$1"
  tree=$(git ls-files -coz --exclude-standard | { du -cb --files0-from=- 2>/dev/null || true; } | tail -n 1 | cut -f 1)
  packed=$(stat -c %s "$archive")
  echo "$archive: $packed bytes and $tree of the tree, $(((packed + tree) >> 20)) MiB of at most 60"
  if ((packed + tree > 60 << 20)); then
    echo "gpu.sh: that is too much to travel, by $(((packed + tree - (60 << 20)) >> 20)) MiB and a bit" >&2
    return 1
  fi
}

# DAUG_GPU_ARCHITECTURES (90) is what kernels are compiled for; build/ keeps it, and with it the lines of sources that profilers
# and sanitizers name. Images hardly shrink in an archive: beside the program of whole runs, 8 MB, and the tree, 10 MB, there is
# room for a cohort of about 40 MB.
pack() {
  local options=(-- "-DDAUG_CUDA_ARCHITECTURES=${DAUG_GPU_ARCHITECTURES:-90}" -DCMAKE_CUDA_FLAGS=-lineinfo)
  local golden=${DAUG_SHARED_DATA:-../shared}/golden
  if [[ ${1:-} == --data ]]; then
    local data
    data=$(from_caller "${2:-}")
    [[ -f $data/labels.csv ]] || { echo "gpu.sh: no labels.csv in '$data'" >&2; return 2; }
    build daug_quickstart "${options[@]}"
    staged .gpu/train examples/00_quickstart
    cp -rL --no-preserve=mode "$data" .gpu/train/data
    archived .gpu/train
    return
  fi
  build daug_test_torch bench_device bench_device_translator "${options[@]}"
  staged .gpu/pack "${programs[@]}"
  mkdir -p .gpu/pack/shared/golden
  # What test cases of devices read: 27 MB, 24 packed.
  cp -rL --no-preserve=mode "$golden"/{unet,classifier,loss,sampler,clip,knn}_* \
    "$golden"/diffusion_{chain,compat,loss,p,q,step}* "$golden"/heatmap_* "$golden"/resize_torch* \
    .gpu/pack/shared/golden/ || echo "gpu.sh: not all golden sets are in $golden" >&2
  archived .gpu/pack
}

# ---- What was found: a file of runs/ for the figures of a work, CALL-PART.WORK.json or CALL-PART.peers.WORK.json, of which those
# of one call stand side by side in the table; and one of status/ for all else of a part ----

# remember KIND TEXT: of the part that runs; KIND is failed, late, check, call or unfinished.
remember() { echo "$1 $2" >>"$kept/status/$part"; }

# RESULT|NAME of every test case: the last result, "not finished" only where it has no other.
results_of_cases() {
  [[ -e $kept/cases.txt ]] || return 0
  awk -F'|' '!($2 in last) { names[++count] = $2 }
    !($2 in last) || $1 != "not finished" { last[$2] = $1 }
    END { for (i = 1; i <= count; ++i) print last[names[i]] "|" names[i] }' "$kept/cases.txt"
}

# remembered KIND: of all parts, and of test cases.
remembered() {
  results_of_cases | sed -n "s/^${1/late/not finished}|\(.*\)/test '\1'/p"
  sed -n "s/^$1 //p" "$kept"/status/* 2>/dev/null || true
}

# Of each kernel all of whose test cases ran and passed, unless a sanitizer found something.
rows_of_runs() {
  if grep -q '^failed ' "$kept/status/sanitizer" 2>/dev/null; then return; fi
  results_of_cases >"$scratch/results"
  [[ -s $scratch/results ]] || return 0
  awk -F'|' -v run="$(cut -d, -f1 "$kept/device"),$(<"$kept/date"),passed" '
    FNR == NR { passed[$2] = $1 == "passed"; next }
    /^#/ { next }
    !($1 in whole) { kernels[++count] = $1; whole[$1] = 1 }
    !passed[$2] { whole[$1] = 0 }
    END { for (i = 1; i <= count; ++i) if (whole[kernels[i]]) print kernels[i] "," run }' "$scratch/results" "$cases"
}

# written OUT: the table, also to $scratch/table.txt, and what it is made of. It says what failed.
written() {
  local note="nothing failed" called failed late checks parts=() part file rest runs status=0
  mapfile -t failed < <(remembered failed)
  mapfile -t late < <(remembered late)
  mapfile -t checks < <(remembered check)
  for part in "${all[@]}" train; do
    if [[ -e $kept/status/$part ]]; then parts+=("$part"); fi
  done
  if [[ ${#failed[@]} -gt 0 ]]; then note=$(printf ' %s;' "${failed[@]}") && note="FAILED:${note%;}"; fi
  if [[ ${#late[@]} -gt 0 ]]; then rest=$(printf ' %s;' "${late[@]}") && checks+=("left for another call:${rest%;}"); fi
  mkdir -p "$1"
  rows_of_runs >"$1/device_runs.csv"
  for file in tests.txt:15000000 sanitizer.txt:15000000 log.txt:1000000; do
    if [[ -e $kept/${file%:*} ]]; then tail -c "${file#*:}" "$kept/${file%:*}" >"$1/${file%:*}"; fi
  done
  if [[ -s $kept/profile.txt && ! -e $1/train.tgz ]]; then  # with which there would be a file too many
    awk '/^== / { lines = 0 } lines++ < 12' "$kept/profile.txt" >"$1/profile.txt"
  else
    rm -f "$1/profile.txt"
  fi
  called=$(awk '!seen[$0]++' "$kept/called" 2>/dev/null | tail -n 4 | paste -s -d ';' | sed 's/;/; /g') || true
  tar czf "$1/runs.tgz" -C "$kept" . || status=$?
  shopt -s nullglob
  runs=("$kept"/runs/*.json)  # the last call is the last one
  shopt -u nullglob
  "${python[@]}" benchmarks/support/table.py gpu "$1/gpu" "${runs[@]}" --title "CUDA kernels" \
    --note "${called:+Called: $called. }Device $(<"$kept/device"), parts ${parts[*]}, $note" \
    "${checks[@]/#/--check=}" >"$scratch/table.txt" || status=$?
  return $status
}

# published OUT: where the table fails that is a failure, too, and the work goes on.
published() {
  local part=table
  rm -f "$kept/status/table"
  if written "$1"; then return; fi
  remember failed "the table, not all of which could be made"
  written "$1" 2>/dev/null || true
}

# file_of FIGURES: "figures of W (P)" and what follows as the end of a name of a file of runs/.
file_of() { sed -nE 's/^figures of ([^ ]+) \(([a-z]+)\).*/-\2.\1.json/p; s/^peers of ([^ ]+) \(([a-z]+)\).*/-\2.peers.\1.json/p' <<<"$1"; }

# taken_over STATUS: of a part of a later call. Figures that failed there are not those of an earlier call; those that were not
# begun or finished may be, and are then nothing to be made up for.
taken_over() {
  local kind text file
  while read -r kind text; do
    file=$(file_of "$text")
    if [[ $kind == failed && -n $file ]]; then rm -f "$kept/runs/"*"$file"; fi
    if [[ $kind == late && -n $file ]] && compgen -G "$kept/runs/*$file" >"$scratch/found"; then continue; fi
    echo "$kind $text"
  done <"$1" >"$scratch/status"
  mv "$scratch/status" "$1"
}

# merge RUNS.tgz... OUT
merge() {
  local out archive one file part=programs
  [[ $# -gt 1 ]] || { echo "gpu.sh: merge RUNS.tgz... OUT" >&2; return 2; }
  out=$(from_caller "${*: -1}") kept=$scratch/merged one=$scratch/one
  mkdir -p "$kept/status" "$kept/runs"
  for archive in "${@:1:$#-1}"; do
    rm -rf "$one" && mkdir "$one"
    tar xzf "$(from_caller "$archive")" -C "$one"
    if [[ -e $kept/device ]] && ! cmp -s "$kept/device" "$one/device"; then
      echo "gpu.sh: $archive is of device $(<"$one/device"), what came before it of $(<"$kept/device")" >&2
      return 1
    fi
    if [[ -e $kept/program && -e $one/program ]] && ! cmp -s "$kept/program" "$one/program"; then
      remember check "$archive is of other programs than what came before it"
    fi
    for file in "$one"/status/*; do
      if grep -q '^late all of ' "$file" && [[ -e $kept/status/${file##*/} ]]; then
        rm "$file"
      else
        taken_over "$file"
      fi
    done
    for file in cases.txt log.txt called; do
      [[ -e $one/$file ]] || continue
      cat "$one/$file" >>"$kept/$file"
      rm "$one/$file"
    done
    cp -r "$one/." "$kept/"
  done
  published "$out"
  cat "$scratch/table.txt"
  [[ ! -e $kept/status/table ]]
}

# ---- Work within a limit of time ----

# A signal ends what runs, and leaves no time for more. What stands in a group of its own, as all that `timeout` starts, gets
# it from there.
stopping=
stop() {
  stopping=yes
  trap '' INT TERM HUP  # another one would end the wait for those
  # shellcheck disable=SC2046
  kill $(jobs -p) 2>/dev/null || true
}

# How many seconds are left; many where there is no limit.
seconds_left() {
  if [[ -n $stopping ]]; then echo 0; else echo $((limit > 0 ? ends - $(date +%s) : 1000000)); fi
}

# bounded MOST COMMAND...: in so many seconds at most, and within the limit. 125: it was not begun, as next to nothing of the time
# was left; 124: that came to an end, or a signal ended it; 123: MOST did.
bounded() {
  local left status=0 began=$SECONDS
  left=$(seconds_left)
  ((left > limit / 40)) || return 125
  if ((left > $1)); then left=$1; fi
  timeout -k 10 "$left" "${@:2}" &
  [[ -z $stopping ]] || stop
  wait $! || status=$?
  if [[ -n $stopping ]]; then
    wait $! || true  # the signal ended the first one
    return 124
  fi
  # What was killed by others, for want of memory perhaps, says 137, too.
  if [[ $status -eq 124 || $status -eq 137 ]] && ((SECONDS - began >= left)); then
    ((left < $1)) && return 124
    return 123
  fi
  ((status < 123 || status > 125)) || status=1
  return $status
}

# by_signal STATUS: what to add to a failure.
by_signal() { (($1 <= 128)) || echo " (signal $(($1 - 128)))"; }

# attempt WHAT MOST COMMAND...: remembers what became of it.
attempt() {
  local status=0
  bounded "${@:2}" || status=$?
  case $status in
    0) ;;
    124 | 125) remember late "$1" ;;
    123) remember failed "$1 (not done in $2 s)" ;;
    *) remember failed "$1$(by_signal $status)" ;;
  esac
  return $status
}

# logged LOG COMMAND...: what it says is also added to a file. Ended by TERM it waits for the command, which gets that, too.
logged() {
  trap : TERM
  "${@:2}" 2>&1 | tee -a "$1"
}
export -f logged

# made_whole FILE: 0 where it is, 3 where it is now: the figures of each benchmark are written as soon as they are there, and one
# that fails or hangs is not to take along those before it.
made_whole() {
  "${python[@]}" - "$1" 2>/dev/null <<'END'
import json, pathlib, sys
file = pathlib.Path(sys.argv[1])
text = file.read_text()
try:
    json.loads(text)["benchmarks"]
except ValueError:
    last = text.rindex("\n    }", text.index('"benchmarks": ['))
    text = text[:last] + "\n    }\n  ]\n}\n"
    json.loads(text)
    file.write_text(text)
    sys.exit(3)
END
}

# measured WHAT FILE MOST COMMAND...: writes FILE.unfinished, of which what is whole becomes FILE.json, however the command ended:
# a program that dies at its exit has told all. What an earlier call finished of a part that was cut off is not measured again.
measured() {
  local what=$1 file=$2 status=0 whole=0 line
  if [[ -e $file.json ]] && ! grep -qxF "late $what" <<<"$before"; then
    while read -r line; do
      if [[ $line == "failed $what"* ]]; then echo "$line" >>"$kept/status/$part"; fi
    done <<<"$before"
    return 0
  fi
  echo "== $what" >>"$kept/log.txt"
  rm -f "$file.unfinished"
  attempt "$what" "$3" bash -o pipefail -c 'logged "$@"' - "$kept/log.txt" "${@:4}" || status=$?
  made_whole "$file.unfinished" || whole=$?
  if [[ $whole -ne 0 ]]; then
    case $status in
      0) if [[ -e $file.unfinished ]]; then remember failed "$what (its file is not whole)"; fi ;;
      124 | 125) ;;
      *) rm -f "$kept/runs/"*"$(file_of "$what")" ;;  # figures that an earlier call found would hide that they fail
    esac
  fi
  if [[ $whole -eq 0 || $whole -eq 3 ]]; then mv "$file.unfinished" "$file.json"; fi
}

# figures PROGRAM WORK FILTER REPETITIONS MOST: WORK names the file. The rates of copying and of products come first.
figures() {
  local file=$kept/runs/$call.$2
  measured "figures of $2 ($part)" "$file" "$5" "$built/benchmarks/$1" --benchmark_filter="^(copy|products|$3)" \
    --benchmark_repetitions="$4" --benchmark_min_time=0.001 --benchmark_display_aggregates_only=true \
    --benchmark_out="$file.unfinished" --benchmark_out_format=json
}

kernel() { figures bench_device "$1" "$1/" "$short" 100; }  # KERNEL

network() { figures bench_device_translator "$@"; }  # WORK FILTER REPETITIONS MOST

# peers WORK REPETITIONS MOST [ARGUMENTS...]
peers() {
  local file=$kept/runs/$call.peers.$1
  [[ -n $torch ]] || return 0
  measured "peers of $1 ($part)" "$file" "$3" "${python[@]}" benchmarks/peers/bench_device_peers.py "$1" --repetitions "$2" \
    --out "$file.unfinished" "${@:4}"
}

# compiled WORK MOST [ARGUMENTS...]: a minute of what there is at most is for measuring, the rest for torch.compile.
compiled() {
  local left
  left=$(seconds_left)
  if ((left > $2)); then left=$2; fi
  peers "$1" "$short" "$2" --compiled --compile-seconds $((left > 90 ? left - 60 : 30)) "${@:3}"
}

# ---- Parts ----

# Catch2 2 and 3 list names alone in different ways, and 2 returns their number.
listed_cases() {
  local names
  names=$("$test_program" "[gpu],[cuda]" --list-test-names-only 2>/dev/null) || true
  [[ -n $names ]] || names=$("$test_program" "[gpu],[cuda]" --list-tests --verbosity quiet) || true
  # Those of kernels as their list has them, then the others, golden sets, and whole runs.
  awk -F'|' 'FNR == NR { if (!/^#/ && !($2 in place)) place[$2] = ++count; next }
    NF { print ($0 in place ? place[$0] : /^(a run|two runs) on a device/ ? 9000 : /^golden/ ? 8000 : 7000) "|" $0 }' \
    "$cases" - <<<"$names" | sort -s -t '|' -k 1,1n | cut -d '|' -f 2-
}

# run_case NAME: in a process of its own; passed is what made assertions, all of them good, and left nothing out.
run_case() {
  local log status=0 result spec
  trap '' INT HUP  # the script tells its cases by TERM
  trap stop TERM
  log=$(mktemp "$scratch/case.XXXXXX") SECONDS=0
  # shellcheck disable=SC2001
  spec=$(sed 's/[][\\,]/\\&/g' <<<"$1")  # commas and brackets mean something to Catch2
  bounded 200 "$test_program" "$spec" --durations yes >"$log" 2>&1 || status=$?
  case $status in
    0) result=passed ;;
    124 | 125) result="not finished" ;;
    *) result=failed ;;
  esac
  if [[ $result == passed ]] && { ! grep -q '^All tests passed' "$log" ||
    grep -qE '^(no CUDA device|skipped:|golden .*: skipped \((no |shared))' "$log"; }; then
    result=skipped
  fi
  (
    flock 9
    echo "== $1"
    tail -c 100000 "$log"
    echo "$result|$1" >>"$kept/cases.txt"
  ) 9>"$scratch/lock" >>"$kept/tests.txt"
  if grep -q '^test cases:' "$log"; then status=1; fi  # Catch2 ended it, with the number of failed assertions
  echo "$result$(by_signal $status) in $SECONDS s: $1"
  if [[ $result == failed ]]; then tail -n 40 "$log"; fi
}

# Names of those that came to an end when they ran last.
finished_cases() {
  [[ ! -e $kept/cases.txt ]] ||
    awk -F'|' '{ last[$2] = $1 } END { for (name in last) if (last[name] != "not finished") print name }' "$kept/cases.txt"
}

# run_cases MOST NAMES...: so many at a time.
run_cases() {
  local name
  for name in "${@:2}"; do
    run_case "$name" &
    while (($(jobs -pr | wc -l) >= $1)); do wait -n || true; done
  done
  while [[ -n $(jobs -pr) ]]; do wait || true; done  # a signal ends a wait
}

# With a file of cases, those that an earlier call finished of a part that was cut off are left out.
run_tests() {
  local names=() together=() counting=() one_by_one=() name finished
  local alone='others have left little of' counted='waits? for nothing|the profiler counts'
  [[ -n $before ]] || : >"$kept/tests.txt"
  finished=$(finished_cases)
  date +%F >"$kept/date"
  mapfile -t names < <(listed_cases)
  [[ ${#names[@]} -gt 0 ]] || remember failed "no test case was found"
  for name in "${names[@]}"; do
    if [[ -n $before ]] && grep -qxF "$name" <<<"$finished"; then continue; fi
    if [[ $name =~ $alone ]]; then
      one_by_one+=("$name")
    elif [[ $name =~ $counted ]]; then
      counting+=("$name")
    else
      together+=("$name")
    fi
  done
  OMP_NUM_THREADS=$((($(nproc) + jobs - 1) / jobs)) run_cases "$jobs" "${together[@]}"
  run_cases $((jobs < 3 ? jobs : 3)) "${counting[@]}"  # a profiler counts what its own process does
  run_cases 1 "${one_by_one[@]}"
  finished=$(finished_cases)
  for name in "${names[@]}"; do
    grep -qxF "$name" <<<"$finished" || { remember unfinished tests && break; }
  done
  if grep -q "No test cases matched" "$kept/tests.txt"; then remember failed "a test case was not found by its name"; fi
  local line
  # What the profiler counted, and what was left out for want of something.
  while read -r line; do remember check "$line"; done < <(grep -hE '^skipped:|: -?[0-9]+ waits or read-backs' "$kept/tests.txt")
  if grep -q "^no CUDA device" "$kept/tests.txt"; then
    remember failed "no device: nothing was tested"
    return 1
  fi
}

# The smallest case that launches every kernel of ours; races first, which the emulation of kernels on the CPU cannot see. Without
# LibTorch's cache of memory, which costs memcheck time, what lies behind a tensor is nobody's. Errors of calls are not counted:
# LibTorch asks for things to find out whether they are there. A finding is what a tool ends with 99 for and sums up; where it
# does not work on a machine (some have no counters to give), nothing is known, and rows are proposed as without it.
run_sanitizer() {
  local sanitizer tool most uncached began status covered said found
  sanitizer=$(PATH=$PATH:/usr/local/cuda/bin command -v compute-sanitizer) || sanitizer=
  [[ -n $before ]] || : >"$kept/sanitizer.txt"
  for tool in racecheck memcheck synccheck; do
    if grep "^check $tool: clean" <<<"$before" >>"$kept/status/$part"; then continue; fi
    if [[ -z $sanitizer ]]; then
      remember check "$tool: skipped, compute-sanitizer is not installed"
      continue
    fi
    most=60 uncached=()
    case $tool in
      racecheck) most=90 ;;
      memcheck) uncached=(env PYTORCH_NO_CUDA_MEMORY_CACHING=1) ;;
    esac
    echo "== $tool" | tee -a "$kept/sanitizer.txt"
    began=$SECONDS status=0
    bounded $most "${uncached[@]}" bash -o pipefail -c 'logged "$@"' - "$kept/sanitizer.txt" "$sanitizer" --tool "$tool" \
      --kernel-name kernel_substring=daug --report-api-errors no --print-limit 20 --error-exitcode 99 \
      "$test_program" "[every_kernel]" || status=$?
    said=$(tac "$kept/sanitizer.txt" | sed "/^== $tool/q") || true  # backwards, to where it begins
    covered=$(sed -n 's/^every kernel: //p' <<<"$said" | tac | paste -s -d, - | sed 's/,/, /g')
    found=$(grep -m 1 -oE '[A-Z]+ SUMMARY: [1-9].*' <<<"$said") || found=
    case $status in
      0) remember check "$tool: clean, $((SECONDS - began)) s" ;;
      125) remember late "$tool" ;;
      123 | 124) remember check "$tool: not finished in $((SECONDS - began)) s, by then through: ${covered:-nothing}" ;;
      *)
        if [[ $status -eq 99 && -n $found ]]; then
          remember check "$tool: FAILED, $found"
          remember failed "$tool"
        else
          remember check "$tool: did not run to its end, status $status"
        fi ;;
    esac
  done
}

# profiled WORK PROGRAM FILTER: in what is left of the part's minute. Its times, seen by the profiler, are no figures.
profiled() {
  local most=$((60 - SECONDS + began))
  echo "== profile of $1" >>"$kept/log.txt"
  if ((most < 1)); then remember late "profile of $1" && return; fi
  DAUG_BENCH_PROFILE=$kept/profile.txt attempt "profile of $1" "$most" bash -o pipefail -c 'logged "$@"' - "$kept/log.txt" \
    "$built/benchmarks/$2" --benchmark_filter="^($3)" --benchmark_repetitions=1 --benchmark_min_time=0.001 || true
}

# A million items are made last, which takes longest.
run_profile() {
  local began=$SECONDS
  rm -f "$kept/profile.txt"
  profiled kernels bench_device 'hybrid_loss/(class/)?fused/bfloat16/32768|encoder_maps/fused/|resize_augment/fused/'
  profiled networks bench_device_translator 'unet_256/graph/|training_256/'
  profiled search bench_device 'search/fused/[a-z0-9]+/1000'
}

# A run as far as it comes in the time that is left. It measures how many steps fit; what is not trained takes as long as
# it takes.
run_train() {
  local data=$built/data left log=$scratch/train.txt
  if [[ ! -d $data ]]; then data=${DAUG_GPU_DATA:+$(from_caller "$DAUG_GPU_DATA")}; fi
  [[ -x $built/examples/00_quickstart ]] || { remember check "train: skipped, no .gpu/train.tar.gz"; return 0; }
  [[ -n $data ]] || { remember check "train: skipped, no data"; return 0; }
  left=$(seconds_left)
  ((limit > 0)) || left=1200
  attempt "a run on $data" $((left + 1)) bash -o pipefail -c 'logged "$@"' - "$log" "$built/examples/00_quickstart" \
    --preset small --size "${DAUG_GPU_SIDE:-128}" --data "$data" --out "$scratch/run" --seed 0 --device cuda \
    --budget "$(awk "BEGIN { print $left * 0.75 / 60 }")" || true
  mkdir -p "$scratch/run"
  mkdir -p "$out"
  (cd "$scratch" && find run train.txt -type f -size -8000k \( -name '*.json' -o -name '*.txt' -o -name '*.log' -o \
    -name report.html -o -path 'run/tables/*' -o -path 'run/figures/*' -o \
    -path 'run/*.safetensors' ! -path 'run/*/*' \) -print0 | tar cz --null -T -) >"$out/train.tgz"
}

run_part() {
  local work status=0
  part=$1
  if (($(seconds_left) <= limit / 40)); then  # what an earlier call found stays
    echo "no time is left for $part"
    [[ -e $kept/status/$part ]] || remember late "all of $part"
    return 0
  fi
  before=$(cat "$kept/status/$1" 2>/dev/null) || true
  grep -qE '^(late|unfinished) ' <<<"$before" || before=  # it was done, and is now done anew
  call=$(sed -n 's/^call //p' <<<"$before")
  [[ -n $call ]] || call=$(date +%Y%m%dT%H%M%S%3N)-$1
  printf '%s\n' "call $call" "late rest of $1" >"$kept/status/$1"  # should nobody come to take it out
  case $1 in
    tests) run_tests || status=$? ;;
    sanitizer) run_sanitizer ;;
    train) run_train ;;
    profile) run_profile ;;
    # bench_device reports the time of one of twenty calls, and min_time counts that: a repetition lasts 20 to 50 ms, and twenty
    # repetitions of the hundred benchmarks of kernels take about two minutes with the seven processes' starts. Of the loss one call
    # is a repetition, of slow works a few are.
    kernels)
      for work in solver_update group_norm_silu group_norm_silu_gradient residual_add adamw encoder_maps resize_augment; do
        kernel $work
      done
      peers encoder_maps "$short" 60
      peers resize_augment "$short" 60 ;;
    loss)
      figures bench_device hybrid_loss hybrid_loss/ "$short" 150
      peers hybrid_loss "$short" 150 --compile-seconds 60 ;;
    search)
      figures bench_device search search/ "$short" 200
      peers search "$short" 60 ;;
    # A network is made and captured once a process; a repetition of U-256 lasts half a second, of translations two to six.
    networks)
      network unet_256 unet_256/ "$short" 100
      peers unet "$short" 100 --files "$DAUG_PEER_FILES"
      figures bench_device unet_64 'unet_64/|guide_64/' "$short" 100
      network walk_64 walk_64/ "$short" 100 ;;
    training)
      network training_256 training_256/ "$short" 100
      peers training "$short" 100
      for work in denoiser_training_64 denoiser_training_256; do network $work $work/ "$short" 100; done ;;
    targets)
      network targets_256 targets_256/ "$quarter" 100
      peers targets "$quarter" 100 ;;
    maps)
      network evidence_256 maps_256/evidence/ "$short" 60
      network difference_256 maps_256/difference/ "$quarter" 60
      peers maps "$short" 90 ;;
    compile)
      network unet_256 unet_256/graph/ "$short" 60
      compiled unet 360 --files "$DAUG_PEER_FILES"
      network training_256 training_256/ "$short" 60
      compiled training 180 ;;
  esac
  [[ -n $stopping ]] || sed -i '/^late rest of /d' "$kept/status/$1"
  return $status
}

# Finds, unpacks or builds the programs: `built` is their folder, `torch` that of Python's torch, or nothing.
prepare() {
  local archive archives=() targets=() aside wheels
  for archive in "${parts[@]}"; do
    if [[ $archive == train ]]; then targets+=(daug_quickstart); else archives=(pack); fi
  done
  if [[ ${#archives[@]} -gt 0 ]]; then targets+=(daug_test_torch bench_device bench_device_translator); fi
  if [[ " ${parts[*]} " == *" train "* ]]; then archives+=(train); fi
  # Importing it would take seconds.
  torch=$("${python[@]}" -c 'import importlib.util
found = importlib.util.find_spec("torch")
print(found.submodule_search_locations[0] if found else "")')
  if [[ -e .gpu/${archives[0]}.tar.gz ]]; then
    [[ -n $torch ]] || { echo "gpu.sh: what was packed needs Python's torch" >&2; return 1; }
    built=$scratch/packed
    mkdir "$built"
    for archive in "${archives[@]/%/.tar.gz}"; do
      [[ -e .gpu/$archive ]] || { echo "gpu.sh: there is no .gpu/$archive" && continue; }
      echo "gpu.sh: not built but from .gpu/$archive of $(date -r ".gpu/$archive" '+%F %R')"
      tar xzf ".gpu/$archive" -C "$built"
    done
    # The C++ library must know what the programs were built with; a bundled older one would come first.
    export LD_LIBRARY_PATH=$torch/lib:$built/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}:${torch%/*}/nvidia/cu13/lib
    export DAUG_SHARED_DATA=${DAUG_SHARED_DATA:-$built/shared}
  else
    build "${targets[@]}"
    built=build
  fi
  if [[ -n ${DAUG_GPU_WHEELS:-} ]]; then
    wheels=$(from_caller "$DAUG_GPU_WHEELS")
    if "${python[@]}" -m pip install -q --no-index --no-deps --no-compile --target "$scratch/wheels" "$wheels"/*.whl; then
      export PYTHONPATH=$scratch/wheels${PYTHONPATH:+:$PYTHONPATH}
    else
      echo "gpu.sh: the wheels of $wheels cannot be used" >&2
    fi
  fi
  test_program=$built/tests/daug_test_torch
  [[ ${archives[0]} == pack ]] || return 0
  (cd "$built" && sha256sum "${programs[@]}") >"$scratch/program"
  if [[ -e $kept/program ]] && ! cmp -s "$scratch/program" "$kept/program"; then
    aside=$kept.before.$(date +%Y%m%dT%H%M%S)
    echo "gpu.sh: programs are others than those of $kept, which is set aside as $aside"
    mv "$kept" "$aside"
    mkdir -p "$kept/runs" "$kept/status"
  fi
  mv "$scratch/program" "$kept/program"
}

run() {
  local next device gone=
  # While somebody holds the device its driver does not start anew for every process, which takes a second or two.
  if [[ -r /dev/nvidia0 ]]; then { exec 8</dev/nvidia0; } 2>/dev/null || true; fi
  out=${1:-${OUT:-}} kept=gpu_results/kept jobs=${DAUG_GPU_JOBS:-$((($(nproc) + 1) / 2))}
  if [[ -n $out ]]; then out=$(from_caller "$out"); else out=gpu_results; fi
  if [[ ! $jobs =~ ^[1-9][0-9]*$ ]]; then
    echo "gpu.sh: DAUG_GPU_JOBS must be a number of 1 or more, not '$jobs'" >&2
    return 2
  fi
  ((jobs <= 8)) || jobs=8
  parts=("${@:2}")
  [[ ${#parts[@]} -gt 0 ]] || parts=("${all[@]}")
  for next in "${parts[@]}"; do
    [[ " ${all[*]} train " == *" $next "* ]] || { echo "gpu.sh: no part named $next" >&2; return 2; }
  done
  mkdir -p "$kept/runs" "$kept/status"
  prepare
  # Clocks are left as they are found; the highest ones and the power limit say what they may come to.
  device=$(nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.memory,power.limit --format=csv,noheader |
    head -n 1) || device="of unknown name"
  echo "device: $device" && echo "$device" >"$kept/device"
  export DAUG_PEER_FILES=gpu_results/peers  # for a later call, too, which may not measure ours again
  mkdir -p "$DAUG_PEER_FILES"
  short=${REPETITIONS:-20} limit=${DAUG_GPU_SECONDS:-500}
  echo "gpu.sh ${parts[*]} (DAUG_GPU_SECONDS=$limit, built from $(cat "$built/commit" 2>/dev/null || commit))" >>"$kept/called"
  quarter=$(((short + 3) / 4)) ends=$(($(date +%s) + limit))
  trap stop INT TERM HUP
  for next in "${parts[@]}"; do
    run_part "$next" || gone=yes
    published "$out"
    [[ -z $gone ]] || break
  done
  cat "$scratch/table.txt"
  [[ -z $stopping ]] || return 130
  [[ -z $(remembered failed) ]]
}

# Python does not see the libraries that were packed.
python=(env "LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}" python3)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
case ${1:-} in
  pack) pack "${@:2}" ;;
  merge) merge "${@:2}" ;;
  *) run "$@" ;;
esac
