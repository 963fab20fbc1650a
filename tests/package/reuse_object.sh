#!/usr/bin/env bash
# Compiler launcher of the consumers that have daug as a subfolder: an object of a folder of the library that the main build
# has is linked from there, as compiling it once more takes minutes; everything else is compiled.
#
#   reuse_object.sh MAIN_BUILD FOLDER COMPILER ARGUMENTS...
set -euo pipefail
main=$1 folder=$2
shift 2
object="" dependencies="" last=""
for argument in "$@"; do
  case $last in
    -o) object=$argument ;;
    -MF) dependencies=$argument ;;
  esac
  last=$argument
done
made=$main/${object#daug/}
if [[ $object == daug/$folder/* && -f $made ]]; then
  ln -sf "$made" "$object"
  [[ -z $dependencies ]] || echo "$object:" >"$dependencies"
  exit 0
fi
exec "$@"
