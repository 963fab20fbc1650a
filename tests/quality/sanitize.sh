#!/usr/bin/env bash
# Builds the LibTorch-free part with the address and undefined-behaviour sanitizers (build-sanitize/) and runs its tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
jobs=${CMAKE_BUILD_PARALLEL_LEVEL:-2}
cmake --preset sanitize
cmake --build build-sanitize --parallel "$jobs"
ctest --test-dir build-sanitize --output-on-failure --parallel "$jobs" --no-tests=error
