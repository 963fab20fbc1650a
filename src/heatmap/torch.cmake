# The part of daug::daug that makes and uses maps; their store is LibTorch-free and lives in daug::heatmap_store.
foreach(source channel_augmenter encoder_maps map_calibration map_scaler map_student maps occlusion)
  target_sources(daug_daug PRIVATE ${PROJECT_SOURCE_DIR}/src/heatmap/${source}.cpp)
endforeach()
