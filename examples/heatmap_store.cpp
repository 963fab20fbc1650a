// Looks after heatmap stores: says what one holds and whether it is whole, compacts it, makes one of the shards of
// several ranks, and takes in maps that DAug's published code wrote.
//
//   heatmap_store info STORE
//   heatmap_store verify STORE
//   heatmap_store compact STORE
//   heatmap_store merge OUT SHARD...
//   heatmap_store import MAP_FOLDER IMAGE_FOLDER STORE [--fingerprint TEXT --height H --width W]
//
// Maps that OUT or STORE has are kept. Exit status: 0; 1 for an error, damage, or images that were left out; 2 for
// wrong arguments; 130 when stopped by Ctrl-C.
#include "daug/pipeline/heatmap_store_program.h"

int main(int argc, char** argv) { return daug::heatmap_store_program(argc, argv); }
