#include "daug/heatmap/heatmap_store.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <future>
#include <limits>
#include <memory>

#include "daug/core/half.h"
#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "heatmap/store_fixtures.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;
using Keys = std::vector<std::uint64_t>;

TEST_CASE("maps come back by key, also from a store that is opened again", "[heatmap]") {
  const Scratch scratch;
  const std::string path = scratch.path("a");
  for (const auto storage : {MapStorage::kFloat16, MapStorage::kUint8, MapStorage::kFloat32}) {
    const auto layout = small_layout(storage);
    std::filesystem::remove(path);
    { const HeatmapStoreWriter empty(path, layout); }
    CHECK(HeatmapStore(path, layout.fingerprint).size() == 0);
    CHECK(std::filesystem::file_size(path) == header_bytes(layout));
    {
      HeatmapStoreWriter writer(path, layout);
      writer.append(7, maps_of(layout, 7));
      CHECK(writer.contains(7));
      CHECK_FALSE(writer.contains(8));
    }
    HeatmapStoreWriter writer(path, layout, false);
    writer.append(std::numeric_limits<std::uint64_t>::max(), std::vector<float>(24, -2.5F));
    writer.append(0, std::vector<float>(24, 0.0F));
    CHECK(writer.size() == 3);

    const HeatmapStore store(path, layout.fingerprint);
    CHECK(store.layout().names == layout.names);
    CHECK(store.layout().height == 3);
    CHECK(store.layout().width == 4);
    CHECK(store.layout().storage == storage);
    CHECK(store.keys() == Keys{7, std::numeric_limits<std::uint64_t>::max(), 0});
    CHECK(store.read(std::numeric_limits<std::uint64_t>::max()) == std::vector<float>(24, -2.5F));
    CHECK(store.read(0) == std::vector<float>(24, 0.0F));
    if (storage != MapStorage::kUint8) CHECK(store.read(7) == maps_of(layout, 7));
    CHECK(std::filesystem::file_size(path) == header_bytes(layout) + 3 * record_bytes(layout));

    CHECK_FALSE(store.contains(8));
    check_refused(ErrorCode::kNotFound, "key 8", [&] { (void)store.read(8); });
  }
}

TEST_CASE("stored values keep the error bounds at every magnitude", "[heatmap]") {
  const Scratch scratch;
  HeatmapLayout layout{"fp", {"map"}, 8, 8, MapStorage::kFloat16};
  std::vector<std::vector<float>> examples;
  for (int exponent = -149; exponent <= 99; ++exponent) {
    RandomStream random(3, static_cast<std::uint64_t>(exponent + 149), "bounds");
    std::vector<float> values(64);
    const int kind = (exponent + 149) % 5;
    for (auto& value : values) {
      double drawn = random.uniform(-1, 1);
      if (kind == 1) drawn = std::abs(drawn);                              // one sign
      if (kind == 2) drawn *= std::exp2(-random.uniform(0, 45));           // many magnitudes in one map
      if (kind == 3) drawn = random.below(8) ? 0 : drawn;                  // mostly nothing
      if (kind == 4) drawn = 1 + drawn * 1e-3;                             // far from zero
      value = static_cast<float>(std::ldexp(drawn * 0.99, exponent + 1));  // up to 2^100 = 1.27e30, times 0.78
      value = std::clamp(value, -1e30F, 1e30F);
    }
    examples.push_back(values);
  }
  examples.emplace_back(64, -0.1F);
  examples.emplace_back(64, 1e30F);
  examples.back()[5] = -1e30F;

  for (const auto storage : {MapStorage::kFloat16, MapStorage::kUint8}) {
    layout.storage = storage;
    const std::string path = scratch.path(storage == MapStorage::kFloat16 ? "half" : "byte");
    HeatmapStoreWriter writer(path, layout, false);
    for (std::size_t i = 0; i < examples.size(); ++i) writer.append(i, examples[i]);
    const HeatmapStore store(path, "fp");
    double worst = 0;
    for (std::size_t i = 0; i < examples.size(); ++i) {
      const auto [low, high] = std::minmax_element(examples[i].begin(), examples[i].end());
      const double range = static_cast<double>(*high) - *low, largest = std::max(-*low, *high);
      const auto back = store.read(i);
      for (std::size_t j = 0; j < 64; ++j) {
        const double value = examples[i][j], error = std::abs(back[j] - value);
        const double bound = storage == MapStorage::kFloat16
                                 ? std::max(std::abs(value) * 0x1p-11, largest * 0x1p-39)
                                 : (range < 1e-30 ? range : range / 510 + largest * 0x1p-22);
        INFO("example " << i << " value " << value << " came back as " << back[j]);
        REQUIRE(error <= bound);
        if (bound > 0) worst = std::max(worst, error / bound);
      }
    }
    CHECK(worst > 0.9);  // the bounds are not idle
  }
}

TEST_CASE("halves come back exactly, in the record of the same values as floats", "[heatmap]") {
  const Scratch scratch;
  const HeatmapLayout layout{"fp", {"a", "b"}, 8, 8, MapStorage::kFloat16};
  const auto widened = [](const std::vector<std::uint16_t>& halves) {
    std::vector<float> values;
    for (const auto half : halves) values.push_back(half_to_float(half));
    return values;
  };
  // Maps whose largest value has every exponent that a half can have, with signs, zeros and subnormal numbers.
  std::vector<std::vector<std::uint16_t>> examples;
  for (std::uint32_t exponent = 0; exponent < 31; ++exponent) {
    RandomStream random(6, exponent, "halves");
    std::vector<std::uint16_t> halves(layout.values());
    for (auto& half : halves)
      half = static_cast<std::uint16_t>(random.below(2) << 15 | random.below((exponent + 1) << 10));
    halves[0] = 0, halves[1] = 0x8000, halves[2] = static_cast<std::uint16_t>(exponent << 10 | 0x8001);
    if (exponent == 30)  // what halving would round is left out, see below
      for (auto& half : halves)
        if ((half & 0x7fff) < 0x800) half &= 0xfffe;
    examples.push_back(halves);
  }
  examples.emplace_back(layout.values(), std::uint16_t{0});
  examples.emplace_back(layout.values(), std::uint16_t{0x8000});
  {
    HeatmapStoreWriter halves(scratch.path("halves"), layout, false), floats(scratch.path("floats"), layout, false);
    for (std::uint64_t key = 0; key < examples.size(); ++key) {
      halves.append_halves(key, examples[key].data(), examples[key].size());
      floats.append(key, widened(examples[key]));
    }
  }
  CHECK(read_text_file(scratch.path("halves")) == read_text_file(scratch.path("floats")));

  // Beside 40000 the float path's scale rounds 2^-24 away; a map of halves then keeps its own scale.
  auto lossy = examples[30];
  lossy[5] = 1, lossy[6] = 0x8003, lossy[7] = float_to_half(40000);
  examples.push_back(lossy);
  HeatmapStoreWriter(scratch.path("halves"), layout).append_halves(examples.size() - 1, lossy.data(), lossy.size());
  const HeatmapStore store(scratch.path("halves"), "fp");
  REQUIRE(store.size() == examples.size());
  for (std::uint64_t key = 0; key < examples.size(); ++key) {
    INFO("example " << key);
    const auto back = store.read(key), expected = widened(examples[key]);
    for (std::size_t i = 0; i < back.size(); ++i) {
      REQUIRE(back[i] == expected[i]);
      REQUIRE(std::signbit(back[i]) == std::signbit(expected[i]));
    }
  }
}

TEST_CASE("values that were rounded to halves are those of a store of floats, but small ones", "[heatmap]") {
  const Scratch scratch;
  const HeatmapLayout layout{"fp", {"map"}, 16, 16, MapStorage::kFloat16};
  RandomStream random(7, 0, "halves");
  std::vector<float> values(layout.values());
  std::vector<std::uint16_t> halves;
  for (float& value : values) {
    value = static_cast<float>(random.uniform(-1, 1) * std::exp2(-random.uniform(0, 26)));
    halves.push_back(float_to_half(value));
  }
  HeatmapStoreWriter writer(scratch.path("a"), layout, false);
  writer.append(1, values);
  writer.append_halves(2, halves.data(), halves.size());
  const HeatmapStore store(scratch.path("a"), "fp");
  const auto whole = store.read(1), rounded = store.read(2);
  std::size_t same = 0, worse = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double value = values[i], size = std::abs(value), error = std::abs(rounded[i] - value);
    INFO("value " << value << " came back as " << rounded[i] << " and " << whole[i]);
    REQUIRE(error <= std::max(size * 0x1p-11, 0x1p-25));
    if (size >= 0x1p-14) {
      REQUIRE(rounded[i] == whole[i]);
      ++same;
    } else if (error > size * 0x1p-11) {
      ++worse;
    }
  }
  CHECK(same > 50);
  CHECK(worse > 50);
}

TEST_CASE("bad halves are refused by map and key and change nothing, and so is another storage", "[heatmap]") {
  const Scratch scratch;
  const auto layout = small_layout();
  std::vector<std::uint16_t> halves;
  for (const float value : maps_of(layout, 7)) halves.push_back(float_to_half(value));
  {
    HeatmapStoreWriter writer(scratch.path("a"), layout);
    writer.append_halves(7, halves.data(), halves.size());
    const std::string before = read_text_file(scratch.path("a"));
    for (const std::uint16_t bad : {0x7c00, 0xfc00, 0x7e00, 0x7c01, 0xffff}) {  // infinities and NaN of every kind
      auto damaged = halves;
      damaged[23] = bad;
      check_refused(ErrorCode::kNumeric, "map 'Nodule' of key 8",
                    [&] { writer.append_halves(8, damaged.data(), damaged.size()); });
    }
    for (const std::size_t count : {std::size_t{0}, std::size_t{23}})
      check_refused(ErrorCode::kMismatch, "24 values", [&] { writer.append_halves(8, halves.data(), count); });
    CHECK(read_text_file(scratch.path("a")) == before);
  }
  require_images(scratch.path("a"), layout, {7});
  for (const auto storage : {MapStorage::kUint8, MapStorage::kFloat32}) {
    const std::string path = scratch.path(storage == MapStorage::kUint8 ? "byte" : "float");
    HeatmapStoreWriter writer(path, small_layout(storage));
    check_refused(ErrorCode::kMismatch, "append_halves: storage: expected float16",
                  [&] { writer.append_halves(7, halves.data(), halves.size()); });
    CHECK(writer.size() == 0);
  }
  // A byte that changes on the disk is noticed, as in any record.
  std::string bytes = read_text_file(scratch.path("a"));
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  const std::string damaged = scratch.put("damaged", bytes);
  CHECK(caught([&] { (void)HeatmapStore(damaged, layout.fingerprint).read(7); }).code() == ErrorCode::kFormat);
}

TEST_CASE("float32 maps come back bit for bit, and merge as they are", "[heatmap]") {
  const Scratch scratch;
  const HeatmapLayout layout{"fp", {"a", "b"}, 16, 16, MapStorage::kFloat32};
  const auto bits = [](const std::vector<float>& maps) {
    std::vector<std::uint32_t> values(maps.size());
    std::memcpy(values.data(), maps.data(), maps.size() * sizeof(float));
    return values;
  };
  // All signs, exponents and digits below 1e30, with both zeros and the least number there is.
  std::vector<std::vector<float>> examples;
  for (std::uint64_t key = 0; key < 8; ++key) {
    RandomStream random(5, key, "bits");
    std::vector<float> maps(layout.values());
    for (auto& value : maps)
      value = static_cast<float>(std::ldexp(random.uniform(-1, 1), static_cast<int>(random.below(240)) - 141));
    maps[0] = -0.0F, maps[1] = 0.0F, maps[2] = std::numeric_limits<float>::denorm_min(), maps[3] = -1e30F;
    examples.push_back(maps);
  }
  {
    HeatmapStoreWriter writer(scratch.path("a"), layout, false);
    for (std::uint64_t key = 0; key < 8; ++key) writer.append(key, examples[key]);
    auto bad = examples[0];
    bad.back() = std::numeric_limits<float>::quiet_NaN();
    CHECK(caught([&] { writer.append(0, bad); }).code() == ErrorCode::kNumeric);
    HeatmapStoreWriter merged(scratch.path("b"), layout, false);
    CHECK(merged.merge({scratch.path("a")}).added == 8);
  }
  for (const char* name : {"a", "b"}) {
    const HeatmapStore store(scratch.path(name), "fp");
    for (std::uint64_t key = 0; key < 8; ++key) REQUIRE(bits(store.read(key)) == bits(examples[key]));
  }
}

TEST_CASE("a store of other maps is refused by the name of what differs", "[heatmap]") {
  const Scratch scratch;
  const auto layout = small_layout();
  fill(scratch.path("a"), layout, {1});
  const auto error = caught([&] { HeatmapStore(scratch.path("a"), "model 2"); });
  CHECK(error.code() == ErrorCode::kMismatch);
  CHECK(mentions(error, "'model 1'"));
  CHECK(mentions(error, "'model 2'"));
  CHECK(read_heatmap_layout(scratch.path("a")).fingerprint == "model 1");

  const auto refused = [&](const char* what, const HeatmapLayout& other) {
    check_refused(ErrorCode::kMismatch, what, [&] { HeatmapStoreWriter(scratch.path("a"), other); });
  };
  refused("fingerprint", {"model 2", layout.names, 3, 4, layout.storage});
  refused("names", {"model 1", {"Edema"}, 3, 4, layout.storage});
  refused("names", {"model 1", {"Nodule", "Edema"}, 3, 4, layout.storage});
  refused("size", {"model 1", layout.names, 4, 3, layout.storage});
  refused("storage", {"model 1", layout.names, 3, 4, MapStorage::kUint8});
  refused("float32", {"model 1", layout.names, 3, 4, MapStorage::kFloat32});
  require_images(scratch.path("a"), layout, {1});
}

TEST_CASE("bad layouts and bad maps change nothing", "[heatmap]") {
  const Scratch scratch;
  const auto good = small_layout();
  const std::vector<HeatmapLayout> layouts = {
      {"", {"a"}, 1, 1, {}},
      {std::string(4097, 'x'), {"a"}, 1, 1, {}},
      {"fp", {}, 1, 1, {}},
      {"fp", {""}, 1, 1, {}},
      {"fp", {"a", "a"}, 1, 1, {}},
      {"fp", {std::string(257, 'x')}, 1, 1, {}},
      {"fp", {"a"}, 0, 1, {}},
      {"fp", {"a"}, 1, -1, {}},
      {"fp", {"a"}, 16385, 1, {}},
      {"fp", {"a"}, 1, std::numeric_limits<std::int64_t>::max(), {}},
      {"fp", {"a", "b"}, 16384, 16384, {}},
      {"fp", {"a"}, 1, 1, static_cast<MapStorage>(3)},
  };
  for (const auto& layout : layouts)
    CHECK(caught([&] { HeatmapStoreWriter(scratch.path("a"), layout); }).code() == ErrorCode::kInvalidArgument);
  CHECK(scratch.count() == 0);

  HeatmapStoreWriter writer(scratch.path("a"), good);
  writer.append(1, maps_of(good, 1));
  auto maps = maps_of(good, 1, 1);
  CHECK(caught([&] { writer.append(1, maps.data(), 23); }).code() == ErrorCode::kMismatch);
  CHECK(caught([&] { writer.append(1, std::vector<float>(25)); }).code() == ErrorCode::kMismatch);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity(), 1.1e30F}) {
    maps[23] = bad;
    check_refused(ErrorCode::kNumeric, "Nodule", [&] { writer.append(1, maps); });
  }
  require_images(scratch.path("a"), good, {1});

  CHECK(caught([&] { HeatmapStore(scratch.path("absent"), "fp"); }).code() == ErrorCode::kNotFound);
  CHECK(caught([&] { HeatmapStore(scratch.folder(), "fp"); }).code() == ErrorCode::kIo);
  CHECK(caught([&] { HeatmapStore(scratch.put("b", "a text of some length, but no store"), "fp"); }).code() ==
        ErrorCode::kFormat);
  CHECK(caught([&] { HeatmapStoreWriter(scratch.path("b"), good); }).code() == ErrorCode::kFormat);
  CHECK(read_text_file(scratch.path("b")) == "a text of some length, but no store");
}

TEST_CASE("one writer, many readers; readers see complete records, old and new files", "[heatmap]") {
  const Scratch scratch;
  const std::string path = scratch.path("a");
  const auto layout = small_layout();
  fill(path, layout, {1, 2});
  auto writer = std::make_unique<HeatmapStoreWriter>(path, layout, false);
  CHECK(caught([&] { HeatmapStoreWriter(path, layout); }).code() == ErrorCode::kBusy);
  CHECK(caught([&] { compact_heatmap_store(path); }).code() == ErrorCode::kBusy);

  HeatmapStore early(path, layout.fingerprint), late(path, layout.fingerprint);
  writer->append(3, maps_of(layout, 3));
  writer->append(1, maps_of(layout, 1, 9));
  CHECK(early.keys() == Keys{1, 2});
  CHECK(early.read(1) == maps_of(layout, 1));
  CHECK(early.refresh() == 3);
  CHECK(early.keys() == Keys{2, 3, 1});
  CHECK(early.read(1) == maps_of(layout, 1, 9));

  writer.reset();
  CHECK(compact_heatmap_store(path).superseded == 1);
  CHECK(early.read(3) == maps_of(layout, 3));  // the old file lives as long as it is open
  CHECK(late.read(1) == maps_of(layout, 1));
  fill(path, layout, {4});
  CHECK(late.refresh() == 4);
  CHECK(late.keys() == Keys{2, 3, 1, 4});
  CHECK(late.read(1) == maps_of(layout, 1, 9));

  std::filesystem::remove(path);
  fill(path, {"model 2", layout.names, 3, 4, layout.storage}, {1});
  CHECK(caught([&] { late.refresh(); }).code() == ErrorCode::kMismatch);
  CHECK(late.read(4) == maps_of(layout, 4));
}

TEST_CASE("a reader sees every record of a writer beside it whole, and in order", "[heatmap]") {
  const Scratch scratch;
  const std::string path = scratch.path("a");
  const HeatmapLayout layout{"model 1", {"a", "b"}, 128, 128, MapStorage::kFloat16};
  const std::vector<float> base = maps_of(layout, 0);
  const auto maps = [&](std::uint64_t key) {  // quickly made, so that most of the writer's time is writing
    std::vector<float> values = base;
    for (auto& value : values) value += static_cast<float>(key);
    return values;
  };
  constexpr std::size_t kImages = 100;
  HeatmapStoreWriter writer(path, layout, false);
  HeatmapStore store(path, layout.fingerprint);
  std::future<void> writing = std::async(std::launch::async, [&] {
    for (std::uint64_t key = 0; key < kImages; ++key) writer.append(key, maps(key));
  });
  std::size_t seen = 0;
  for (bool over = false; !over;) {
    over = writing.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
    const std::size_t now = store.refresh();
    REQUIRE(now >= seen);
    for (; seen < now; ++seen) REQUIRE(store.read(seen) == maps(seen));
  }
  writing.get();
  CHECK(seen == kImages);
}

TEST_CASE("verify counts what is there, and compact keeps what is worth keeping", "[heatmap]") {
  const Scratch scratch;
  const std::string path = scratch.path("a");
  const auto layout = small_layout();
  fill(path, layout, {1, 2, 3});
  const auto inode = [&] { return std::filesystem::last_write_time(path); };
  const auto before = inode();
  const auto clean = compact_heatmap_store(path);
  CHECK(clean.records == 3);
  CHECK(clean.images == 3);
  CHECK(inode() == before);

  fill(path, layout, {2, 4, 5}, 1);  // records 3, 4, 5
  std::string bytes = read_text_file(path);
  const auto offset = [&](std::size_t record) { return header_bytes(layout) + record * record_bytes(layout); };
  bytes[offset(5) - 1] = static_cast<char>(bytes[offset(5) - 1] ^ 1);  // the last value of record 4
  bytes += "the beginning of a record";
  write_file_atomically(path, bytes);

  const auto check = verify_heatmap_store(path);
  CHECK(check.records == 6);
  CHECK(check.images == 4);  // 1, 3, 2 and 5
  CHECK(check.superseded == 1);
  CHECK(check.torn_bytes == 25);
  REQUIRE(check.damaged.size() == 1);
  CHECK(check.damaged[0].record == 4);
  CHECK(check.damaged[0].offset == offset(4));
  CHECK_FALSE(check.damaged[0].reason.empty());

  CHECK(compact_heatmap_store(path).damaged.size() == 1);
  CHECK(std::filesystem::file_size(path) == offset(4));
  const HeatmapStore store(path, layout.fingerprint);
  CHECK(store.keys() == Keys{1, 3, 2, 5});
  CHECK(store.read(1) == maps_of(layout, 1));
  CHECK(store.read(2) == maps_of(layout, 2, 1));
  CHECK(store.read(5) == maps_of(layout, 5, 1));

  // A damaged newest record takes the older ones of its image with it: they were superseded.
  fill(path, layout, {1}, 2);
  bytes = read_text_file(path);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_file_atomically(path, bytes);
  CHECK(caught([&] { (void)HeatmapStore(path, layout.fingerprint).read(1); }).code() == ErrorCode::kFormat);
  compact_heatmap_store(path);
  CHECK(HeatmapStore(path, layout.fingerprint).keys() == Keys{3, 2, 5});
  CHECK(caught([&] { compact_heatmap_store(scratch.path("absent")); }).code() == ErrorCode::kNotFound);
  CHECK_FALSE(std::filesystem::exists(scratch.path("absent.lock")));
}

TEST_CASE("stores of several ranks become one, bit for bit", "[heatmap]") {
  const Scratch scratch;
  const auto layout = small_layout(MapStorage::kUint8);
  fill(scratch.path("0"), layout, {1, 3, 5});
  fill(scratch.path("1"), layout, {2, 4, 1});
  fill(scratch.path("2"), layout, {5}, 1);
  const std::vector<std::string> shards = {scratch.path("0"), scratch.path("1"), scratch.path("2")};
  {
    HeatmapStoreWriter whole(scratch.path("whole"), layout);
    const auto first = whole.merge(shards);
    CHECK(first.added == 5);
    CHECK(first.there_already == 1);
    CHECK(first.different == 1);
    const auto again = whole.merge(shards);
    CHECK(again.added == 0);
    CHECK(again.there_already == 6);
  }
  const HeatmapStore whole(scratch.path("whole"), layout.fingerprint);
  CHECK(whole.keys() == Keys{1, 3, 5, 2, 4});
  const HeatmapStore zero(shards[0], layout.fingerprint), one(shards[1], layout.fingerprint);
  for (const std::uint64_t key : {1, 3, 5}) CHECK(whole.read(key) == zero.read(key));
  for (const std::uint64_t key : {2, 4}) CHECK(whole.read(key) == one.read(key));
  CHECK(verify_heatmap_store(scratch.path("whole")).damaged.empty());

  // Every shard is looked at before anything is added.
  HeatmapStoreWriter target(scratch.path("target"), layout);
  fill(scratch.path("other"), {"model 2", layout.names, 3, 4, layout.storage}, {9});
  for (const auto& bad : {scratch.path("other"), scratch.path("absent")})
    CHECK(caught([&] {
            target.merge({shards[0], bad});
          }).code() == (bad == scratch.path("other") ? ErrorCode::kMismatch : ErrorCode::kNotFound));
  CHECK(target.size() == 0);
}

TEST_CASE("all links to a store have one lock, and lead to it when it is compacted", "[heatmap]") {
  const Scratch scratch;
  const auto layout = small_layout();
  std::filesystem::create_directory(scratch.path("links"));
  const std::string path = scratch.path("a"), link = scratch.path("links/a"), second = scratch.path("links/b");
  fill(path, layout, {1, 2, 1});
  std::filesystem::create_symlink("../a", link);
  std::filesystem::create_symlink(link, second);
  for (const auto& name : {path, link, second}) {
    const HeatmapStoreWriter writer(name, layout);
    for (const auto& other : {path, link, second}) {
      CHECK(caught([&] { HeatmapStoreWriter(other, layout); }).code() == ErrorCode::kBusy);
      CHECK(caught([&] { compact_heatmap_store(other); }).code() == ErrorCode::kBusy);
    }
  }
  CHECK(compact_heatmap_store(second).superseded == 1);
  CHECK(std::filesystem::is_symlink(second));
  CHECK(std::filesystem::is_symlink(link));
  CHECK(std::filesystem::file_size(path) == header_bytes(layout) + 2 * record_bytes(layout));
  require_images(path, layout, {2, 1});
}

TEST_CASE("a reader takes in what stands in the place of a record that was taken back", "[heatmap]") {
  const Scratch scratch;
  const std::string path = scratch.path("a");
  const auto layout = small_layout();
  fill(path, layout, {1, 2});
  fill(path, layout, {1}, 1);
  HeatmapStore store(path, layout.fingerprint);
  REQUIRE(store.read(1) == maps_of(layout, 1, 1));
  // As a writer does whose record lay there whole but could not be flushed.
  std::filesystem::resize_file(path, header_bytes(layout) + 2 * record_bytes(layout));
  fill(path, layout, {3});
  check_refused(ErrorCode::kFormat, "those of key 3", [&] { (void)store.read(1); });
  CHECK(store.refresh() == 3);
  CHECK(store.keys() == Keys{1, 2, 3});
  for (const std::uint64_t key : {1, 2, 3}) CHECK(store.read(key) == maps_of(layout, key));
}

TEST_CASE("merging files no maps under the key of a record that was taken back", "[heatmap]") {
  const Scratch scratch;
  const std::string shard = scratch.path("shard");
  const auto layout = small_layout();
  fill(shard, layout, {1, 2});
  HeatmapStoreWriter whole(scratch.path("whole"), layout);
  RunControl control;
  control.progress = [&](const Progress& progress) {
    if (progress.done != 1) return;
    std::filesystem::resize_file(shard, header_bytes(layout) + record_bytes(layout));
    fill(shard, layout, {3});
  };
  check_refused(ErrorCode::kFormat, "those of key 3", [&] { whole.merge({shard}, control); });
  require_images(scratch.path("whole"), layout, {1});
  CHECK(whole.merge({shard}).added == 1);
  require_images(scratch.path("whole"), layout, {1, 3});
}

TEST_CASE("verifying, compacting and merging can be stopped, and leave a store as it was", "[heatmap]") {
  const Scratch scratch;
  const std::string path = scratch.path("a");
  const auto layout = small_layout();
  fill(path, layout, {1, 2, 3, 1});
  const std::string before = read_text_file(path);
  const auto stopped = [&](const std::string& stage, std::int64_t total, const auto& work) {
    StopSource source;
    RunControl control;
    control.stop = source.token();
    std::vector<std::int64_t> done;
    control.progress = [&](const Progress& progress) {
      if (progress.stage != stage) return;
      CHECK(progress.total == total);
      done.push_back(progress.done);
      if (progress.done == 2) source.request_stop();
    };
    INFO(stage);
    CHECK(caught([&] { work(control); }).code() == ErrorCode::kCancelled);
    CHECK(done == std::vector<std::int64_t>{1, 2});
  };
  stopped("check records", 4, [&](const RunControl& control) { verify_heatmap_store(path, control); });
  const auto compact = [&](const RunControl& control) { compact_heatmap_store(path, control); };
  stopped("check records", 4, compact);
  stopped("write records", 3, compact);
  CHECK(read_text_file(path) == before);
  CHECK(scratch.count() == 2);  // the store and its lock

  HeatmapStoreWriter whole(scratch.path("whole"), layout);
  stopped("merge records", 3, [&](const RunControl& control) { whole.merge({path}, control); });
  CHECK(whole.size() == 2);
  const auto rest = whole.merge({path});
  CHECK(rest.added == 1);
  CHECK(rest.there_already == 2);
}

TEST_CASE("an image's key is its content, not its name", "[heatmap]") {
  const Scratch scratch;
  const std::string pixels = "pixels of an image";
  CHECK(heatmap_key(scratch.put("a.png", pixels)) == checksum64(pixels.data(), pixels.size()));
  CHECK(heatmap_key(scratch.put("b.png", pixels)) == heatmap_key(scratch.path("a.png")));
  CHECK(heatmap_key(scratch.put("c.png", pixels + " ")) != heatmap_key(scratch.path("a.png")));
  CHECK(caught([&] { heatmap_key(scratch.path("absent")); }).code() == ErrorCode::kNotFound);
}
