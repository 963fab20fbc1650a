#pragma once
/// @file
/// Takes the maps that DAug's published code wrote, one `.npy` file a map, into a heatmap store. No LibTorch.

#include <cstddef>
#include <string>
#include <vector>

#include "daug/core/progress.h"
#include "daug/heatmap/heatmap_store.h"

namespace daug {

/// Names of the published code's seven maps: "+nof" towards No Finding, "-car", "-lsn", "-con", "-atl", "-plr" and
/// "-dev" away from a group of findings.
std::vector<std::string> published_map_names();

/// What import_npy_maps did, in images.
struct NpyImport {
  std::size_t imported = 0;           ///< added to the store
  std::size_t there_already = 0;      ///< the store has maps of the image
  std::vector<std::string> problems;  ///< a line for each image that was left out: which, and why
};

/// Adds maps to a store. The map `NAME` of the image `SUB/ID.EXT` under `image_folder` (EXT: jpg, jpeg, png or pgm) is
/// the file `SUB/ID_NAME.npy` under `map_folder`, one [H, W] array; the published code (its generate.py) leaves a tree
/// of such files beside the tree of MIMIC-CXR-JPG. Names and size are the store's layout; the key is
/// `heatmap_key(image)`. Values are taken as they are: the published code stretches a map to [0, 1] only when it uses
/// it.
///
/// An image is left out, with the reason, when one of its maps is missing (the published code skips the others of an
/// image whose first one exists), unreadable, of another size or not finite (what the published code makes of a
/// constant image), or when there is no image or more than one. Files that are no maps of these names are passed over.
/// Progress counts images; a stop throws kCancelled between two. Also throws kNotFound for a missing folder and what
/// HeatmapStoreWriter::append throws for a full disk, and kIo for a map folder that cannot be read.
NpyImport import_npy_maps(HeatmapStoreWriter& store, const std::string& map_folder, const std::string& image_folder,
                          const RunControl& control = {});

}  // namespace daug
