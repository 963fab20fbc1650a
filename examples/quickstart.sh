#!/usr/bin/env bash
# Installs what is missing, builds, and runs the whole pipeline on the embedded phantom cohort:
#
#   bash examples/quickstart.sh [arguments of the program]
#   bash examples/quickstart.sh --data DIR --size 64 --out runs/mine --seed 1
#   bash examples/quickstart.sh --help
#
# Runs again in seconds when nothing changed. DAUG_JOBS sets the number of parallel compile jobs (default 2).
set -euo pipefail
# Spinning OpenMP threads of one process starve those of another on two cores.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

bash "$root/cmake/bootstrap.sh"
if [[ ! -f $root/build/build.ninja ]]; then
  cmake -S "$root" --preset default -DDAUG_BUILD_TESTS=OFF
fi
start=$SECONDS
cmake --build "$root/build" --target daug_quickstart --parallel "${DAUG_JOBS:-2}"
((SECONDS - start < 5)) || echo "Built in $((SECONDS - start)) s."
exec "$root/build/examples/00_quickstart" "$@"
