# The encoder's part of daug::daug; the tokenizer is LibTorch-free and lives in daug::text.
target_sources(daug_daug PRIVATE ${PROJECT_SOURCE_DIR}/src/encoder/transformer.cpp
                                 ${PROJECT_SOURCE_DIR}/src/encoder/image_encoder.cpp
                                 ${PROJECT_SOURCE_DIR}/src/encoder/text_encoder.cpp)
