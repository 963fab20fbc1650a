#!/usr/bin/env bash
# Installs what is missing, builds everything with warnings as errors, and runs every test:
#
#   bash tests/run.sh [ctest arguments]        e.g. bash tests/run.sh -L unit
#
# The checks that are builds of their own (sanitizers, header self-sufficiency, package consumers) are ctest tests too,
# so the last thing printed is one summary of all of it. DAUG_JOBS sets the number of parallel jobs (default 2).
# Where nvcc is, device kernels that cannot be compiled are an error; with DAUG_CUDA=OFF they are left out.
set -euo pipefail
# Spinning OpenMP threads of one process starve those of another on two cores.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash cmake/bootstrap.sh
export CMAKE_BUILD_PARALLEL_LEVEL=${DAUG_JOBS:-2}
# AUTO would leave all of them out where CMake finds fault with a compiler, and every test would pass.
cuda=AUTO
if command -v nvcc >/dev/null; then
  cuda=ON
elif [[ -x /usr/local/cuda/bin/nvcc ]]; then  # where CMake does not look
  cuda=ON
  export CUDACXX=${CUDACXX:-/usr/local/cuda/bin/nvcc}
fi
cmake --preset ci "-DDAUG_CUDA=${DAUG_CUDA:-$cuda}"
cmake --build build
exec ctest --test-dir build --output-on-failure --parallel "$CMAKE_BUILD_PARALLEL_LEVEL" "$@"
