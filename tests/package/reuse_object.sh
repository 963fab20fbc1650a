#!/usr/bin/env bash
# Compiler launcher of the consumer that has all of daug as a subfolder: an object of the library that the main build has
# is linked from there, as compiling all of it once more takes minutes; everything else is compiled.
#
#   reuse_object.sh MAIN_BUILD COMPILER ARGUMENTS...
set -euo pipefail
main=$1
shift
object="" dependencies="" last=""
for argument in "$@"; do
  case $last in
    -o) object=$argument ;;
    -MF) dependencies=$argument ;;
  esac
  last=$argument
done
made=$main/${object#daug/}
if [[ $object == daug/src/* && -f $made ]]; then
  ln -sf "$made" "$object"
  [[ -z $dependencies ]] || echo "$object:" >"$dependencies"
  exit 0
fi
exec "$@"
