#!/usr/bin/env bash
# Builds the index and its tests of several threads with the thread sanitizer (build-thread-sanitize/) and runs them: once,
# or again and again until the first report or $1 seconds are over.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cmake --preset thread-sanitize
cmake --build build-thread-sanitize --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-2}" --target daug_test_index
export TSAN_OPTIONS=detect_deadlocks=0  # it would report the order in which hnswlib locks items while a graph is built
SECONDS=0
for ((runs = 1; ; ++runs)); do
  build-thread-sanitize/tests/index/daug_test_index "[concurrency]"
  ((SECONDS < ${1:-0})) || break
done
echo "$runs runs in $SECONDS seconds without a report"
