# The index's part of daug::daug; all else is LibTorch-free and lives in daug::index.
target_sources(daug_daug PRIVATE ${PROJECT_SOURCE_DIR}/src/index/device_search.cpp
                                 ${PROJECT_SOURCE_DIR}/src/index/full_ranking.cpp
                                 ${PROJECT_SOURCE_DIR}/src/index/distributed_search.cpp)
