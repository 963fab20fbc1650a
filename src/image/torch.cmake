# The image's part of daug::daug; all else is LibTorch-free and lives in daug::image.
target_sources(daug_daug PRIVATE ${PROJECT_SOURCE_DIR}/src/image/tensor_resize.cpp)
