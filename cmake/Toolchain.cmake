# Compiler settings of this project's own targets; nothing here reaches a consumer.

if(DAUG_TOP_LEVEL)
  # The time goes into LibTorch's kernels; -O3 here costs a third more compile time for nothing measurable.
  set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")
  set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
  find_program(DAUG_CCACHE ccache)
  if(DAUG_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
    # A precompiled header changes its own time stamp; the sloppiness lets ccache look past that. The base directory
    # makes clones in different folders share entries.
    set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_DEPEND=1 CCACHE_NOHASHDIR=1
        CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}
        CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${DAUG_CCACHE})
  endif()
  find_program(DAUG_LLD ld.lld)
  if(DAUG_LLD)
    add_link_options(-fuse-ld=lld)
  endif()
endif()

add_library(daug_private_flags INTERFACE)
target_compile_options(daug_private_flags INTERFACE -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual
                                                   $<$<BOOL:${DAUG_WERROR}>:-Werror>)
# GCC 12 sees overlapping copies in std::string::assign (GCC bug 105651) and out-of-bounds reads in vectors of
# shared_ptr and in comparisons of strings, where there are none.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(daug_private_flags INTERFACE -Wno-restrict -Wno-array-bounds -Wno-stringop-overread)
endif()
target_compile_features(daug_private_flags INTERFACE cxx_std_20)
if(DAUG_SANITIZE STREQUAL "thread")
  target_compile_options(daug_private_flags INTERFACE -fsanitize=thread -fno-omit-frame-pointer)
  target_link_options(daug_private_flags INTERFACE -fsanitize=thread)
elseif(DAUG_SANITIZE)
  # The address sanitizer finds what null and object-size find, and they take a third of the compile time; vptr, return
  # and unreachable look for what the warnings forbid, and take another fifth. The instrumentation makes GCC see
  # uninitialised reads in the standard library (documented with the warning).
  target_compile_options(daug_private_flags INTERFACE -fsanitize=address,undefined
                                                     -fno-sanitize=null,object-size,vptr,return,unreachable
                                                     -fno-sanitize-recover=all -fno-omit-frame-pointer
                                                     -Wno-maybe-uninitialized)
  target_link_options(daug_private_flags INTERFACE -fsanitize=address,undefined)
endif()
