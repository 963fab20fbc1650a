# Every public header compiles on its own as C++17 and as C++20, one translation unit a header and standard; without
# LibTorch on the include path unless the header (or one it includes) asks for it.
#
# Target daug_header_tests; run by the test headers.self_sufficient.

# Folders that must never need LibTorch, whatever they include.
set(_torch_free_folders core io image index metrics data report serve)

file(GLOB_RECURSE _headers RELATIVE "${PROJECT_SOURCE_DIR}/include" CONFIGURE_DEPENDS
     "${PROJECT_SOURCE_DIR}/include/daug/*.h")

# daug_headers_including(<variable> <regex> <headers>...): those of the headers that include something that matches, by
# themselves or through one another.
function(daug_headers_including variable regex)
  set(found "")
  set(changed ON)
  while(changed)  # until no header is newly known to
    set(changed OFF)
    foreach(header IN LISTS ARGN)
      if(header IN_LIST found)
        continue()
      endif()
      file(STRINGS "${PROJECT_SOURCE_DIR}/include/${header}" includes REGEX "^#include ")
      foreach(include IN LISTS includes)
        string(REGEX REPLACE "^#include [<\"]([^>\"]+).*" "\\1" include "${include}")
        if(include MATCHES "${regex}" OR include IN_LIST found)
          list(APPEND found "${header}")
          set(changed ON)
          break()
        endif()
      endforeach()
    endforeach()
  endwhile()
  set(${variable} ${found} PARENT_SCOPE)
endfunction()

list(JOIN _torch_free_folders "|" _folders)
set(_torch_headers ${_headers})
list(FILTER _torch_headers EXCLUDE REGEX "^daug/(${_folders})/")
daug_headers_including(_torch_headers "^(torch|ATen|c10)/" ${_torch_headers})
list(REMOVE_ITEM _headers ${_torch_headers})

# daug_header_library(<name> <libraries> <precompiled header or ""> <headers>...): targets <name>_cxx17 and <name>_cxx20.
function(daug_header_library name libraries precompiled)
  set(sources "")
  foreach(header IN LISTS ARGN)
    string(MAKE_C_IDENTIFIER "${header}" source)
    set(source "${CMAKE_CURRENT_BINARY_DIR}/headers/${source}.cpp")
    file(CONFIGURE OUTPUT "${source}" CONTENT "#include \"${header}\"\n#include \"${header}\"\n" @ONLY)
    list(APPEND sources "${source}")
  endforeach()
  foreach(standard 17 20)
    set(target ${name}_cxx${standard})
    add_library(${target} OBJECT EXCLUDE_FROM_ALL ${sources})
    set_target_properties(${target} PROPERTIES CXX_STANDARD ${standard} CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF)
    # The warnings of daug_private_flags, but not its C++20.
    target_compile_options(${target} PRIVATE $<TARGET_PROPERTY:daug_private_flags,INTERFACE_COMPILE_OPTIONS> -O0)
    target_link_libraries(${target} PRIVATE ${libraries})
    if(precompiled)
      target_precompile_headers(${target} PRIVATE ${precompiled})
    endif()
    add_dependencies(daug_header_tests ${target})
  endforeach()
endfunction()

add_custom_target(daug_header_tests)
daug_header_library(daug_headers daug_headers "" ${_headers})
if(DAUG_WITH_TORCH AND _torch_headers)
  # Most of the time goes into LibTorch's headers: what includes one of these two anyway gets it precompiled.
  daug_headers_including(_module_headers "^torch/nn/module\\.h$" ${_torch_headers})
  list(REMOVE_ITEM _torch_headers ${_module_headers})
  daug_headers_including(_tensor_headers "^ATen/core/Tensor\\.h$" ${_torch_headers})
  list(REMOVE_ITEM _torch_headers ${_tensor_headers})
  set(_libraries daug_headers daug_torch)
  daug_header_library(daug_headers_other "${_libraries}" "" ${_torch_headers})
  daug_header_library(daug_headers_tensor "${_libraries}" <ATen/core/Tensor.h> ${_tensor_headers})
  daug_header_library(daug_headers_module "${_libraries}" <torch/nn/module.h> ${_module_headers})
endif()
