#pragma once
/// @file
/// Trained encoders as one file that says how they are built.

#include <map>
#include <string>

#include "daug/io/safetensors.h"
#include "daug/train/encoder_trainer.h"

namespace daug {

/// Metadata "format" of such a file.
inline constexpr const char* kEncoderFormat = "daug-encoders-2";

/// Writes the encoders, atomically, as a safetensors file: their tensors under the names of EncoderPair::as_module,
/// their options and pixel scaling as JSON in the metadata "architecture". `metadata` is added. Throws kIo.
void save_encoders(const std::string& path, const EncoderPair& encoders,
                   std::map<std::string, std::string> metadata = {});

/// What that metadata "architecture" says.
std::string encoder_architecture(const EncoderPair& encoders);

/// Builds the encoders that such a file holds, in eval() state. `metadata` (may be null) gets all of the file's.
///
/// Throws kNotFound, kIo and kFormat for the file and its architecture (naming the field), kMismatch, before memory is
/// set aside, for an architecture that the file's weights cannot fill,
/// and with the report of missing, unexpected and mismatched keys.
EncoderPair load_encoders(const std::string& path, std::map<std::string, std::string>* metadata = nullptr);
/// The same from a file that was read; errors call it `name`.
EncoderPair load_encoders(const SafetensorsFile& file, const std::string& name);

}  // namespace daug
