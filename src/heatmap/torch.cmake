# The part of daug::daug that makes and uses maps; their store is LibTorch-free and lives in daug::heatmap_store.
target_sources(daug_daug PRIVATE ${PROJECT_SOURCE_DIR}/src/heatmap/channel_augmenter.cpp
                                 ${PROJECT_SOURCE_DIR}/src/heatmap/map_scaler.cpp
                                 ${PROJECT_SOURCE_DIR}/src/heatmap/maps.cpp
                                 ${PROJECT_SOURCE_DIR}/src/heatmap/polarity_test.cpp)
