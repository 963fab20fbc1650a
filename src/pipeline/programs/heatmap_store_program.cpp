#include "daug/pipeline/heatmap_store_program.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "daug/heatmap/heatmap_store.h"
#include "daug/heatmap/npy_import.h"
#include "program.h"

namespace daug {

namespace {

const std::vector<std::string> kStorageNames = {"float16", "uint8", "float32"};  // in the order of MapStorage

/// What is told of the layout of a store to import into; empty or 0: nothing.
struct GivenLayout {
  std::string fingerprint, names, storage;
  std::int64_t height = 0, width = 0;
};

/// The layout of a store that is there, or of a new one, with what is told of it.
HeatmapLayout layout_of(const std::string& path, const GivenLayout& given) {
  HeatmapLayout layout;
  layout.names = published_map_names();
  if (std::filesystem::exists(path)) layout = read_heatmap_layout(path);
  if (!given.fingerprint.empty()) layout.fingerprint = given.fingerprint;
  if (given.height != 0) layout.height = given.height;
  if (given.width != 0) layout.width = given.width;
  for (std::size_t i = 0; i < kStorageNames.size(); ++i)
    if (given.storage == kStorageNames[i]) layout.storage = static_cast<MapStorage>(i);
  if (!given.names.empty()) {
    layout.names.clear();
    std::istringstream names(given.names);
    for (std::string name; std::getline(names, name, ',');) layout.names.push_back(name);
  }
  return layout;
}

void say_contents(const std::string& path, const Say& say) {
  const HeatmapLayout layout = read_heatmap_layout(path);
  say(fmt::format("{}: {} maps an image, {} x {}, {}", path, layout.names.size(), layout.height, layout.width,
                  kStorageNames.at(static_cast<std::size_t>(layout.storage))));
  say("  fingerprint = " + layout.fingerprint);
  for (const auto& name : layout.names) say("  map = " + name);
  say(fmt::format("  bytes = {}", std::filesystem::file_size(path)));
  say(fmt::format("  images = {}", HeatmapStore(path, layout.fingerprint).size()));
}

void say_check(const std::string& path, const HeatmapStoreCheck& check, const Say& say) {
  say(fmt::format("{}: {} records: {} images, {} superseded, {} damaged; {} bytes of a torn end", path, check.records,
                  check.images, check.superseded, check.damaged.size(), check.torn_bytes));
  for (const auto& damaged : check.damaged) say("damaged: " + damaged.reason);
}

/// Whether no record is damaged.
bool verify_store(const std::string& path, const RunControl& control, const Say& say) {
  const auto check = verify_heatmap_store(path, control);
  say_check(path, check, say);
  say(check.damaged.empty() ? "whole: yes" : "whole: no");
  return check.damaged.empty();
}

void compact_store(const std::string& path, const RunControl& control, const Say& say) {
  const auto before = compact_heatmap_store(path, control);
  say_check(path, before, say);
  const auto dropped = before.records - before.images;
  if (dropped == 0 && before.torn_bytes == 0)
    say("nothing to drop");
  else
    say(fmt::format("dropped {} records and {} bytes of a torn end; {} images are left", dropped, before.torn_bytes,
                    before.images));
}

/// Whether no image had other maps.
bool merge_stores(const std::string& path, const std::vector<std::string>& shards, const RunControl& control,
                  const Say& say) {
  const HeatmapLayout layout = read_heatmap_layout(shards.front());
  // Before there is a new store, which would have to be removed after a mistake.
  for (const auto& shard : shards) (void)HeatmapStore(shard, layout.fingerprint);
  HeatmapStoreWriter store(path, layout);
  const auto result = store.merge(shards, control);
  say(fmt::format("{}: {} images added, {} were there, {} were there with other maps, which were kept; {} images now",
                  path, result.added, result.there_already, result.different, store.size()));
  return result.different == 0;
}

/// Whether no image was left out.
bool import_maps(const std::string& maps, const std::string& images, const std::string& path, const GivenLayout& given,
                 const RunControl& control, const Say& say) {
  HeatmapStoreWriter store(path, layout_of(path, given));
  const auto result = import_npy_maps(store, maps, images, control);
  for (const auto& problem : result.problems) std::cerr << "left out: " << problem << "\n";
  say(fmt::format("{}: {} images added, {} were there, {} left out; {} images now", path, result.imported,
                  result.there_already, result.problems.size(), store.size()));
  return result.problems.empty();
}

}  // namespace

int heatmap_store_program(int argc, const char* const* argv) {
  CLI::App app("Shows, checks, compacts, merges and fills heatmap stores.\nNot a medical device.");
  app.require_subcommand(1);
  std::string path, maps, images;
  std::vector<std::string> shards;
  GivenLayout given;

  CLI::App* const info = app.add_subcommand("info", "prints layout, number of images and size of the file");
  CLI::App* const verifying = app.add_subcommand("verify", "checks every record");
  CLI::App* const compacting = app.add_subcommand(
      "compact", "drops superseded, damaged and torn records, and with them images whose maps are damaged");
  for (CLI::App* const command : {info, verifying, compacting})
    command->add_option("STORE", path, "file of the store")->required();

  CLI::App* const merging = app.add_subcommand("merge", "adds what stores of the same layout hold to another one");
  merging->add_option("OUT", path, "store to add to; made if it is not there")->required();
  merging->add_option("SHARD", shards, "stores to read")->required();

  CLI::App* const importing =
      app.add_subcommand("import", "adds the maps that DAug's published code wrote, SUB/ID_NAME.npy for SUB/ID.jpg");
  importing->add_option("MAP_FOLDER", maps, "tree of .npy files")->required()->check(CLI::ExistingDirectory);
  importing->add_option("IMAGE_FOLDER", images, "tree of images beside it")->required()->check(CLI::ExistingDirectory);
  importing->add_option("STORE", path, "store to add to; made if it is not there")->required();
  importing->add_option("--fingerprint", given.fingerprint, "of a new store: what made the maps, any text");
  importing->add_option("--height", given.height, "of a new store: pixels")->check(CLI::Range(1, 16384));
  importing->add_option("--width", given.width, "of a new store: pixels")->check(CLI::Range(1, 16384));
  importing->add_option("--names", given.names,
                        "of a new store: maps of an image, comma-separated; without it the published code's seven, as "
                        "--names=+nof,-car,-lsn,-con,-atl,-plr,-dev");
  importing->add_option("--storage", given.storage, "of a new store: how values are kept; without it float16")
      ->check(CLI::IsMember(kStorageNames));
  try {
    app.parse(argc, argv);
    std::error_code ignored;
    if (importing->parsed() && !std::filesystem::exists(path, ignored) &&
        (given.fingerprint.empty() || given.height == 0 || given.width == 0))
      throw CLI::RequiredError("for a new store each of --fingerprint, --height and --width");
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }

  bool all_well = true;
  const bool adds = merging->parsed() || importing->parsed();
  const int status =
      guarded_program(adds ? "Stopped; what was added is kept in " + path + ". Run the same command again to go on."
                           : "Stopped; " + path + " is as it was.",
                      [&](const RunControl& control, const Say& say) {
                        if (info->parsed()) say_contents(path, say);
                        if (verifying->parsed()) all_well = verify_store(path, control, say);
                        if (compacting->parsed()) compact_store(path, control, say);
                        if (merging->parsed()) all_well = merge_stores(path, shards, control, say);
                        if (importing->parsed()) all_well = import_maps(maps, images, path, given, control, say);
                      });
  return status == 0 && !all_well ? 1 : status;
}

}  // namespace daug
