#!/usr/bin/env bash
# Compiler launcher of the consumers that have daug as a subfolder: an object of the library is linked from the main build
# if that made it by the same command, as compiling it once more takes minutes; everything else is compiled. Commands may
# differ in warnings, and in the folder of generated files that hold the same.
#
#   reuse_object.sh MAIN_BUILD CONSUMER_BUILD COMPILER ARGUMENTS...
set -euf -o pipefail
main=$1 copy=$2/daug compiler=$3
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
commands=$main/compile_commands.json

# deciding ARRAY ARGUMENTS...: those of a command that decide what is in its object, in order.
deciding() {
  local -n kept=$1
  kept=()
  while shift && (($#)); do
    case $1 in
      -o | -MF | -MT) shift ;;
      -W[alp],*) kept+=("$1") ;;  # no warning, but for the assembler, linker or preprocessor
      -MD | -W*) ;;
      *) kept+=("$1") ;;
    esac
  done
}

# same_content FILE FILE
same_content() {
  local one other
  [[ -f $1 && -f $2 ]] && mapfile one <"$1" && mapfile other <"$2" && [[ ${one[*]} == "${other[*]}" ]]
}

compiled_because() {
  echo "reuse_object.sh compiles $object: $*" >&2
  return 1
}

# same_command ARGUMENTS...: whether they make what the main build's command for the object makes; says so if not.
same_command() {
  local command ours theirs argument i
  command=$(grep -F -m 1 -e " -o ${object#daug/} " -e " -o ${object#daug/}\"" "$commands") && [[ -f $made ]] ||
    { compiled_because "the main build has none"; return; }
  # A string of JSON, which holds words as a shell reads them. A launcher may stand before the compiler.
  command=${command#*'"command": "'}
  command=${command%\"*}
  command=${command//'\"'/'"'}
  command=" ${command//'\\'/'\'}"
  [[ $command == *" $compiler "* ]] || { compiled_because "the main build has another compiler"; return; }
  eval "theirs=(${command#*" $compiler "})"
  for argument in "$@"; do
    [[ $argument != "$copy"/* ]] || same_content "$argument" "$main${argument#"$copy"}" ||
      { compiled_because "the main build's $argument is another"; return; }
  done
  deciding ours "${@/#"$copy"\//"$main"/}"
  deciding theirs "${theirs[@]}"
  for ((i = 0; i < ${#ours[@]} || i < ${#theirs[@]}; ++i)); do
    [[ ${ours[i]-} == "${theirs[i]-}" ]] ||
      { compiled_because "'${ours[i]-}' where the main build has '${theirs[i]-}'"; return; }
  done
}

if [[ $object == daug/* ]]; then
  if same_command "${@:2}"; then
    ln -sf "$made" "$object"
    # Other commands of the main build are compared anew.
    [[ -z $dependencies ]] || echo "$object: $commands" >"$dependencies"
    exit 0
  fi
  rm -f "$object"  # a compiler would write to where a link leads
fi
exec "$@"
