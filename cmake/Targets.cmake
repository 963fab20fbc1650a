# The shape every library and test of this project shares.

# daug_add_library(<stage> DEPENDS <targets>...): a compiled, LibTorch-free library daug::<stage>.
# Its sources are added beside it with target_sources().
function(daug_add_library stage)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(daug_${stage} STATIC ${ARG_SOURCES})
  add_library(daug::${stage} ALIAS daug_${stage})
  set_target_properties(daug_${stage} PROPERTIES EXPORT_NAME ${stage} POSITION_INDEPENDENT_CODE ON)
  target_compile_features(daug_${stage} PUBLIC cxx_std_17)
  target_link_libraries(daug_${stage} PUBLIC daug_headers ${ARG_DEPENDS} PRIVATE $<BUILD_INTERFACE:daug_private_flags>)
  set_property(GLOBAL APPEND PROPERTY DAUG_INSTALLED_TARGETS daug_${stage})
endfunction()

# daug_add_test(<stage> SOURCES <files>... DEPENDS <targets>... [TOGETHER "<names>..."...]): one Catch2 program for a
# stage, registered as unit.<stage>, and as golden.<stage>, pipeline.<stage> and gpu.<stage> when a source has test cases
# with those tags.
#
# The files <name>_test.cpp of a group of TOGETHER are compiled as one, since most of the time for a file of tests goes into
# headers. They must not declare the same name in unnamed namespaces. DAUG_TESTS_TOGETHER=OFF compiles each by itself.
option(DAUG_TESTS_TOGETHER "Compile test files in groups" ON)
function(daug_add_test stage)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;TOGETHER" ${ARGN})
  set(compiled ${ARG_SOURCES})
  set(number 0)
  foreach(group IN LISTS ARG_TOGETHER)
    string(REPLACE " " ";" names "${group}")
    set(content "")
    foreach(name IN LISTS names)
      set(file "${name}_test.cpp")
      if(DAUG_TESTS_TOGETHER AND file IN_LIST compiled)
        list(REMOVE_ITEM compiled "${file}")
        get_filename_component(path "${file}" ABSOLUTE)
        file(RELATIVE_PATH path "${PROJECT_SOURCE_DIR}/tests" "${path}")
        string(APPEND content "#include \"${path}\"\n")
        get_source_file_property(plain "${file}" SKIP_PRECOMPILE_HEADERS)
      endif()
    endforeach()
    if(content)
      math(EXPR number "${number} + 1")
      set(together "${CMAKE_CURRENT_BINARY_DIR}/together/${stage}_${number}.cpp")
      file(CONFIGURE OUTPUT "${together}" CONTENT "${content}" @ONLY)
      set_source_files_properties("${together}" PROPERTIES SKIP_PRECOMPILE_HEADERS "${plain}")
      list(APPEND compiled "${together}")
    endif()
  endforeach()
  add_executable(daug_test_${stage} ${compiled})
  target_include_directories(daug_test_${stage} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(daug_test_${stage} PRIVATE daug_test_support ${ARG_DEPENDS} daug_private_flags)
  # A quarter less time to compile; what takes time in a test is in the library.
  target_compile_options(daug_test_${stage} PRIVATE $<$<CONFIG:Release>:-O1>)
  if(NOT stage STREQUAL "torch")  # which uses the library's
    target_precompile_headers(daug_test_${stage} REUSE_FROM daug_test_support)
    # GCC 12 forgets that precompiled headers are the system's, and warns of copies in std::string that never happen.
    target_compile_options(daug_test_${stage} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-stringop-overflow>)
  endif()
  set(environment "DAUG_TEST_SOURCE_DIR=${PROJECT_SOURCE_DIR}" "DAUG_TEST_BINARY_DIR=${PROJECT_BINARY_DIR}")
  add_test(NAME unit.${stage} COMMAND daug_test_${stage} "~[golden]~[pipeline]~[gpu]~[.]")
  set_tests_properties(unit.${stage} PROPERTIES LABELS unit ENVIRONMENT "${environment}" TIMEOUT 900)
  set(labels golden pipeline gpu)
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
      # What compares distributions takes a minute under a sanitizer, and finds nothing there.
      add_test(NAME ${label}.${stage} COMMAND daug_test_${stage} "[${label}]$<$<BOOL:${DAUG_SANITIZE}>:~[statistics]>")
      set_tests_properties(${label}.${stage} PROPERTIES LABELS ${label} ENVIRONMENT "${environment}" TIMEOUT 900
                           SKIP_REGULAR_EXPRESSION "shared data absent|no CUDA device")
    endif()
  endforeach()
endfunction()
