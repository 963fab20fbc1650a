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
# PARTS, by default all but the last, in the order given (in brackets minutes, estimated: no device has run them yet). Peers are
# Python's, where there is torch for it; what is not installed besides is said and left out.
#   tests      every test case of devices: those of every kernel first, whole runs last, several at a time (DAUG_GPU_JOBS: half
#              of the cores, at most 8); what fills the device or counts waits comes behind them, alone   (1 to 2)
#   networks   calls of U-256 at batch 26 and of U-64 and its guide at batch 1 from CUDA graphs:
#              PyTorch, eager; 50 steps of U-64                                                 (2)
#   training   a training step of U-256 at batch 16: PyTorch, eager; steps of train_denoiser, U-64 and U-256 at batch 16,
#              from CUDA graphs: plain ones                                                     (1.5)
#   kernels    device kernels: LibTorch's operators; torchvision                                 (2)
#   targets    13 targets of one 256 x 256 image: one at a time in PyTorch                       (1.5)
#   maps       evidence and difference maps of seven targets: the published loop in PyTorch      (1)
#   loss       contrastive loss: PyTorch, Inf-CL                                                 (1)
#   search     exact search of a million items: FAISS                                            (1)
#   sanitizer  racecheck, memcheck and synccheck of every kernel                                 (1 to 3)
#   compile    U-256 and its training step again, beside torch.compile, 100 s each at most       (5)
#   train      by name alone: the preset small on a cohort (of pack --data, or DAUG_GPU_DATA) at DAUG_GPU_SIDE (128) pixels, with
#              a budget of three quarters of the time that is left                              (all there is)
# What would begin later than DAUG_GPU_SECONDS (400; 0: no limit) after the start, builds not counted, or is not finished then, is
# named in the table and left for another call with those parts. REPETITIONS (20) of short works; of losses half as many, of whole
# translations and maps and of searches a quarter.
#
# OUT gets, after every part anew: gpu.md and gpu.json, the table; tests.txt and sanitizer.txt, what they said;
# device_runs.csv, a row for src/kernels/cuda/device_runs.csv of each kernel whose test cases (support/device_cases.txt) all ran
# and passed; runs.tgz, what the table is made of; train.tgz, of part train, whose weights of 8 MB and more stay behind. What
# earlier calls found stays in gpu_results/kept, and is in the table, too; when the test program is another it is set aside. A
# test case that is not finished keeps the result it had. What ends the script (Ctrl-C, TERM) ends what runs, and what was found
# by then is written.
#
# A machine lent for 15 minutes, of which starting it, copying and waiting are part, 10 a command, and whose results are at most 8
# files: first what nothing else can tell, then what costs most to miss.
#   pack; there, with .gpu/pack.tar.gz:
#   DAUG_GPU_SECONDS=400 bash benchmarks/gpu.sh "$OUT" tests networks targets kernels       ended after 450 s
#   DAUG_GPU_SECONDS=250 bash benchmarks/gpu.sh "$OUT" sanitizer training maps compile      at once after it, ended after 300 s
#   Next time: loss, search, compile. Or pack --data, and with .gpu/train.tar.gz:
#   DAUG_GPU_SECONDS=540 bash benchmarks/gpu.sh "$OUT" train                                ended after 590 s
#
# Every test case has a process and minutes of its own, and so have the figures of a kernel in one type: what fails or hangs
# costs itself alone, is named in the table and makes the script fail once that is written.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
programs=(tests/daug_test_torch benchmarks/bench_device benchmarks/bench_device_translator)
cases=benchmarks/support/device_cases.txt
all=(tests networks training kernels targets maps loss search sanitizer compile)

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

# staged FOLDER PROGRAMS...: of build, and of libraries what a bare machine lacks; LibTorch, the C and the C++ library are
# its own.
staged() {
  local folder=$1 program
  shift
  rm -rf "$folder"
  mkdir -p "$folder/lib"
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
    echo "gpu.sh: that is too much to travel" >&2
    return 1
  fi
}

# DAUG_GPU_ARCHITECTURES (90) is what kernels are compiled for; build/ keeps it.
pack() {
  local options=(-- "-DDAUG_CUDA_ARCHITECTURES=${DAUG_GPU_ARCHITECTURES:-90}") golden=${DAUG_SHARED_DATA:-../shared}/golden
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
  cp -rL --no-preserve=mode "$golden"/{unet,classifier,loss,sampler,clip,knn}_* "$golden"/diffusion_{chain,compat,step}* \
    "$golden"/heatmap_* "$golden"/resize_torch* .gpu/pack/shared/golden/ || echo "gpu.sh: not all golden sets are in $golden" >&2
  archived .gpu/pack
}

# ---- What was found: a file of runs/ for figures, and one of status/ for all else of a part ----

# remember KIND TEXT: of the part that runs; KIND is failed, late or check.
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
  local note="nothing failed" failed late checks parts=() part file rest runs status=0
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
  for file in tests.txt sanitizer.txt; do
    if [[ -e $kept/$file ]]; then tail -c 15000000 "$kept/$file" >"$1/$file"; fi
  done
  tar czf "$1/runs.tgz" -C "$kept" . || status=$?
  shopt -s nullglob
  runs=("$kept"/runs/gpu.*.json)
  shopt -u nullglob
  "${python[@]}" benchmarks/support/table.py gpu "$1/gpu" "${runs[@]}" --title "CUDA kernels" \
    --note "Device $(<"$kept/device"), parts ${parts[*]}, $note" "${checks[@]/#/--check=}" >"$scratch/table.txt" || status=$?
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

# merge RUNS.tgz... OUT
merge() {
  local out archive one file part=programs
  [[ $# -gt 1 ]] || { echo "gpu.sh: merge RUNS.tgz... OUT" >&2; return 2; }
  out=$(from_caller "${*: -1}") kept=$scratch/merged one=$scratch/one
  mkdir -p "$kept/status"
  for archive in "${@:1:$#-1}"; do
    rm -rf "$one" && mkdir "$one"
    tar xzf "$(from_caller "$archive")" -C "$one"
    if [[ -e $kept/device ]] && ! cmp -s "$kept/device" "$one/device"; then
      echo "gpu.sh: $archive is of device $(<"$one/device"), what came before it of $(<"$kept/device")" >&2
      return 1
    fi
    if [[ -e $kept/program && -e $one/program ]] && ! cmp -s "$kept/program" "$one/program"; then
      remember check "$archive is of another test program than what came before it"
    fi
    for file in "$one"/status/*; do
      if grep -q '^late all of ' "$file" && [[ -e $kept/status/${file##*/} ]]; then
        rm "$file"
      else
        rm -f "$kept/runs/gpu.${file##*/}".*
      fi
    done
    if [[ -e $one/cases.txt ]]; then
      cat "$one/cases.txt" >>"$kept/cases.txt"
      rm "$one/cases.txt"
    fi
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

# figures PROGRAM WORK FILTER REPETITIONS MOST: WORK names the file
figures() {
  local run=$kept/runs/gpu.$part.$2
  attempt "figures of $2 ($part)" "$5" "$built/benchmarks/$1" --benchmark_filter="$3" --benchmark_repetitions="$4" \
    --benchmark_min_time=0.0025 --benchmark_display_aggregates_only=true \
    --benchmark_out="$run.unfinished" --benchmark_out_format=json || return 0
  mv "$run.unfinished" "$run.json"
}

kernel() { figures bench_device "$1.$2" "^($3|$1/[a-z]+/$2/)" "$4" 100; }  # KERNEL TYPE RATE REPETITIONS

network() { figures bench_device_translator "$1" "^(products|$2)" "$3" "$4"; }  # WORK FILTER REPETITIONS MOST

# peers WORK REPETITIONS MOST [ARGUMENTS...]
peers() {
  [[ -n $torch ]] || return 0
  attempt "peers of $1 ($part)" "$3" "${python[@]}" benchmarks/peers/bench_device_peers.py "$1" --repetitions "$2" \
    --out "$kept/runs/gpu.$part.peers.$1.json" "${@:4}" || true
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
  echo "$result$(by_signal $status) in $SECONDS s: $1"
  if [[ $result == failed ]]; then tail -n 40 "$log"; fi
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

run_tests() {
  local names=() together=() one_by_one=() name line
  local alone='others have left little of|waits for nothing|the profiler counts'
  : >"$kept/tests.txt"
  date +%F >"$kept/date"
  mapfile -t names < <(listed_cases)
  [[ ${#names[@]} -gt 0 ]] || remember failed "no test case was found"
  for name in "${names[@]}"; do
    if [[ $name =~ $alone ]]; then one_by_one+=("$name"); else together+=("$name"); fi
  done
  OMP_NUM_THREADS=$((($(nproc) + jobs - 1) / jobs)) run_cases "$jobs" "${together[@]}"
  run_cases 1 "${one_by_one[@]}"
  if grep -q "No test cases matched" "$kept/tests.txt"; then remember failed "a test case was not found by its name"; fi
  # What the profiler counted in sampling loops, maps and trainings, and what was left out for want of something.
  while read -r line; do remember check "$line"; done < <(grep -hE '^(sampling loop,|maps,|training steps,|skipped:)' "$kept/tests.txt")
  if grep -q "^no CUDA device" "$kept/tests.txt"; then
    remember failed "no device: nothing was tested"
    return 1
  fi
}

# logged LOG COMMAND...: what it says is also added to a file.
logged() { "${@:2}" 2>&1 | tee -a "$1"; }
export -f logged

# The smallest case that launches every kernel of ours; races first, which the emulation of kernels on the CPU cannot see. Without
# LibTorch's cache of memory, which costs memcheck time, what lies behind a tensor is nobody's. Errors of calls are not counted:
# LibTorch asks for things to find out whether they are there.
run_sanitizer() {
  local sanitizer tool most uncached began status covered
  sanitizer=$(PATH=$PATH:/usr/local/cuda/bin command -v compute-sanitizer) || sanitizer=
  : >"$kept/sanitizer.txt"
  for tool in racecheck memcheck synccheck; do
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
      --kernel-name kernel_substring=daug --report-api-errors no --print-limit 20 --error-exitcode 9 \
      "$test_program" "[every_kernel]" || status=$?
    covered=$(sed -n "/^== $tool/,\$s/^every kernel: //p" "$kept/sanitizer.txt" | paste -s -d, - | sed 's/,/, /g')
    case $status in
      0) remember check "$tool: clean, $((SECONDS - began)) s" ;;
      125) remember late "$tool" ;;
      123 | 124) remember check "$tool: not finished in $((SECONDS - began)) s, by then through: ${covered:-nothing}" ;;
      *) remember check "$tool: FAILED, status $status" && remember failed "$tool" ;;
    esac
  done
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
  local work type status=0
  part=$1
  if (($(seconds_left) <= limit / 40)); then  # what an earlier call found stays
    echo "no time is left for $part"
    [[ -e $kept/status/$part ]] || remember late "all of $part"
    return 0
  fi
  rm -f "$kept/runs/gpu.$1".*
  echo "late rest of $1" >"$kept/status/$1"  # should nobody come to take it out
  case $1 in
    tests) run_tests || status=$? ;;
    sanitizer) run_sanitizer ;;
    train) run_train ;;
    # bench_device reports the time of one of twenty calls, and min_time counts that: a repetition lasts 50 to 70 ms, and twenty
    # repetitions of the 85 benchmarks of kernels (copying once a process) take more than two minutes. Of the loss, one call is a
    # repetition; of a search, one is as long as twenty of it.
    kernels)
      for work in solver_update group_norm_silu group_norm_silu_gradient residual_add; do
        for type in float32 bfloat16; do kernel $work $type copy "$short"; done
      done
      kernel adamw float32 copy "$short"
      for type in float32 float16; do kernel encoder_maps $type copy "$short"; done
      kernel resize_augment float32 copy "$short"
      peers resize_augment "$half" 60 ;;
    loss)
      kernel hybrid_loss bfloat16 products "$half"
      peers hybrid_loss "$half" 60 ;;
    search)
      for type in float32 bfloat16 int8; do kernel search $type copy "$quarter"; done
      peers search "$half" 60 ;;
    # A network is made and captured once a process; a repetition of U-256 lasts half a second, of translations and maps up to three.
    networks)
      network unet_256 unet_256/ "$short" 100
      for work in unet_64 guide_64; do
        for type in float32 bfloat16; do kernel $work $type copy "$short"; done
      done
      peers unet "$short" 100 --files "$DAUG_PEER_FILES"
      network walk_64 walk_64/ "$short" 100 ;;
    training)
      network training_256 training_256/ "$short" 100
      peers training "$short" 100
      for work in denoiser_training_64 denoiser_training_256; do network $work $work/ "$short" 100; done ;;
    targets)
      network targets_256 targets_256/ "$quarter" 100
      peers targets "$quarter" 100 ;;
    maps)
      network maps_256 maps_256/ "$quarter" 100
      peers maps "$quarter" 60 ;;
    compile)
      network unet_256 unet_256/graph/ "$short" 60
      peers unet "$short" 150 --compiled --files "$DAUG_PEER_FILES"
      network training_256 training_256/ "$half" 60
      peers training "$half" 150 --compiled ;;
  esac
  [[ -n $stopping ]] || sed -i '/^late rest of /d' "$kept/status/$1"
  return $status
}

# Finds, unpacks or builds the programs: `built` is their folder, `torch` that of Python's torch, or nothing.
prepare() {
  local archive archives=() targets=() before
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
    export LD_LIBRARY_PATH=$torch/lib:$built/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export DAUG_SHARED_DATA=${DAUG_SHARED_DATA:-$built/shared}
  else
    build "${targets[@]}"
    built=build
  fi
  test_program=$built/tests/daug_test_torch
  [[ ${archives[0]} == pack ]] || return 0
  sha256sum <"$test_program" >"$scratch/program"
  if [[ -e $kept/program ]] && ! cmp -s "$scratch/program" "$kept/program"; then
    before=$kept.before.$(date +%Y%m%dT%H%M%S)
    echo "gpu.sh: the test program is another than that of $kept, which is set aside as $before"
    mv "$kept" "$before"
    mkdir -p "$kept/runs" "$kept/status"
  fi
  mv "$scratch/program" "$kept/program"
}

run() {
  local next device gone=
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
  device=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1) || device="of unknown name"
  echo "device: $device" && echo "$device" >"$kept/device"
  export DAUG_PEER_FILES=$scratch/peers
  mkdir "$DAUG_PEER_FILES"
  short=${REPETITIONS:-20} limit=${DAUG_GPU_SECONDS:-400}
  half=$(((short + 1) / 2)) quarter=$(((short + 3) / 4)) ends=$(($(date +%s) + limit))
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
