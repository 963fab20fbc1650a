# cmake --install, and the package that find_package(daug CONFIG COMPONENTS ...) reads. A component is a target's name:
# headers, io, image, ... and daug and pipeline, which need LibTorch; only those make the package look for it.
include(CMakePackageConfigHelpers)
set(_config_folder "${CMAKE_INSTALL_LIBDIR}/cmake/daug")

get_property(_targets GLOBAL PROPERTY DAUG_INSTALLED_TARGETS)
set(_components "")
foreach(_target IN LISTS _targets)
  get_target_property(_name ${_target} EXPORT_NAME)
  list(APPEND _components ${_name})
  if(_name MATCHES "^(daug|pipeline)$")
    install(TARGETS ${_target} EXPORT daugTorchTargets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  else()
    install(TARGETS ${_target} EXPORT daugTargets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  endif()
endforeach()
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/daug" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
        FILES_MATCHING PATTERN "*.h")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}")

install(EXPORT daugTargets NAMESPACE daug:: DESTINATION "${_config_folder}")
if(DAUG_WITH_TORCH)
  install(EXPORT daugTorchTargets NAMESPACE daug:: DESTINATION "${_config_folder}")
  install(FILES "${PROJECT_SOURCE_DIR}/cmake/LibTorch.cmake" DESTINATION "${_config_folder}")
endif()
configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/daugConfig.cmake.in"
                              "${PROJECT_BINARY_DIR}/daugConfig.cmake" INSTALL_DESTINATION "${_config_folder}"
                              NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/daugConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/daugConfig.cmake" "${PROJECT_BINARY_DIR}/daugConfigVersion.cmake"
        DESTINATION "${_config_folder}")
