#!/usr/bin/env bash
# What cmake/bootstrap.sh, and the two scripts that call it, do where packages are missing and nobody may install them.
# The machine's state comes from stand-ins for its tools; nothing is installed or downloaded.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
command -v dpkg >/dev/null || { echo "skipped: no Debian system"; exit 77; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed() { echo "failed: $*"; exit 1; }

# Every package is installed in $VERSION, but for those in $ABSENT; the user's number is $USER_ID.
mkdir "$scratch/bin"
cat >"$scratch/bin/dpkg-query" <<'SCRIPT'
#!/bin/sh
shift 3
for name; do
  case " $ABSENT " in *" $name "*) ;; *) echo "$name installed $VERSION" ;; esac
done
SCRIPT
printf '#!/bin/sh\necho "$USER_ID"\n' >"$scratch/bin/id"
printf '#!/bin/sh\necho apt-get was called >&2\nexit 9\n' >"$scratch/bin/apt-get"
chmod +x "$scratch"/bin/*
libtorch=$(sed -n 's/^libtorch_version=//p' cmake/bootstrap.sh)
mkdir -p "$scratch/cache/daug/libtorch-$libtorch/torch/lib"
touch "$scratch/cache/daug/libtorch-$libtorch/torch/lib/libtorch_cpu.so"
export PATH=$scratch/bin:$PATH XDG_CACHE_HOME=$scratch/cache

# asked SCRIPT: its exit status, output and messages in $status, $output and $messages.
asked() {
  status=0
  bash "$@" >"$scratch/output" 2>"$scratch/messages" || status=$?
  output=$(cat "$scratch/output") messages=$(cat "$scratch/messages")
}

export USER_ID=1000 VERSION=9999 ABSENT="doxygen cmake"
for script in cmake/bootstrap.sh examples/quickstart.sh tests/run.sh; do
  asked $script
  [[ $status == 3 ]] || failed "$script ended with $status, not 3"
  [[ $output == "  apt-get install --yes --no-install-recommends cmake doxygen" ]] || failed "$script printed: $output"
  [[ $messages == *"run this as root"* ]] || failed "$script said: $messages"
done

export VERSION='0~' ABSENT=""  # older than every version
asked cmake/bootstrap.sh
listed=$(sed -n '/^packages="$/,/^"$/p' cmake/bootstrap.sh | sed 1d | grep -c '^[a-z]')
[[ $status == 3 && $(wc -w <<<"${output#*recommends}") == "$listed" ]] || failed "of $listed too old packages: $output"

for USER_ID in 1000 0; do
  export USER_ID VERSION=9999
  asked cmake/bootstrap.sh
  [[ $status == 0 && -z $output$messages ]] || failed "with all of them: $status $output $messages"
done

export USER_ID=0 ABSENT=cmake
asked cmake/bootstrap.sh
[[ $status == 1 && $messages == *"installing cmake"*"apt-get was called"* ]] || failed "as root: $status $messages"
