# In which order cmake/LibTorch.cmake looks for LibTorch, and what it says where there is none.
#
#   cmake -DSOURCE=<daug> -DSCRATCH=<folder> -P libtorch.cmake
cmake_minimum_required(VERSION 3.24)
file(REMOVE_RECURSE "${SCRATCH}")

# What LibTorch.cmake takes for a LibTorch of that version.
function(make_libtorch root major minor)
  file(WRITE "${root}/lib/libtorch_cpu.so" "")
  file(WRITE "${root}/include/ATen/core/Tensor.h" "")
  file(WRITE "${root}/include/torch/headeronly/version.h"
       "#define TORCH_VERSION_MAJOR ${major}\n#define TORCH_VERSION_MINOR ${minor}\n#define TORCH_VERSION_PATCH 0\n")
endfunction()

# The folder that bootstrap.sh unpacks the wheels into.
file(STRINGS "${SOURCE}/cmake/bootstrap.sh" version REGEX "^libtorch_version=")
string(REPLACE "libtorch_version=" "" version "${version}")
set(unpacked "${SCRATCH}/cache/daug/libtorch-${version}/torch")
foreach(root dir/torch prefix inside/torch wheel/torch python/torch)
  make_libtorch("${SCRATCH}/${root}" 2 7)
endforeach()
make_libtorch("${unpacked}" 2 11)
make_libtorch("${SCRATCH}/old/torch" 2 5)

file(WRITE "${SCRATCH}/ask.cmake" "include(\"${SOURCE}/cmake/LibTorch.cmake\")\nmessage(\"found \${DAUG_LIBTORCH_ROOT};\")\n")

# ask(<expected text> [NAME=value]...): looks with these variables of the environment; python3 prints what $FOUND says.
file(WRITE "${SCRATCH}/bin/python3" "#!/bin/sh\necho \"$FOUND\"\n")
file(CHMOD "${SCRATCH}/bin/python3" PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
function(ask expected)
  execute_process(COMMAND "${CMAKE_COMMAND}" -E env --unset=Torch_DIR --unset=CMAKE_PREFIX_PATH FOUND=
                          "PATH=${SCRATCH}/bin" "XDG_CACHE_HOME=${SCRATCH}/none" ${ARGN}
                          "${CMAKE_COMMAND}" -P "${SCRATCH}/ask.cmake"
                  OUTPUT_VARIABLE said ERROR_VARIABLE said)
  string(FIND "${said}" "${expected}" at)
  if(at EQUAL -1)
    message(SEND_ERROR "with ${ARGN}: expected ${expected}, got ${said}")
  endif()
endfunction()

set(cache "XDG_CACHE_HOME=${SCRATCH}/cache")
set(python "FOUND=${SCRATCH}/python/torch")
set(prefix "CMAKE_PREFIX_PATH=${SCRATCH}/nothing:${SCRATCH}/prefix")
ask("found ${SCRATCH}/dir/torch;" ${cache} ${python} ${prefix} "Torch_DIR=${SCRATCH}/dir/torch/share/cmake/Torch")
ask("found ${SCRATCH}/prefix;" ${cache} ${python} ${prefix} "Torch_DIR=${SCRATCH}/nothing/share/cmake/Torch")
ask("found ${SCRATCH}/inside/torch;" ${cache} ${python} "CMAKE_PREFIX_PATH=${SCRATCH}/inside")
ask("found ${SCRATCH}/wheel/torch;" ${cache} ${python} "CMAKE_PREFIX_PATH=${SCRATCH}/wheel/torch/share/cmake")
ask("found ${SCRATCH}/python/torch;" ${cache} ${python})
ask("found ${unpacked};" ${cache} "FOUND=${SCRATCH}/old/torch")
ask("found ${unpacked};" ${cache})
ask("old/torch (2.5.0 is older than 2.6)" "FOUND=${SCRATCH}/old/torch")
ask("bash cmake/bootstrap.sh" "FOUND=")
