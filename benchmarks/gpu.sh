#!/usr/bin/env bash
# Everything there is to know about the CUDA part on one machine: tests of the device kernels, of golden networks (where
# DAUG_SHARED_DATA, by default ../shared, has them) and of a whole run beside one on the CPU, then figures.
#
#   bash benchmarks/gpu.sh [OUT]       on a machine with a device and LibTorch with CUDA (Python's torch will do); writes
#                                      OUT/gpu.json and OUT/gpu.md (default: gpu_results)
#   bash benchmarks/gpu.sh pack        on a machine that can build: puts the programs and the libraries they need into
#                                      .gpu/, from which the first form then runs where nothing can be built
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
  du -sh .gpu
  exit 0
fi

out=${1:-gpu_results}
mkdir -p "$out"
if [[ -d .gpu ]]; then
  torch=$(python3 -c 'import torch, os; print(os.path.dirname(torch.__file__))')
  # The C++ library must know what the programs were built with; a bundled older one would come first.
  export LD_LIBRARY_PATH=$torch/lib:$PWD/.gpu/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  test_program=.gpu/daug_test_torch bench_program=.gpu/bench_device
else
  build
  test_program=build/tests/daug_test_torch bench_program=build/benchmarks/bench_device
fi

device=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1)
echo "device: $device"
status=passed
"$test_program" "[gpu],[cuda]" | tee "$out/tests.txt" || status=FAILED
if grep -q "no CUDA device" "$out/tests.txt"; then echo "no device: nothing was tested"; exit 1; fi
"$bench_program" --benchmark_repetitions=5 --benchmark_display_aggregates_only=true --benchmark_min_time=0.05 \
  --benchmark_out="$out/gpu.runs.json" --benchmark_out_format=json
python3 benchmarks/support/table.py gpu "$out/gpu" "$out/gpu.runs.json" --title "CUDA kernels" \
  --note "Device $device, tests $status"
[[ $status == passed ]]
