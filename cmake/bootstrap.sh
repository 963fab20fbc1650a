#!/usr/bin/env bash
# Installs what building, testing and running daug needs, and nothing that is already there:
#
#   bash cmake/bootstrap.sh [libtorch]      libtorch: only that, as cmake itself asks for
#
# Everything the project downloads is listed here: Debian packages (about 160 MB, 670 MB unpacked; needs root) and
# LibTorch (545 MB, 1.2 GB unpacked; into the user's cache). When nothing is missing it is silent, takes under a second
# and uses no network. Exit status 3: packages are missing and this is not root (the command to run is printed).
set -euo pipefail

# Debian packages, each with the oldest version that is tested (Debian 12's).
packages="
g++               12.2    compiler
cmake             3.25    build
ninja-build       1.11
ccache            4.7
lld               14.0    linker
libfmt-dev        9.1     formatting
libeigen3-dev     3.4     arrays of the LibTorch-free parts
nlohmann-json3-dev 3.11   JSON
libxxhash-dev     0.8.1   checksums and fingerprints
libhwy-dev        1.0.3   vector instructions chosen at run time
libhnswlib-dev    0.6.2   graphs of approximate search
libstb-dev        0.0~git20220908 PNG and JPEG
zlib1g-dev        1.2.13  gzip files
libcli11-dev      2.1     command lines of the example programs
libcpp-httplib-dev 0.11.4 the search page's server
pkg-config        1.8     how that was compiled
catch2            2.13    tests
libbenchmark-dev  1.7     benchmarks
clang-format      14.0    style test
doxygen           1.9     documentation test
python3-pip       23.0    downloads LibTorch's wheels
ca-certificates   2023
unzip             6.0
"

# LibTorch: three wheels of PyPI, unzipped side by side (the wheels' own rpaths find each other). The order in which an
# existing LibTorch is looked for is that of cmake/LibTorch.cmake.
libtorch_version=2.11.0
wheels="
torch==2.11.0 --hash=sha256:7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-cupti==13.0.85 --hash=sha256:4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8
"

say() { echo "bootstrap: $*" >&2; }

# Names of the packages that are absent or older than listed.
missing_packages() {
  local installed name floor version
  # shellcheck disable=SC2046
  installed=$(dpkg-query -W -f '${Package} ${db:Status-Status} ${Version}\n' \
                $(awk 'NF {print $1}' <<<"$packages") 2>/dev/null || true)
  while read -r name floor _; do
    [[ -n $name ]] || continue
    version=$(awk -v name="$name" '$1 == name && $2 == "installed" {print $3}' <<<"$installed" | head -n 1)
    if [[ -z $version ]] || ! dpkg --compare-versions "${version#*:}" ge "$floor"; then echo "$name"; fi
  done <<<"$packages"
}

install_packages() {
  if ! command -v dpkg-query >/dev/null; then
    say "not a Debian system: the packages at the top of cmake/bootstrap.sh must be there already"
    return
  fi
  local missing log
  missing=$(missing_packages | xargs)
  [[ -n $missing ]] || return 0
  local command="apt-get install --yes --no-install-recommends $missing"
  if [[ $(id -u) != 0 ]]; then
    say "packages are missing; run this as root and start again:"
    echo "  $command"
    exit 3
  fi
  say "installing $missing"
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  if ! { apt-get update && $command; } >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    say "apt-get failed"
    exit 1
  fi
  rm -f "$log"
  missing=$(missing_packages | xargs)
  if [[ -n $missing ]]; then
    say "this system's packages are older than the versions in cmake/bootstrap.sh: $missing"
    exit 1
  fi
}

download_wheels() {  # into $1; checked against the hashes above; wheels already there are not fetched again
  /usr/bin/python3 -m pip download --quiet --no-deps --no-cache-dir --only-binary=:all: --require-hashes \
    --python-version 3.11 --implementation cp --abi cp311 \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --dest "$1" --requirement <(echo "$wheels") "${@:2}"
}

install_libtorch() {
  # The full look-up starts Python; the usual place is checked first to stay quick.
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}/daug
  local target=$cache/libtorch-$libtorch_version
  [[ ! -e $target/torch/lib/libtorch_cpu.so ]] || return 0
  cmake -P "$(dirname "${BASH_SOURCE[0]}")/LibTorch.cmake" >/dev/null 2>&1 && return
  [[ $(uname -sm) == "Linux x86_64" ]] || { say "set Torch_DIR: no LibTorch wheel for $(uname -sm)"; exit 1; }

  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock 9
  [[ ! -e $target/torch/lib/libtorch_cpu.so ]] || return 0
  local staging=$cache/wheels-$libtorch_version
  if [[ ! -d $staging ]] || ! download_wheels "$staging" --no-index --find-links "$staging" 2>/dev/null; then
    say "downloading LibTorch $libtorch_version (545 MB) to $cache"
    download_wheels "$staging"
  fi
  say "unpacking LibTorch $libtorch_version"
  rm -rf "$target.partial"
  local wheel
  for wheel in "$staging"/*.whl; do unzip -q "$wheel" -d "$target.partial"; done
  mv "$target.partial" "$target"
  rm -rf "$staging"
}

[[ ${1:-} == libtorch ]] || install_packages
install_libtorch
