# The encoder's part of daug::daug; the tokenizer is LibTorch-free and lives in daug::text.
foreach(source transformer conv_layers item_noise image_encoder conv_tower vit_tower resnet_tower densenet_tower text_encoder
               position_table clip_checkpoint torchvision_checkpoint)
  target_sources(daug_daug PRIVATE ${PROJECT_SOURCE_DIR}/src/encoder/${source}.cpp)
endforeach()
