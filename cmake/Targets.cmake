# The shape every library and test of this project shares.

# daug_together(<sources> <include folder> <ending> "<names>..."...): in the list of the variable <sources>, one file takes
# the place of the files <name><ending> of a group, which it includes from that folder. Most of the time for a file with
# LibTorch goes into what GCC instantiates anew after its precompiled header, and for a file of tests into headers.
#
# Files of a group must not declare the same name in unnamed namespaces. What is in no group, and everything with
# DAUG_TOGETHER=OFF, is compiled by itself.
option(DAUG_TOGETHER "Compile files that share costly headers in groups" ON)
function(daug_together sources folder ending)
  set(left ${${sources}})
  set(number 0)
  foreach(group IN LISTS ARGN)
    string(REPLACE " " ";" names "${group}")
    set(content "")
    foreach(name IN LISTS names)
      set(file "${name}${ending}")
      get_filename_component(path "${file}" ABSOLUTE)
      if(DAUG_TOGETHER AND (file IN_LIST left OR path IN_LIST left))
        list(REMOVE_ITEM left "${file}" "${path}")
        get_source_file_property(plain "${file}" SKIP_PRECOMPILE_HEADERS)
        file(RELATIVE_PATH path "${folder}" "${path}")
        string(APPEND content "#include \"${path}\"\n")
      endif()
    endforeach()
    if(content)
      math(EXPR number "${number} + 1")
      set(together "${CMAKE_CURRENT_BINARY_DIR}/together/${sources}_${number}.cpp")
      file(CONFIGURE OUTPUT "${together}" CONTENT "${content}" @ONLY)
      # A class with members of an unnamed namespace is fine in a file that nothing else includes.
      set_source_files_properties(
        "${together}" PROPERTIES COMPILE_OPTIONS "$<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>")
      if(plain)  # CMake looks only at whether the property is there: OFF skips the precompiled header as well
        set_source_files_properties("${together}" PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
      endif()
      list(APPEND left "${together}")
    endif()
  endforeach()
  set(${sources} ${left} PARENT_SCOPE)
endfunction()

# daug_add_library(<stage> [BUSY] SOURCES <files>... DEPENDS <targets>... [TOGETHER "<names>..."...]): a LibTorch-free
# library daug::<stage>. The files <name>.cpp of a group of TOGETHER are compiled together.
#
# -O0, with the sanitizers' checks, takes 60 % less time to compile than -O1, which BUSY libraries have there: without it
# their tests take longer than that.
function(daug_add_library stage)
  cmake_parse_arguments(ARG "BUSY" "" "SOURCES;DEPENDS;TOGETHER" ${ARGN})
  set(compiled ${ARG_SOURCES})
  daug_together(compiled "${PROJECT_SOURCE_DIR}/src" .cpp ${ARG_TOGETHER})
  add_library(daug_${stage} STATIC ${compiled})
  add_library(daug::${stage} ALIAS daug_${stage})
  set_target_properties(daug_${stage} PROPERTIES EXPORT_NAME ${stage} POSITION_INDEPENDENT_CODE ON)
  target_compile_features(daug_${stage} PUBLIC cxx_std_17)
  target_include_directories(daug_${stage} PRIVATE "${PROJECT_SOURCE_DIR}/src")
  target_link_libraries(daug_${stage} PUBLIC daug_headers ${ARG_DEPENDS} PRIVATE $<BUILD_INTERFACE:daug_private_flags>)
  if(ARG_BUSY AND DAUG_SANITIZE)
    target_compile_options(daug_${stage} PRIVATE -O1)
  endif()
  set_property(GLOBAL APPEND PROPERTY DAUG_INSTALLED_TARGETS daug_${stage})
endfunction()

# daug_add_test(<stage> SOURCES <files>... DEPENDS <targets>... [TOGETHER "<names>..."...]): one Catch2 program for a
# stage, registered as unit.<stage>, and as golden.<stage>, pipeline.<stage>, gpu.<stage> and browser.<stage> when a
# source has test cases with those tags.
#
# The files <name>_test.cpp of a group of TOGETHER are compiled together.
function(daug_add_test stage)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;TOGETHER" ${ARGN})
  set(compiled ${ARG_SOURCES})
  daug_together(compiled "${PROJECT_SOURCE_DIR}/tests" _test.cpp ${ARG_TOGETHER})
  add_executable(daug_test_${stage} ${compiled})
  target_include_directories(daug_test_${stage} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(daug_test_${stage} PRIVATE daug_test_support ${ARG_DEPENDS} daug_private_flags)
  # -O1 takes a quarter less time to compile. What takes time in a test is in the library.
  target_compile_options(daug_test_${stage} PRIVATE $<$<CONFIG:Release>:-O1>)
  if(NOT stage STREQUAL "torch")  # which uses the library's
    target_precompile_headers(daug_test_${stage} REUSE_FROM daug_test_support)
    # GCC 12 forgets that precompiled headers are the system's, and warns of copies in std::string that never happen.
    target_compile_options(daug_test_${stage} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-stringop-overflow>)
  endif()
  set(environment "DAUG_TEST_SOURCE_DIR=${PROJECT_SOURCE_DIR}" "DAUG_TEST_BINARY_DIR=${PROJECT_BINARY_DIR}")
  # Emulated kernels take minutes under a sanitizer.
  add_test(NAME unit.${stage} COMMAND daug_test_${stage}
                                      "~[golden]~[pipeline]~[gpu]~[browser]~[.]$<$<BOOL:${DAUG_SANITIZE}>:~[emulated]>")
  set_tests_properties(unit.${stage} PROPERTIES LABELS unit ENVIRONMENT "${environment}" TIMEOUT 900)
  set(labels golden pipeline gpu browser)
  foreach(label IN LISTS labels)
    set(has_${label} OFF)
  endforeach()
  foreach(source IN LISTS ARG_SOURCES)
    get_filename_component(path "${source}" ABSOLUTE)
    foreach(label IN LISTS labels)
      file(STRINGS "${path}" lines REGEX "\\[${label}\\]" LIMIT_COUNT 1)
      if(lines)
        set(has_${label} ON)
      endif()
    endforeach()
  endforeach()
  foreach(label IN LISTS labels)
    if(has_${label})
      set(filter "[${label}]")
      if(NOT label STREQUAL "browser")  # whose tests are skipped together
        string(APPEND filter "~[browser]")
      endif()
      # What compares distributions takes a minute under a sanitizer, and finds nothing there.
      add_test(NAME ${label}.${stage} COMMAND daug_test_${stage} "${filter}$<$<BOOL:${DAUG_SANITIZE}>:~[statistics]>")
      set_tests_properties(${label}.${stage} PROPERTIES LABELS ${label} ENVIRONMENT "${environment}" TIMEOUT 900
                           SKIP_REGULAR_EXPRESSION "shared data absent|no CUDA device|browser: skipped")
    endif()
  endforeach()
endfunction()
