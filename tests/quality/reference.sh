#!/usr/bin/env bash
# Builds the API reference into $1; any warning is an error.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
command -v doxygen >/dev/null || { echo "skipped: doxygen is not installed"; exit 77; }
mkdir -p "$1"
DAUG_REFERENCE_DIR=$1 doxygen docs/Doxyfile
