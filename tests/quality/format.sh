#!/usr/bin/env bash
# Fails when a source file is not formatted as .clang-format says; `format.sh --fix` formats them all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
formatter=$(command -v clang-format-14 || command -v clang-format || true)
if [[ $("${formatter:-false}" --version || true) != *"version 14."* ]]; then
  echo "skipped: needs clang-format 14 (others lay out differently)"
  exit 77
fi
if [[ ${1:-} == --fix ]]; then mode=(-i); else mode=(--dry-run --Werror); fi
find include src tests examples benchmarks -name '*.h' -o -name '*.cpp' | sort | xargs "$formatter" "${mode[@]}"
