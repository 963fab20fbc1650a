# CUDA kernels. They take pointers and never include LibTorch, so one build serves any LibTorch with CUDA; LibTorch's own
# CUDA part is loaded when a program first asks for a device (daug/backend/cuda.h), and nothing here needs a device.
#
# AUTO: compiled where a CUDA compiler is found. ON: an error without one. OFF: the same API, without the kernels.
set(DAUG_CUDA AUTO CACHE STRING "CUDA kernels: AUTO, ON or OFF")
set(DAUG_CUDA_ARCHITECTURES "80;90" CACHE STRING "Compute capabilities that the CUDA kernels are compiled for")
set(DAUG_HAS_CUDA OFF)
if(NOT DAUG_CUDA STREQUAL "OFF" AND NOT DAUG_SANITIZE)
  # Before the language is enabled: CMake 3.25 would try an architecture that CUDA 13 no longer knows.
  set(CMAKE_CUDA_ARCHITECTURES "${DAUG_CUDA_ARCHITECTURES}")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(DAUG_HAS_CUDA ON)
    message(STATUS "CUDA ${CMAKE_CUDA_COMPILER_VERSION}: kernels for ${DAUG_CUDA_ARCHITECTURES}")
  elseif(DAUG_CUDA STREQUAL "ON")
    message(FATAL_ERROR "DAUG_CUDA=ON, but no CUDA compiler was found (nvcc on PATH, or CUDACXX)")
  endif()
endif()
