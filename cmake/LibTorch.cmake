# Finds LibTorch and defines daug_torch (imported by path: torch_cpu and c10 only).
#
# Torch's own CMake config is not used: a CUDA wheel's config fails where no CUDA toolkit is installed, and linking
# libtorch.so would load the whole CUDA stack at start-up. Order: Torch_DIR / CMAKE_PREFIX_PATH (variable or
# environment), the torch of the Python on PATH, then the wheels that cmake/bootstrap.sh unpacked into the user's cache.
#
# Used in three places: the build, the installed package's config file, and `cmake -P` (cmake/bootstrap.sh asks whether
# anything has to be downloaded). Sets DAUG_LIBTORCH_ROOT and DAUG_LIBTORCH_VERSION, or DAUG_LIBTORCH_ERROR.

set(DAUG_LIBTORCH_FLOOR 2.6)
set(DAUG_LIBTORCH_ERROR "")

# The version of the LibTorch at `root` into `result`; empty when there is none.
function(daug_libtorch_version root result)
  set(${result} "" PARENT_SCOPE)
  if(NOT EXISTS "${root}/lib/libtorch_cpu.so" OR NOT EXISTS "${root}/include/ATen/core/Tensor.h")
    return()
  endif()
  foreach(header torch/headeronly/version.h torch/csrc/api/include/torch/version.h)
    if(EXISTS "${root}/include/${header}")
      file(STRINGS "${root}/include/${header}" lines REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) +[0-9]+")
      string(REGEX REPLACE "[^0-9;]" "" version "${lines}")
      string(REPLACE ";" "." version "${version}")
      if(version)
        set(${result} "${version}" PARENT_SCOPE)
        return()
      endif()
    endif()
  endforeach()
endfunction()

if(NOT DAUG_LIBTORCH_ROOT)
  set(_daug_candidates "")
  foreach(_daug_path "${Torch_DIR}" "$ENV{Torch_DIR}")
    if(_daug_path)
      get_filename_component(_daug_path "${_daug_path}/../../.." ABSOLUTE)
      list(APPEND _daug_candidates "${_daug_path}")
    endif()
  endforeach()
  string(REPLACE ":" ";" _daug_prefixes "$ENV{CMAKE_PREFIX_PATH}")
  foreach(_daug_path IN LISTS CMAKE_PREFIX_PATH _daug_prefixes)
    list(APPEND _daug_candidates "${_daug_path}" "${_daug_path}/torch")
    if(_daug_path MATCHES "/share/cmake/?$")  # as torch.utils.cmake_prefix_path gives it
      get_filename_component(_daug_path "${_daug_path}/../.." ABSOLUTE)
      list(APPEND _daug_candidates "${_daug_path}")
    endif()
  endforeach()
  find_program(DAUG_PYTHON NAMES python3 python)
  if(DAUG_PYTHON)
    execute_process(COMMAND ${DAUG_PYTHON} -c
      "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
      OUTPUT_VARIABLE _daug_path OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    if(_daug_path)
      list(APPEND _daug_candidates "${_daug_path}")
    endif()
  endif()
  if(DEFINED ENV{XDG_CACHE_HOME})
    list(APPEND _daug_candidates "$ENV{XDG_CACHE_HOME}/daug/libtorch-2.11.0/torch")
  else()
    list(APPEND _daug_candidates "$ENV{HOME}/.cache/daug/libtorch-2.11.0/torch")
  endif()
  set(_daug_seen "")
  foreach(_daug_path IN LISTS _daug_candidates)
    daug_libtorch_version("${_daug_path}" _daug_version)
    if(NOT _daug_version)
      string(APPEND _daug_seen "\n  ${_daug_path}")
    elseif(_daug_version VERSION_LESS DAUG_LIBTORCH_FLOOR)
      string(APPEND _daug_seen "\n  ${_daug_path} (${_daug_version} is older than ${DAUG_LIBTORCH_FLOOR})")
    else()
      set(DAUG_LIBTORCH_ROOT "${_daug_path}" CACHE PATH "LibTorch root (holds include/ and lib/)")
      break()
    endif()
  endforeach()
endif()

if(DAUG_LIBTORCH_ROOT)
  daug_libtorch_version("${DAUG_LIBTORCH_ROOT}" DAUG_LIBTORCH_VERSION)
  if(NOT DAUG_LIBTORCH_VERSION)
    set(DAUG_LIBTORCH_ERROR "DAUG_LIBTORCH_ROOT=${DAUG_LIBTORCH_ROOT} holds no LibTorch")
  endif()
else()
  string(CONCAT DAUG_LIBTORCH_ERROR "LibTorch ${DAUG_LIBTORCH_FLOOR} or newer not found. Looked in:${_daug_seen}\nRun "
         "`bash cmake/bootstrap.sh` in daug's source tree, or set -DTorch_DIR=<libtorch>/share/cmake/Torch.")
endif()

if(CMAKE_SCRIPT_MODE_FILE)
  if(DAUG_LIBTORCH_ERROR)
    message(FATAL_ERROR "${DAUG_LIBTORCH_ERROR}")
  endif()
elseif(NOT DAUG_LIBTORCH_ERROR AND NOT TARGET daug_torch)
  foreach(_daug_library c10 torch_cpu)
    add_library(daug_${_daug_library} SHARED IMPORTED GLOBAL)
    set_target_properties(daug_${_daug_library} PROPERTIES
                          IMPORTED_LOCATION "${DAUG_LIBTORCH_ROOT}/lib/lib${_daug_library}.so")
  endforeach()
  add_library(daug_torch INTERFACE IMPORTED GLOBAL)
  target_include_directories(daug_torch SYSTEM INTERFACE "${DAUG_LIBTORCH_ROOT}/include"
                             "${DAUG_LIBTORCH_ROOT}/include/torch/csrc/api/include")
  target_link_libraries(daug_torch INTERFACE daug_torch_cpu daug_c10)
  target_link_options(daug_torch INTERFACE "-Wl,-rpath-link,${DAUG_LIBTORCH_ROOT}/lib" "-Wl,--allow-shlib-undefined")
endif()
