#!/usr/bin/env bash
# Everything there is to know about the CUDA part on one machine: tests of the device kernels, of golden networks and losses (where
# DAUG_SHARED_DATA, by default ../shared or what was packed, has them) and of a whole run beside one on the CPU, then figures, and
# what compute-sanitizer finds of all kernels, where it is installed.
#
#   bash benchmarks/gpu.sh [OUT] [PARTS...]  on a machine with a device and LibTorch with CUDA (Python's torch will do); writes
#                                            gpu.json and gpu.md into OUT (default: the variable OUT, or gpu_results)
#   bash benchmarks/gpu.sh pack              on a machine that can build: puts the programs, the libraries they need and the golden
#                                            sets into .gpu/, from which the first form then runs where nothing can be built
#
# PARTS, by default all, in the order given (in brackets minutes, estimated: no device has run them yet). Peers are Python's, where
# there is torch for it; what is not installed besides is said and left out.
#   tests      every test case of devices                                                       (3.5)
#   networks   calls of U-256 at batch 26 and of U-64 and its guide at batch 1 from CUDA graphs:
#              PyTorch, eager; 50 steps of U-64                                                 (2)
#   training   a training step of U-256 at batch 16: PyTorch, eager                              (0.7)
#   kernels    device kernels: LibTorch's operators; torchvision                                 (2)
#   targets    13 targets of one 256 x 256 image: one at a time in PyTorch                       (1.5)
#   maps       evidence and difference maps of seven targets: the published loop in PyTorch      (1)
#   loss       contrastive loss: PyTorch, Inf-CL                                                 (1)
#   search     exact search of a million items: FAISS                                            (1)
#   sanitizer  memcheck, racecheck and synccheck of every kernel                                 (1 to 3)
#   compile    U-256 and its training step again, beside torch.compile, 100 s each at most       (5)
# What would begin later than DAUG_GPU_SECONDS (510; 0: no limit) after the start, builds not counted, or is not finished then, is
# named in the table and left for another call with those parts; the table is made of all that lies in OUT/runs. Lent for 15
# minutes: "OUT tests kernels sanitizer", then "OUT networks training targets maps compile". REPETITIONS (20) of short works; of
# losses half as many, of whole translations and maps and of searches a quarter.
#
# Every test case has a process and minutes of its own, and so have the figures of a kernel in one type: what fails or hangs
# costs itself alone, is named in the table and makes the script fail once that is written.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
programs="build/tests/daug_test_torch build/benchmarks/bench_device build/benchmarks/bench_device_translator"

build() {
  cmake --preset default -DDAUG_CUDA=ON -DDAUG_BUILD_TESTS=ON -DDAUG_BUILD_BENCHMARKS=ON
  cmake --build build --target daug_test_torch bench_device bench_device_translator
}

if [[ ${1:-} == pack ]]; then
  build
  rm -rf .gpu
  mkdir -p .gpu/lib
  # shellcheck disable=SC2086
  cp $programs .gpu/
  strip .gpu/daug_test_torch .gpu/bench_device .gpu/bench_device_translator
  # What a bare machine lacks; LibTorch, the C and the C++ library are its own.
  ldd .gpu/daug_test_torch .gpu/bench_device .gpu/bench_device_translator | awk '$3 ~ /^\// {print $3}' | sort -u |
    grep -E '/lib(fmt|hwy|benchmark|cpp-httplib|z|brotli[a-z]*|ssl|crypto)\.so' | xargs -I{} cp -L {} .gpu/lib/ || true
  golden=${DAUG_SHARED_DATA:-../shared}/golden
  mkdir -p .gpu/shared/golden
  cp "$golden"/{unet,classifier,loss}_* .gpu/shared/golden/ || echo "gpu.sh: not all golden sets are in $golden" >&2
  du -sh .gpu
  exit 0
fi

out=${1:-${OUT:-gpu_results}}
all=(tests networks training kernels targets maps loss search sanitizer compile)
parts=("${@:2}")
[[ ${#parts[@]} -gt 0 ]] || parts=("${all[@]}")
for part in "${parts[@]}"; do
  [[ " ${all[*]} " == *" $part "* ]] || { echo "gpu.sh: no part named $part" >&2; exit 2; }
done
mkdir -p "$out/runs"
if [[ -d .gpu ]]; then
  torch=$(python3 -c 'import torch, os; print(os.path.dirname(torch.__file__))')
  # The C++ library must know what the programs were built with; a bundled older one would come first.
  export LD_LIBRARY_PATH=$torch/lib:$PWD/.gpu/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export DAUG_SHARED_DATA=${DAUG_SHARED_DATA:-$PWD/.gpu/shared}
  test_program=.gpu/daug_test_torch benchmarks=.gpu
else
  build
  test_program=build/tests/daug_test_torch benchmarks=build/benchmarks
fi

device=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1) || device="of unknown name"
echo "device: $device"
DAUG_PEER_FILES=$(mktemp -d)
export DAUG_PEER_FILES
trap 'rm -rf "$DAUG_PEER_FILES"' EXIT
python=
if python3 -c 'import torch' 2>/dev/null; then python=python3; fi
short=${REPETITIONS:-20} limit=${DAUG_GPU_SECONDS:-510} SECONDS=0
half=$(((short + 1) / 2)) quarter=$(((short + 3) / 4))
failed=() late=() checks=()

# attempt WHAT MOST COMMAND...: in so many seconds at most, and within the limit. 125: it was not begun for want of time; 124 or
# 137: it was not finished.
attempt() {
  local left=$2 status=0
  if [[ $limit -gt 0 && $((limit - SECONDS)) -lt $2 ]]; then left=$((limit - SECONDS)); fi
  if [[ $left -lt 10 ]]; then late+=("$1"); return 125; fi
  timeout -k 10 "$left" "${@:3}" || status=$?
  if [[ $status -eq 124 || $status -eq 137 ]] && [[ $left -lt $2 ]]; then
    late+=("$1")
  elif [[ $status -ne 0 ]]; then
    failed+=("$1")
  fi
  return $status
}

# logged LOG COMMAND...: what it says is also added to a file.
logged() { "${@:2}" 2>&1 | tee -a "$1"; }
export -f logged

# figures PART PROGRAM WORK FILTER REPETITIONS MOST: WORK names the file
figures() {
  local run=$out/runs/gpu.$1.$3
  attempt "figures of $3 ($1)" "$6" "$benchmarks/$2" --benchmark_filter="$4" --benchmark_repetitions="$5" \
    --benchmark_min_time=0.0025 --benchmark_display_aggregates_only=true \
    --benchmark_out="$run.unfinished" --benchmark_out_format=json || return 0
  mv "$run.unfinished" "$run.json"
}

kernel() { figures "$1" bench_device "$2.$3" "^($4|$2/[a-z]+/$3/)" "$5" 100; }  # PART KERNEL TYPE RATE REPETITIONS

network() { figures "$1" bench_device_translator "$2" "^(products|$3)" "$4" "$5"; }  # PART WORK FILTER REPETITIONS MOST

# peers PART WORK REPETITIONS MOST [ARGUMENTS...]
peers() {
  [[ -n $python ]] || return 0
  attempt "peers of $2 ($1)" "$4" "$python" benchmarks/peers/bench_device_peers.py "$2" --repetitions "$3" \
    --out "$out/runs/gpu.$1.peers.$2.json" "${@:5}" || true
}

run_tests() {
  # Catch2 2 and 3 list names alone in different ways, and 2 returns their number.
  local cases name spec
  mapfile -t cases < <("$test_program" "[gpu],[cuda]" --list-test-names-only 2>/dev/null)
  [[ ${#cases[@]} -gt 0 ]] || mapfile -t cases < <("$test_program" "[gpu],[cuda]" --list-tests --verbosity quiet)
  [[ ${#cases[@]} -gt 0 ]] || failed+=("no test case was found")
  : >"$out/tests.txt"
  for name in "${cases[@]}"; do
    echo "== $name" | tee -a "$out/tests.txt"
    spec=$(sed 's/[][\\,]/\\&/g' <<<"$name")  # commas and brackets mean something to Catch2
    attempt "test '$name'" 200 bash -o pipefail -c 'logged "$@"' - "$out/tests.txt" "$test_program" "$spec" --durations yes ||
      true
  done
  if grep -q "no CUDA device" "$out/tests.txt"; then echo "no device: nothing was tested"; exit 1; fi
  if grep -q "No test cases matched" "$out/tests.txt"; then failed+=("a test case was not found by its name"); fi
  # What the profiler counted in sampling loops, and what was left out for want of something.
  mapfile -t -O "${#checks[@]}" checks < <(grep -hE '^(sampling loop,|skipped:)' "$out/tests.txt")
}

# The smallest case that launches every kernel of ours. Without LibTorch's cache of memory what lies behind a tensor is nobody's.
# Errors of calls are not counted: LibTorch asks for things to find out whether they are there.
run_sanitizer() {
  local sanitizer tool began status
  sanitizer=$(PATH=$PATH:/usr/local/cuda/bin command -v compute-sanitizer) || sanitizer=
  for tool in memcheck racecheck synccheck; do
    if [[ -z $sanitizer ]]; then
      checks+=("$tool: skipped, compute-sanitizer is not installed")
      continue
    fi
    echo "== $tool" | tee -a "$out/sanitizer.txt"
    began=$SECONDS status=0
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 attempt "$tool" 60 bash -o pipefail -c 'logged "$@"' - "$out/sanitizer.txt" "$sanitizer" \
      --tool "$tool" --kernel-name kernel_substring=daug --report-api-errors no --print-limit 20 --error-exitcode 9 \
      "$test_program" "[every_kernel]" || status=$?
    case $status in
      0) checks+=("$tool: clean, $((SECONDS - began)) s") ;;
      124 | 125 | 137) checks+=("$tool: not finished in $((SECONDS - began)) s") ;;
      *) checks+=("$tool: FAILED, status $status") ;;
    esac
  done
}

run_part() {
  local work type
  rm -f "$out/runs/gpu.$1".*
  case $1 in
    tests) run_tests ;;
    sanitizer) run_sanitizer ;;
    # bench_device reports the time of one of twenty calls, and min_time counts that: a repetition lasts 50 to 70 ms, and twenty
    # repetitions of the 71 benchmarks of kernels (copying once a process) take about two minutes. Of the loss, one call is a
    # repetition; of a search, one is as long as twenty of it.
    kernels)
      for work in group_norm_silu group_norm_silu_gradient residual_add solver_update; do
        for type in float32 bfloat16; do kernel "$1" $work $type copy "$short"; done
      done
      kernel "$1" adamw float32 copy "$short"
      for type in float32 float16; do kernel "$1" encoder_maps $type copy "$short"; done
      kernel "$1" resize_augment float32 copy "$short"
      peers "$1" resize_augment "$half" 60 ;;
    loss)
      kernel "$1" hybrid_loss bfloat16 products "$half"
      peers "$1" hybrid_loss "$half" 60 ;;
    search)
      for type in float32 bfloat16 int8; do kernel "$1" search $type copy "$quarter"; done
      peers "$1" search "$half" 60 ;;
    # A network is made and captured once a process; a repetition of U-256 lasts half a second, of translations and maps up to three.
    networks)
      network "$1" unet_256 unet_256/ "$short" 100
      for work in unet_64 guide_64; do
        for type in float32 bfloat16; do kernel "$1" $work $type copy "$short"; done
      done
      peers "$1" unet "$short" 100 --files "$DAUG_PEER_FILES"
      network "$1" walk_64 walk_64/ "$short" 100 ;;
    training)
      network "$1" training_256 training_256/ "$short" 100
      peers "$1" training "$short" 100 ;;
    targets)
      network "$1" targets_256 targets_256/ "$quarter" 100
      peers "$1" targets "$quarter" 100 ;;
    maps)
      network "$1" maps_256 maps_256/ "$quarter" 100
      peers "$1" maps "$quarter" 60 ;;
    compile)
      network "$1" unet_256 unet_256/graph/ "$short" 60
      peers "$1" unet "$short" 150 --compiled --files "$DAUG_PEER_FILES"
      network "$1" training_256 training_256/ "$half" 60
      peers "$1" training "$half" 150 --compiled ;;
  esac
}

for part in "${parts[@]}"; do run_part "$part"; done
if [[ ${#late[@]} -gt 0 ]]; then
  rest=$(printf ' %s;' "${late[@]}")
  checks+=("left for another call after $limit s:${rest%;}")
fi
note="nothing failed"
[[ ${#failed[@]} -eq 0 ]] || note="FAILED:$(printf ' %s;' "${failed[@]}")"
shopt -s nullglob
python3 benchmarks/support/table.py gpu "$out/gpu" "$out"/runs/gpu.*.json --title "CUDA kernels" \
  --note "Device $device, parts ${parts[*]}, ${note%;}" "${checks[@]/#/--check=}"
[[ ${#failed[@]} -eq 0 ]]
