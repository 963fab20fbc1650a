# Everything the project links, in one place. Versions: cmake/bootstrap.sh.
# GLOBAL: a project that adds daug as a subfolder links these through daug's targets.

find_package(fmt 9 REQUIRED GLOBAL)
find_package(Eigen3 3.4 REQUIRED GLOBAL)
find_package(nlohmann_json 3.11 REQUIRED GLOBAL)
find_package(Threads REQUIRED GLOBAL)
find_package(hwy 1.0 CONFIG REQUIRED GLOBAL)
find_package(ZLIB 1.2 REQUIRED GLOBAL)
find_package(PkgConfig REQUIRED)
pkg_check_modules(httplib REQUIRED cpp-httplib>=0.11)
find_path(DAUG_XXHASH_INCLUDE xxhash.h REQUIRED)
find_path(DAUG_HNSWLIB_INCLUDE hnswlib/hnswlib.h REQUIRED)
find_path(DAUG_STB_INCLUDE stb_image.h PATH_SUFFIXES stb REQUIRED)

if(DAUG_WITH_TORCH)
  find_package(OpenMP REQUIRED COMPONENTS CXX)
  include(LibTorch)
  option(DAUG_DOWNLOAD_LIBTORCH "Download LibTorch's wheels into the user's cache where none is found"
         ${DAUG_TOP_LEVEL})
  if(DAUG_LIBTORCH_ERROR AND NOT DAUG_LIBTORCH_ROOT AND DAUG_DOWNLOAD_LIBTORCH)
    execute_process(COMMAND bash "${PROJECT_SOURCE_DIR}/cmake/bootstrap.sh" libtorch)
    include(LibTorch)
  endif()
  if(DAUG_LIBTORCH_ERROR)
    message(FATAL_ERROR "${DAUG_LIBTORCH_ERROR}")
  endif()
  message(STATUS "LibTorch ${DAUG_LIBTORCH_VERSION}: ${DAUG_LIBTORCH_ROOT}")
endif()
