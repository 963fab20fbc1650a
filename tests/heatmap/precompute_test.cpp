#include "daug/heatmap/precompute.h"

#include <algorithm>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "daug/core/half.h"
#include "daug/io/file.h"
#include "heatmap/store_fixtures.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;
using Keys = std::vector<std::uint64_t>;

namespace {

const HeatmapLayout kLayout = small_layout();

/// A model: maps are a function of the image, calls are counted.
struct Model {
  const Keys& keys;
  std::vector<std::vector<std::size_t>> calls;
  std::mutex mutex;

  void operator()(const std::vector<std::size_t>& images, float* out) {
    const std::size_t values = kLayout.values();
    for (std::size_t i = 0; i < images.size() * values; ++i)
      if (out[i] != 0) throw std::logic_error("maps are not zero at first");
    for (std::size_t i = 0; i < images.size(); ++i) {
      const auto maps = maps_of(kLayout, keys[images[i]]);
      std::copy(maps.begin(), maps.end(), out + i * values);
    }
    const std::lock_guard lock(mutex);
    calls.push_back(images);
  }
};

}  // namespace

TEST_CASE("only what a store lacks is computed, in batches, and progress counts all", "[heatmap]") {
  const Scratch scratch;
  const std::string path = scratch.path("a");
  fill(path, kLayout, {3, 100});
  const Keys keys = {1, 2, 3, 4, 2, 5, 6, 7};  // 3 is there, 2 comes twice
  HeatmapStoreWriter store(path, kLayout, false);
  Model model{keys, {}, {}};
  std::vector<Progress> reports;
  RunControl control;
  control.progress = [&](const Progress& progress) { reports.push_back(progress); };
  PrecomputeOptions options;
  options.batch = 4;
  options.stage = "maps";
  const auto report = precompute_heatmaps(store, keys, std::ref(model), options, control);
  CHECK(report.computed == 6);
  CHECK(report.skipped == 2);
  CHECK(report.seconds >= 0);
  // Of positions 0 to 3 and 4 to 7, what is missing.
  CHECK(model.calls == std::vector<std::vector<std::size_t>>{{0, 1, 3}, {5, 6, 7}});
  require_images(path, kLayout, {3, 100, 1, 2, 4, 5, 6, 7});

  REQUIRE(reports.size() >= 2);
  CHECK(reports.front().done == 5);  // 2 skipped, 3 computed
  CHECK(reports.back().done == 8);
  for (const auto& each : reports) {
    CHECK(each.stage == "maps");
    CHECK(each.total == 8);
    CHECK(each.unit == "images");
    CHECK_THAT(each.detail, contains_text("images/s, "));
    CHECK_THAT(each.detail, contains_text(" s left"));
  }
  CHECK_THAT(reports.back().detail, contains_text(", 0 s left"));

  const auto again = precompute_heatmaps(store, keys, std::ref(model));
  CHECK(again.computed == 0);
  CHECK(again.skipped == 8);
  CHECK(precompute_heatmaps(store, {}, std::ref(model)).computed == 0);
  CHECK(model.calls.size() == 2);
}

TEST_CASE("a stopped run keeps what it computed and goes on from there", "[heatmap]") {
  const Scratch scratch;
  const std::string path = scratch.path("a");
  const Keys keys = {11, 12, 13, 14, 15};
  Model model{keys, {}, {}};
  {
    HeatmapStoreWriter store(path, kLayout, false);
    StopSource source;
    RunControl control;
    control.stop = source.token();
    control.progress = [&](const Progress& progress) {
      if (progress.done == 3) source.request_stop();
    };
    const auto error = caught([&] { precompute_heatmaps(store, keys, std::ref(model), {}, control); });
    CHECK(error.code() == ErrorCode::kCancelled);
  }
  require_images(path, kLayout, {11, 12, 13});
  HeatmapStoreWriter store(path, kLayout, false);
  CHECK(precompute_heatmaps(store, keys, std::ref(model)).computed == 2);
  CHECK(model.calls.size() == 5);  // none twice
  require_images(path, kLayout, keys);
}

TEST_CASE("what a model throws ends the run after the images before it", "[heatmap]") {
  const Scratch scratch;
  const Keys keys = {1, 2, 3};
  HeatmapStoreWriter store(scratch.path("a"), kLayout, false);
  const auto fails_at_third = [&](const std::vector<std::size_t>& images, float* out) {
    if (images[0] == 2) throw std::runtime_error("no maps");
    const auto maps = maps_of(kLayout, keys[images[0]]);
    std::copy(maps.begin(), maps.end(), out);
  };
  CHECK_THROWS_WITH(precompute_heatmaps(store, keys, fails_at_third), "no maps");
  require_images(scratch.path("a"), kLayout, {1, 2});

  PrecomputeOptions options;
  options.batch = 0;
  CHECK(caught([&] { precompute_heatmaps(store, keys, fails_at_third, options); }).code() ==
        ErrorCode::kInvalidArgument);
  options = {};
  options.threads = 0;
  CHECK(caught([&] { precompute_heatmaps(store, keys, fails_at_third, options); }).code() ==
        ErrorCode::kInvalidArgument);
}

TEST_CASE("a model of halves fills a store of float16 as one of floats does, and no other", "[heatmap]") {
  const Scratch scratch;
  const Keys keys = {5, 2, 9, 2};
  std::size_t calls = 0;
  const auto in_halves = [&](const std::vector<std::size_t>& images, std::uint16_t* out) {
    ++calls;
    for (const std::size_t image : images)
      for (const float value : maps_of(kLayout, keys[image])) *out++ = float_to_half(value);
  };
  PrecomputeOptions options;
  options.batch = 2;
  {
    HeatmapStoreWriter halves(scratch.path("halves"), kLayout, false), floats(scratch.path("floats"), kLayout, false);
    CHECK(precompute_half_heatmaps(halves, keys, in_halves, options).computed == 3);
    Model model{keys, {}, {}};
    CHECK(precompute_heatmaps(floats, keys, std::ref(model), options).computed == 3);
    CHECK(precompute_half_heatmaps(halves, keys, in_halves, options).skipped == 4);
  }
  CHECK(calls == 2);
  CHECK(read_text_file(scratch.path("halves")) == read_text_file(scratch.path("floats")));
  require_images(scratch.path("halves"), kLayout, {5, 2, 9});

  HeatmapStoreWriter bytes(scratch.path("bytes"), small_layout(MapStorage::kUint8));
  check_refused(ErrorCode::kMismatch, "precompute_half_heatmaps: storage: expected float16, got uint8",
                [&] { precompute_half_heatmaps(bytes, keys, in_halves); });
  CHECK(calls == 2);
}

TEST_CASE("several threads fill a store with the same maps", "[heatmap]") {
  const Scratch scratch;
  Keys keys;
  for (std::uint64_t key = 0; key < 200; ++key) keys.push_back(key);
  Model model{keys, {}, {}};
  PrecomputeOptions options;
  options.batch = 3;
  options.threads = 4;
  {
    HeatmapStoreWriter store(scratch.path("a"), kLayout, false);
    CHECK(precompute_heatmaps(store, keys, std::ref(model), options).computed == 200);
  }
  const HeatmapStore store(scratch.path("a"), kLayout.fingerprint);
  Keys stored = store.keys();
  std::sort(stored.begin(), stored.end());
  CHECK(stored == keys);
  for (const auto key : keys) REQUIRE(store.read(key) == maps_of(kLayout, key));
  CHECK(verify_heatmap_store(scratch.path("a")).superseded == 0);
}

TEST_CASE("ranks that make a share each merge into the store of one", "[heatmap]") {
  const Scratch scratch;
  constexpr std::uint64_t kRanks = 3;
  Keys keys;
  for (std::uint64_t key = 0; key < 20; ++key) keys.push_back(1000 + key);
  std::vector<std::string> shards;
  const auto make_share = [&](std::uint64_t rank, std::size_t most) {
    Keys share;
    for (std::size_t i = rank; i < keys.size() && share.size() < most; i += kRanks) share.push_back(keys[i]);
    Model model{share, {}, {}};
    HeatmapStoreWriter store(shards.at(rank), kLayout, false);
    return precompute_heatmaps(store, share, std::ref(model)).computed;
  };
  for (std::uint64_t rank = 0; rank < kRanks; ++rank) {
    shards.push_back(scratch.path("rank" + std::to_string(rank)));
    make_share(rank, rank == 1 ? 2 : keys.size());  // the second one is stopped after two of its seven
  }
  HeatmapStoreWriter whole(scratch.path("whole"), kLayout, false);
  CHECK(whole.merge(shards).added == 15);
  CHECK(make_share(1, keys.size()) == 5);
  const HeatmapMerge rest = whole.merge(shards);
  CHECK(rest.added == 5);
  CHECK(rest.there_already == 15);
  CHECK(rest.different == 0);
  const HeatmapStore store(scratch.path("whole"), kLayout.fingerprint);
  CHECK(store.size() == keys.size());
  for (const std::uint64_t key : keys) REQUIRE(store.read(key) == maps_of(kLayout, key));
}
