#pragma once
/// @file
/// A folder of images into a searchable index.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "daug/core/progress.h"
#include "daug/data/dataset.h"
#include "daug/image/preprocess.h"
#include "daug/index/index_writer.h"

namespace at {
class Tensor;
}

namespace daug {

/// Embeddings [B, D] of preprocessed images [B, 1, S, S] in [-1, 1], float32.
using EmbedImages = std::function<at::Tensor(const at::Tensor& images)>;

/// Settings of index_folder.
struct IndexFolderOptions {
  PreprocessOptions preprocess;  ///< size, fit, filter
  std::int64_t batch_size = 32;  ///< images embedded and written at a time, >= 1
  int threads = 2;               ///< decoding threads, in [1, 256]; the result does not depend on it
  bool skip_bad = false;         ///< go on without images that cannot be read

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// What index_folder did.
struct IndexFolderResult {
  std::int64_t added = 0;             ///< images that are new in the index
  std::int64_t present = 0;           ///< images that were in it before, and were not read again
  std::vector<LoadFailure> failures;  ///< empty unless skip_bad; `study` is the image's name
};

/// Adds every PNG, JPEG and PGM file (by its name's ending, in any case) in a folder and the folders below to an index,
/// in the order of their names: paths relative to the folder, with `/`. An item's text id is its name.
/// `embed` has to be the encoder whose fingerprint `index` was opened with: embeddings do not tell.
///
/// Each batch is in the index's file when the next one begins, so that a call after a stop, a crash or new files goes
/// on where the last one ended. Progress is reported after each batch, in images. Images whose name is in the index are
/// taken to be the same: remove an item to have a changed file read again.
///
/// Throws kNotFound for a missing folder, kIo for one that cannot be listed and as IndexWriter::add, kCancelled on a
/// stop, LoadError for images that cannot be read unless skip_bad (the batches before are in the index), kMismatch for
/// embeddings of another shape than [B, dimension].
IndexFolderResult index_folder(const std::string& folder, IndexWriter& index, const EmbedImages& embed,
                               const IndexFolderOptions& options = {}, const RunControl& control = {});

}  // namespace daug
