#pragma once
/// @file
/// The care of heatmap stores, as a program.

namespace daug {

/// The program `heatmap_store`:
/// - `info STORE` prints the layout, the number of images and the size of the file;
/// - `verify STORE` checks every record (verify_heatmap_store);
/// - `compact STORE` drops superseded, damaged and torn records (compact_heatmap_store);
/// - `merge OUT SHARD...` adds what the shards hold and OUT does not (HeatmapStoreWriter::merge); OUT is made with the
///   first one's layout;
/// - `import MAP_FOLDER IMAGE_FOLDER STORE` adds maps of the published code's files (import_npy_maps); a new STORE
/// needs
///   `--fingerprint`, `--height` and `--width`, and may have `--names` and `--storage`.
///
/// Maps that OUT or STORE has are kept, and a file that is no store, or one of another layout, is refused and left as
/// it is. Results go to standard output, errors and images that are left out to standard error. Ctrl-C stops between
/// two records.
///
/// Returns the exit status: 0; 1 after an error, for damaged records (`verify`), for images with other maps than OUT's
/// (`merge`), and for images that are left out (`import`); 2 for wrong arguments; 130 when stopped.
int heatmap_store_program(int argc, const char* const* argv);

}  // namespace daug
