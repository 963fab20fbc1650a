#include "daug/heatmap/npy_import.h"

#include <filesystem>
#include <limits>

#include "heatmap/store_fixtures.h"
#include "io/npy_bytes.h"
#include "support/caught.h"
#include "support/full_disk.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;

namespace {

const std::vector<std::string> kNames = {"+nof", "-car"};
const HeatmapLayout kLayout{"published maps", kNames, 2, 3, MapStorage::kFloat16};

/// Two trees as the published code leaves them: images, and maps beside them.
class Trees {
 public:
  Trees() {
    for (const char* folder : {"images/p10/s1", "maps/p10/s1"})
      std::filesystem::create_directories(scratch_.path(folder));
  }
  std::string image(const std::string& name) const { return scratch_.put("images/" + name, "pixels of " + name); }
  void map(const std::string& name, const std::vector<float>& values, const std::string& shape = "(2, 3)") const {
    std::string data(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    scratch_.put("maps/" + name, npy(npy_header("<f4", shape), data));
  }
  /// Both maps of an image.
  void maps(const std::string& stem, float value) const {
    map(stem + "_+nof.npy", std::vector<float>(6, value));
    map(stem + "_-car.npy", {0, 1, 2, 3, 4, value});
  }
  NpyImport run(HeatmapStoreWriter& store, const RunControl& control = {}) const {
    return import_npy_maps(store, scratch_.path("maps"), scratch_.path("images"), control);
  }
  std::string path(const std::string& name) const { return scratch_.path(name); }

 private:
  Scratch scratch_;
};

}  // namespace

TEST_CASE("the published code's files become records under the keys of their images", "[heatmap]") {
  const Trees trees;
  const std::string first = trees.image("p10/s1/02aa-bd.jpg"), second = trees.image("a_b.png");
  trees.maps("p10/s1/02aa-bd", 0.5F);
  trees.maps("a_b", 0.25F);
  trees.map("a_b_-lsn.npy", {1});  // another map, and other files beside them
  trees.image("unmapped.png");
  HeatmapStoreWriter store(trees.path("store"), kLayout);
  const auto result = trees.run(store);
  CHECK(result.imported == 2);
  CHECK(result.there_already == 0);
  CHECK(result.problems.empty());

  const HeatmapStore reader(trees.path("store"), kLayout.fingerprint);
  CHECK(reader.size() == 2);
  CHECK(reader.read(heatmap_key(first)) == std::vector<float>{0.5F, 0.5F, 0.5F, 0.5F, 0.5F, 0.5F, 0, 1, 2, 3, 4, 0.5F});
  CHECK(reader.read(heatmap_key(second))[11] == 0.25F);

  const auto again = trees.run(store);
  CHECK(again.imported == 0);
  CHECK(again.there_already == 2);
  CHECK(published_map_names() == std::vector<std::string>{"+nof", "-car", "-lsn", "-con", "-atl", "-plr", "-dev"});
}

TEST_CASE("an image whose maps cannot be used is left out with the reason", "[heatmap]") {
  const Trees trees;
  for (const char* name : {"cut.jpg", "lacks.jpg", "nan.jpg", "shape.jpg", "good.jpg", "two.jpg", "two.png"})
    trees.image(name);
  for (const char* stem : {"cut", "nan", "shape", "good", "two", "none"}) trees.maps(stem, 1);
  trees.map("lacks_-car.npy", std::vector<float>(6));
  trees.map("nan_-car.npy", std::vector<float>(6, std::numeric_limits<float>::quiet_NaN()));
  trees.map("shape_+nof.npy", std::vector<float>(6), "(3, 2)");
  std::filesystem::resize_file(trees.path("maps/cut_+nof.npy"), 100);
  HeatmapStoreWriter store(trees.path("store"), kLayout);
  const auto result = trees.run(store);
  CHECK(result.imported == 1);
  CHECK(store.contains(heatmap_key(trees.path("images/good.jpg"))));
  CHECK(store.size() == 1);
  const std::vector<std::vector<std::string>> expected = {
      {"cut: ", "cut_+nof.npy"},       {"lacks: ", "lacks_+nof.npy"},   {"nan: ", "map '-car'", "finite"},
      {"none: ", "expected an image"}, {"shape: ", "[2, 3]", "[3, 2]"}, {"two: ", "one image"}};
  REQUIRE(result.problems.size() == expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i)
    for (const auto& text : expected[i]) CHECK_THAT(result.problems[i], contains_text(text));
}

TEST_CASE("an import can be stopped, and a full disk is no fault of an image", "[heatmap]") {
  const Trees trees;
  for (const char* name : {"a", "b", "c"}) {
    trees.image(std::string(name) + ".jpg");
    trees.maps(name, 1);
  }
  HeatmapStoreWriter store(trees.path("store"), kLayout);
  StopSource source;
  RunControl control;
  control.stop = source.token();
  std::vector<std::int64_t> done;
  control.progress = [&](const Progress& progress) {
    CHECK(progress.total == 3);
    done.push_back(progress.done);
    if (progress.done == 2) source.request_stop();
  };
  CHECK(caught([&] { trees.run(store, control); }).code() == ErrorCode::kCancelled);
  CHECK(done == std::vector<std::int64_t>{1, 2});
  CHECK(store.size() == 2);
  {
    const FullDisk full(std::filesystem::file_size(trees.path("store")) + 10);
    CHECK(caught([&] { trees.run(store); }).code() == ErrorCode::kIo);
  }
  CHECK(trees.run(store).imported == 1);
  CHECK(caught([&] { import_npy_maps(store, trees.path("absent"), trees.path("images")); }).code() ==
        ErrorCode::kNotFound);
}
