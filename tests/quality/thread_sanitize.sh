#!/usr/bin/env bash
# Builds the index and its tests of several threads with the thread sanitizer (build-thread-sanitize/) and runs them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cmake --preset thread-sanitize
cmake --build build-thread-sanitize --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-2}" --target daug_test_index
# It would report the order in which hnswlib locks items while a graph is built.
TSAN_OPTIONS=detect_deadlocks=0 build-thread-sanitize/tests/index/daug_test_index "[concurrency]"
