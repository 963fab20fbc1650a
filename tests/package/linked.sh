#!/usr/bin/env bash
# Of LibTorch a program links libtorch_cpu and libc10 alone: anything more brings in the whole CUDA stack.
set -euo pipefail
linked=$(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\].*/\1/p' | { grep -E '^lib(torch|c10|cuda|cudnn|cublas|nv)' || true; } |
           sort | xargs)
[[ $linked == "libc10.so libtorch_cpu.so" ]] || { echo "failed: $1 links $linked"; exit 1; }
