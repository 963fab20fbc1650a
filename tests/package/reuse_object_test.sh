#!/usr/bin/env bash
# reuse_object.sh links an object of a main build if the command is the same, and runs the compiler if it is not. The
# compiler is a stand-in that writes "compiled".
set -euo pipefail
launcher=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/reuse_object.sh
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed() { echo "failed: $*"; exit 1; }

main=$scratch/main consumer=$scratch/main/tests/consumer
mkdir -p "$main/src" "$consumer/daug/src"
cat >"$scratch/c++" <<'SCRIPT'
#!/bin/sh
while [ "$1" != -o ]; do shift; done
echo compiled >"$2"
SCRIPT
chmod +x "$scratch/c++"
sed "s|@|$scratch|g" >"$main/compile_commands.json" <<'JSON'
[
{
  "directory": "@/main",
  "command": "/usr/bin/ccache @/c++ -DA \"-DTEXT=\\\",b\\\\\\\" c\\\"\" -I/one -isystem /two -O2 -Wall -Werror -std=c++20 -include @/main/src/first.h -o src/a.o -c @/main/src/a.cpp",
  "file": "@/main/src/a.cpp"
}
]
JSON
cd "$consumer"

# built RESULT ARGUMENTS...: what the launcher makes of a command; RESULT is reused or compiled.
built() {
  local result=$1 said found
  shift
  echo "the main build's" >"$main/src/a.o"
  said=$(bash "$launcher" "$main" "$consumer" "$scratch/c++" "$@" -MD -MT daug/src/a.o -MF daug/src/a.d -o daug/src/a.o \
           -c "$consumer/daug/src/a.cpp" 2>&1)
  [[ $(<"$main/src/a.o") == "the main build's" ]] || failed "'$*' wrote to the main build"
  found=compiled
  [[ $(<daug/src/a.o) == compiled ]] || found=reused
  [[ $found == "$result" ]] || failed "'$*' $found: $said"
  case $result in
    reused) [[ -z $said && $(<daug/src/a.d) == "daug/src/a.o: $main/compile_commands.json" ]] || failed "'$*' said: $said" ;;
    compiled) [[ $said == *"compiles daug/src/a.o: "* ]] || failed "'$*' said: $said" ;;
  esac
}
for folder in "$main" "$consumer/daug"; do
  echo "int a;" >"$folder/src/a.cpp"
  echo "#define B" >"$folder/src/first.h"
done
text='-DTEXT=",b\" c"' paths="-I/one -isystem /two" include="-include $consumer/daug/src/first.h"
built reused -DA "$text" $paths -O2 -Wall -Werror -std=c++20 $include
built reused -DA "$text" $paths -O2 -Wextra -std=c++20 $include
built compiled -DC "$text" $paths -O2 -Wall -std=c++20 $include
built compiled -DA '-DTEXT=",b c"' $paths -O2 -Wall -std=c++20 $include
built compiled -DA -DC "$text" $paths -O2 -Wall -std=c++20 $include
built compiled "$text" $paths -O2 -Wall -std=c++20 $include
built reused -DA "$text" $paths -O2 -std=c++20 $include
built compiled -DA "$text" -isystem /two -I/one -O2 -std=c++20 $include
built compiled -DA "$text" $paths -isystem "$consumer/daug/src" -O2 -std=c++20 $include
built compiled -DA "$text" $paths -O0 -std=c++20 $include
built compiled -DA "$text" $paths -O2 -std=c++17 $include
built compiled -DA "$text" $paths -O2 -std=c++20
built compiled -DA "$text" $paths -O2 -fPIC -std=c++20 $include
built compiled -DA "$text" $paths -O2 -Wp,-DC -std=c++20 $include

echo "int b;" >daug/src/a.cpp
built compiled -DA "$text" $paths -O2 -std=c++20 $include
echo "int a;" >daug/src/a.cpp
rm daug/src/first.h
built compiled -DA "$text" $paths -O2 -std=c++20 $include
echo "#define B" >daug/src/first.h
built reused -DA "$text" $paths -O2 -std=c++20 $include

# What is not the library's is compiled without a word.
said=$(bash "$launcher" "$main" "$consumer" "$scratch/c++" -o own.o -c "$scratch/own.cpp" 2>&1)
[[ -z $said && $(<own.o) == compiled ]] || failed "an object of the consumer: $said"
