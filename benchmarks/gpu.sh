#!/usr/bin/env bash
# Everything there is to know about the CUDA part on one machine: tests of the device kernels, of golden networks and losses (where
# DAUG_SHARED_DATA, by default ../shared or what was packed, has them) and of a whole run beside one on the CPU, then figures, and
# what compute-sanitizer finds of all kernels, where it is installed.
#
#   bash benchmarks/gpu.sh [OUT]       on a machine with a device and LibTorch with CUDA (Python's torch will do); writes
#                                      gpu.json and gpu.md into OUT (default: the variable OUT, or gpu_results)
#   bash benchmarks/gpu.sh pack        on a machine that can build: puts the programs, the libraries they need and the golden
#                                      sets into .gpu/, from which the first form then runs where nothing can be built
#
# Every test case has a process and minutes of its own, and so have the figures of a kernel in one type: what fails or hangs
# costs itself alone, is named in the table and makes the script fail once that is written.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
programs="build/tests/daug_test_torch build/benchmarks/bench_device"

build() {
  cmake --preset default -DDAUG_CUDA=ON -DDAUG_BUILD_TESTS=ON -DDAUG_BUILD_BENCHMARKS=ON
  cmake --build build --target daug_test_torch bench_device
}

if [[ ${1:-} == pack ]]; then
  build
  rm -rf .gpu
  mkdir -p .gpu/lib
  # shellcheck disable=SC2086
  cp $programs .gpu/
  strip .gpu/daug_test_torch .gpu/bench_device
  # What a bare machine lacks; LibTorch, the C and the C++ library are its own.
  ldd .gpu/daug_test_torch .gpu/bench_device | awk '$3 ~ /^\// {print $3}' | sort -u |
    grep -E '/lib(fmt|hwy|benchmark|cpp-httplib|z|brotli[a-z]*|ssl|crypto)\.so' | xargs -I{} cp -L {} .gpu/lib/ || true
  golden=${DAUG_SHARED_DATA:-../shared}/golden
  mkdir -p .gpu/shared/golden
  cp "$golden"/{unet,classifier,loss}_* .gpu/shared/golden/ || echo "gpu.sh: not all golden sets are in $golden" >&2
  du -sh .gpu
  exit 0
fi

out=${1:-${OUT:-gpu_results}}
mkdir -p "$out/runs"
rm -f "$out"/runs/gpu.*
if [[ -d .gpu ]]; then
  torch=$(python3 -c 'import torch, os; print(os.path.dirname(torch.__file__))')
  # The C++ library must know what the programs were built with; a bundled older one would come first.
  export LD_LIBRARY_PATH=$torch/lib:$PWD/.gpu/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export DAUG_SHARED_DATA=${DAUG_SHARED_DATA:-$PWD/.gpu/shared}
  test_program=.gpu/daug_test_torch bench_program=.gpu/bench_device
else
  build
  test_program=build/tests/daug_test_torch bench_program=build/benchmarks/bench_device
fi

device=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1) || device="of unknown name"
echo "device: $device"
failed=()

# Catch2 2 and 3 list names alone in different ways, and 2 returns their number.
mapfile -t cases < <("$test_program" "[gpu],[cuda]" --list-test-names-only 2>/dev/null)
[[ ${#cases[@]} -gt 0 ]] || mapfile -t cases < <("$test_program" "[gpu],[cuda]" --list-tests --verbosity quiet)
[[ ${#cases[@]} -gt 0 ]] || failed+=("no test case was found")
: >"$out/tests.txt"
for name in "${cases[@]}"; do
  echo "== $name" | tee -a "$out/tests.txt"
  spec=$(sed 's/[][\\,]/\\&/g' <<<"$name")  # commas and brackets mean something to Catch2
  timeout -k 10 200 "$test_program" "$spec" --durations yes 2>&1 | tee -a "$out/tests.txt" || failed+=("test '$name'")
done
if grep -q "no CUDA device" "$out/tests.txt"; then echo "no device: nothing was tested"; exit 1; fi
if grep -q "No test cases matched" "$out/tests.txt"; then failed+=("a test case was not found by its name"); fi

figures() {  # KERNEL TYPE, the rate that it is compared with, repetitions
  local run=$out/runs/gpu.$1.$2
  timeout -k 10 100 "$bench_program" --benchmark_filter="^($3|$1/[a-z]+/$2/)" --benchmark_repetitions="$4" \
    --benchmark_min_time=0.0025 --benchmark_display_aggregates_only=true \
    --benchmark_out="$run.unfinished" --benchmark_out_format=json &&
    mv "$run.unfinished" "$run.json" || failed+=("figures of $1 in $2")
}
# bench_device reports the time of one of twenty calls, and min_time counts that: a repetition lasts 50 to 70 ms, and twenty
# repetitions of the 71 benchmarks of kernels (copying once a process) take about two minutes. Of the loss, one call is a
# repetition; of a search, one is as long as twenty of it.
for kernel in group_norm_silu group_norm_silu_gradient solver_update unet_64 guide_64; do
  for type in float32 bfloat16; do figures $kernel $type copy 20; done
done
figures adamw float32 copy 20
for type in float32 float16; do figures encoder_maps $type copy 20; done
figures resize_augment float32 copy 20
for type in float32 bfloat16 int8; do figures search $type copy 5; done
figures hybrid_loss bfloat16 products 10
# Python's peers of three of these, where there is torch for it; what is not installed besides is said and left out.
if python3 -c 'import torch' 2>/dev/null; then
  for work in hybrid_loss resize_augment search; do
    timeout -k 10 60 python3 benchmarks/peers/bench_device_peers.py "$work" --repetitions 10 \
      --out "$out/runs/gpu.peers.$work.json" || failed+=("peers of $work")
  done
fi
# What the profiler counted in sampling loops, and what was left out for want of something.
mapfile -t checks < <(grep -hE '^(sampling loop,|skipped:)' "$out/tests.txt")
# The smallest case that launches every kernel of ours. Without LibTorch's cache of memory what lies behind a tensor is nobody's.
# Errors of calls are not counted: LibTorch asks for things to find out whether they are there.
sanitizer=$(PATH=$PATH:/usr/local/cuda/bin command -v compute-sanitizer) || sanitizer=
for tool in memcheck racecheck synccheck; do
  if [[ -z $sanitizer ]]; then
    checks+=("$tool: skipped, compute-sanitizer is not installed")
    continue
  fi
  echo "== $tool" | tee -a "$out/tests.txt"
  began=$SECONDS status=0
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout -k 10 60 "$sanitizer" --tool "$tool" --kernel-name kernel_substring=daug \
    --report-api-errors no --print-limit 20 --error-exitcode 9 "$test_program" "[every_kernel]" 2>&1 |
    tee -a "$out/tests.txt" || status=$?
  case $status in
    0) checks+=("$tool: clean, $((SECONDS - began)) s") ;;
    124 | 137) checks+=("$tool: not finished in 60 s") failed+=("$tool") ;;
    *) checks+=("$tool: FAILED, status $status") failed+=("$tool") ;;
  esac
done
note="all tests passed"
[[ ${#failed[@]} -eq 0 ]] || note="FAILED:$(printf ' %s;' "${failed[@]}")"
shopt -s nullglob
python3 benchmarks/support/table.py gpu "$out/gpu" "$out"/runs/gpu.*.json --title "CUDA kernels" \
  --note "Device $device, ${note%;}" "${checks[@]/#/--check=}"
[[ ${#failed[@]} -eq 0 ]]
