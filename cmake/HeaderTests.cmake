# Every public header compiles on its own: one translation unit a header, as C++17 and as C++20, and without LibTorch
# on the include path unless the header (or one it includes) asks for it. Headers that need LibTorch cost seconds each
# and are compiled as C++17 only; the library itself compiles them as C++20.
#
# Target daug_header_tests; run by the test headers.self_sufficient.

# Folders that must never need LibTorch, whatever they include.
set(_torch_free_folders core io image index metrics data report serve)

file(GLOB_RECURSE _headers RELATIVE "${PROJECT_SOURCE_DIR}/include" CONFIGURE_DEPENDS
     "${PROJECT_SOURCE_DIR}/include/daug/*.h")
set(_torch_headers "")
set(_changed ON)
while(_changed)  # until no header is newly known to need LibTorch through another one
  set(_changed OFF)
  foreach(_header IN LISTS _headers)
    string(REGEX REPLACE "^daug/([^/]+)/.*" "\\1" _folder "${_header}")
    if(_header IN_LIST _torch_headers OR _folder IN_LIST _torch_free_folders)
      continue()
    endif()
    file(STRINGS "${PROJECT_SOURCE_DIR}/include/${_header}" _includes REGEX "^#include ")
    foreach(_include IN LISTS _includes)
      string(REGEX REPLACE "^#include [<\"]([^>\"]+).*" "\\1" _include "${_include}")
      if(_include MATCHES "^(torch|ATen|c10)/" OR _include IN_LIST _torch_headers)
        list(APPEND _torch_headers "${_header}")
        set(_changed ON)
        break()
      endif()
    endforeach()
  endforeach()
endwhile()
list(REMOVE_ITEM _headers ${_torch_headers})

# daug_header_library(<name> <standard> <headers>...)
function(daug_header_library name standard)
  set(sources "")
  foreach(header IN LISTS ARGN)
    string(MAKE_C_IDENTIFIER "${header}" source)
    set(source "${CMAKE_CURRENT_BINARY_DIR}/headers/${source}.cpp")
    file(CONFIGURE OUTPUT "${source}" CONTENT "#include \"${header}\"\n#include \"${header}\"\n" @ONLY)
    list(APPEND sources "${source}")
  endforeach()
  add_library(${name} OBJECT EXCLUDE_FROM_ALL ${sources})
  set_target_properties(${name} PROPERTIES CXX_STANDARD ${standard} CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF)
  # The warnings of daug_private_flags, but not its C++20.
  target_compile_options(${name} PRIVATE $<TARGET_PROPERTY:daug_private_flags,INTERFACE_COMPILE_OPTIONS> -O0)
  target_link_libraries(${name} PRIVATE daug_headers)
  add_dependencies(daug_header_tests ${name})
endfunction()

add_custom_target(daug_header_tests)
daug_header_library(daug_headers_cxx17 17 ${_headers})
daug_header_library(daug_headers_cxx20 20 ${_headers})
if(DAUG_WITH_TORCH AND _torch_headers)
  daug_header_library(daug_headers_torch 17 ${_torch_headers})
  target_link_libraries(daug_headers_torch PRIVATE daug_torch)
endif()
