// A damaged store either says so or returns what was stored; it never returns anything else.

#include <filesystem>
#include <fstream>
#include <limits>

#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "heatmap/store_fixtures.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;

namespace {

template <class T>
std::string number(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}
std::string u64(std::uint64_t value) { return number(value); }
std::string text(const std::string& value) { return u64(value.size()) + value; }
std::string sum(const std::string& bytes) { return u64(checksum64(bytes.data(), bytes.size())); }

/// A store's header from its fields, with a checksum that fits.
std::string forged_header(std::uint32_t version, std::uint32_t storage, std::uint64_t length, const std::string& body) {
  const std::string header = "daugmaps" + number(version) + number(storage) + u64(length) + body;
  return header + sum(header);
}

/// Gives a file other contents, in place: some file systems flush a file that was emptied first to the disk, which
/// takes longer than all the rest of these tests.
void put(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::app).close();
  std::fstream(path, std::ios::binary | std::ios::in | std::ios::out) << bytes;
  std::filesystem::resize_file(path, bytes.size());
}

/// What a reader of a damaged file finds.
struct Outcome {
  bool opened = false;
  std::size_t refused = 0;  ///< images it does not hand out
};

/// Fails the test when a store that can be opened lacks an image, other than the last `torn` ones, or hands out other
/// maps than the (key, version) that were stored.
Outcome read_all(const std::string& path, const HeatmapLayout& layout,
                 const std::vector<std::pair<std::uint64_t, std::uint64_t>>& newest, std::size_t torn = 0) {
  Outcome outcome;
  try {
    const HeatmapStore store(path, layout.fingerprint);
    outcome.opened = true;
    REQUIRE(store.size() + torn == newest.size());
    for (std::size_t i = 0; i + torn < newest.size(); ++i) {
      const auto [key, version] = newest[i];
      REQUIRE(store.contains(key));
      try {
        const auto maps = store.read(key);
        REQUIRE(maps == maps_of(layout, key, version));
      } catch (const Error& error) {
        REQUIRE(error.code() == ErrorCode::kFormat);
        ++outcome.refused;
      }
    }
  } catch (const Error& error) {
    REQUIRE(error.code() == ErrorCode::kFormat);
    REQUIRE(mentions(error, path));
  }
  return outcome;
}

}  // namespace

TEST_CASE("every flipped bit of a store is noticed", "[heatmap]") {
  const Scratch scratch;
  const std::string path = scratch.path("a");
  const auto layout = small_layout();
  fill(path, layout, {1, 2});
  fill(path, layout, {1}, 1);
  const std::string whole = read_text_file(path);
  REQUIRE(whole.size() == header_bytes(layout) + 3 * record_bytes(layout));
  const auto opened = read_all(path, layout, {{2, 0}, {1, 1}});
  REQUIRE((opened.opened && opened.refused == 0));

  std::size_t bodies = 0;
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    const std::size_t byte = bit / 8;
    std::string damaged = whole;
    damaged[byte] = static_cast<char>(damaged[byte] ^ (1 << (bit % 8)));
    put(path, damaged);
    INFO("bit " << bit);
    const auto outcome = read_all(path, layout, {{2, 0}, {1, 1}});
    if (byte < header_bytes(layout)) {
      REQUIRE_FALSE(outcome.opened);
      REQUIRE(caught([&] { verify_heatmap_store(path); }).code() == ErrorCode::kFormat);
      REQUIRE(caught([&] { HeatmapStoreWriter(path, layout); }).code() == ErrorCode::kFormat);
      continue;
    }
    const std::size_t record = (byte - header_bytes(layout)) / record_bytes(layout);
    const bool in_head = (byte - header_bytes(layout)) % record_bytes(layout) < 40;
    REQUIRE(outcome.opened == !in_head);
    // The first record is superseded: nobody reads its maps.
    REQUIRE(outcome.refused == (in_head || record == 0 ? 0U : 1U));
    bodies += outcome.refused;
    const auto check = verify_heatmap_store(path);
    REQUIRE(check.damaged.size() == 1);
    REQUIRE(check.damaged[0].record == record);
  }
  CHECK(bodies == 2 * 8 * (record_bytes(layout) - 40));
}

TEST_CASE("a store cut at any length holds its complete records and can be written on", "[heatmap]") {
  const Scratch scratch;
  const std::string path = scratch.path("a");
  const auto layout = small_layout();
  fill(path, layout, {1, 2, 3});
  const std::string whole = read_text_file(path);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    INFO("size " << size);
    put(path, whole.substr(0, size));
    if (size < header_bytes(layout)) {
      REQUIRE(caught([&] { HeatmapStore(path, layout.fingerprint); }).code() == ErrorCode::kFormat);
      REQUIRE(caught([&] { HeatmapStoreWriter(path, layout); }).code() == ErrorCode::kFormat);
      continue;
    }
    const std::size_t records = (size - header_bytes(layout)) / record_bytes(layout);
    const auto outcome = read_all(path, layout, {{1, 0}, {2, 0}, {3, 0}}, 3 - records);
    REQUIRE((outcome.opened && outcome.refused == 0));
    REQUIRE(verify_heatmap_store(path).torn_bytes == (size - header_bytes(layout)) % record_bytes(layout));
    if (size % 7 == 0) continue;  // with the torn end cut off by a writer, or written over
    fill(path, layout, {4});
    REQUIRE(std::filesystem::file_size(path) == header_bytes(layout) + (records + 1) * record_bytes(layout));
    REQUIRE(HeatmapStore(path, layout.fingerprint).read(4) == maps_of(layout, 4));
  }
}

TEST_CASE("random damage is noticed and never changes a result", "[heatmap]") {
  const Scratch scratch;
  const std::string path = scratch.path("a");
  const HeatmapLayout layout{"model 1", {"Edema", "Nodule"}, 6, 7, MapStorage::kFloat16};
  constexpr std::size_t kImages = 60, kRenewed = 20, kRecords = kImages + kRenewed;
  std::vector<std::uint64_t> keys;
  for (std::uint64_t i = 0; i < kImages; ++i) keys.push_back(i * 0x9e3779b97f4a7c15U);
  fill(path, layout, keys);
  fill(path, layout, {keys.begin(), keys.begin() + kRenewed}, 1);
  const std::string whole = read_text_file(path);
  const std::size_t record = record_bytes(layout), head = header_bytes(layout);
  std::vector<std::vector<float>> expected[2];
  for (const auto key : keys)
    for (const std::uint64_t version : {0, 1}) expected[version].push_back(maps_of(layout, key, version));

  std::size_t unchanged = 0, refused_files = 0, refused_records = 0;
  for (std::uint64_t round = 0; round < 10000; ++round) {
    RandomStream random(5, round, "damage");
    const auto below = [&](std::size_t count) -> std::size_t {
      return random.below(static_cast<std::uint32_t>(count));
    };
    std::string damaged = whole;
    const std::size_t at = below(whole.size()), length = 1 + below(std::min(whole.size() - at, 2 * record));
    switch (random.below(7)) {
      case 0:  // a few bits
        for (auto flips = 1 + below(4); flips > 0; --flips) {
          const auto byte = below(whole.size());
          damaged[byte] = static_cast<char>(damaged[byte] ^ (1 << random.below(8)));
        }
        break;
      case 1:  // a range of noise
        for (std::size_t i = at; i < at + length; ++i) damaged[i] = static_cast<char>(random.below(256));
        break;
      case 2:  // a range of zeros
        std::fill_n(damaged.begin() + static_cast<std::ptrdiff_t>(at), length, '\0');
        break;
      case 3:  // the bytes of another place
        damaged.replace(at, length, whole, below(whole.size() - length + 1), length);
        break;
      case 4: {  // two records exchanged, or one over another
        const std::size_t a = head + below(kRecords) * record, b = head + below(kRecords) * record;
        damaged.replace(a, record, whole, b, record);
        if (random.below(2)) damaged.replace(b, record, whole, a, record);
        break;
      }
      case 5:  // something added or lost
        random.below(2) ? damaged.insert(at, whole, at, length) : damaged.erase(at, length);
        break;
      default:  // the end lost
        damaged.resize(at);
    }
    if (damaged == whole) {
      ++unchanged;
      continue;
    }
    put(path, damaged);
    INFO("round " << round);
    try {
      const auto check = verify_heatmap_store(path);
      REQUIRE((!check.damaged.empty() || check.torn_bytes > 0 || check.records < kRecords));
      const HeatmapStore store(path, layout.fingerprint);
      // What could be opened is the beginning of what was written; a lost end looks like one that never was.
      REQUIRE(check.records <= kRecords);
      for (std::size_t i = 0; i < kImages; ++i) {
        REQUIRE(store.contains(keys[i]) == (i < check.records));
        if (i >= check.records) break;
        try {
          const auto maps = store.read(keys[i]);
          const bool renewed = i < kRenewed && kImages + i < check.records;
          REQUIRE(maps == expected[renewed][i]);
        } catch (const Error& error) {
          REQUIRE(error.code() == ErrorCode::kFormat);
          ++refused_records;
        }
      }
    } catch (const Error& error) {
      REQUIRE(error.code() == ErrorCode::kFormat);
      ++refused_files;
    }
  }
  CHECK(unchanged < 500);
  CHECK(refused_files > 1000);
  CHECK(refused_records > 1000);
}

TEST_CASE("a file that lies about its sizes is refused, checksums or not", "[heatmap]") {
  const Scratch scratch;
  const std::uint64_t huge = std::uint64_t{1} << 62, most = ~std::uint64_t{0};
  const std::string fp = text("fp"), names = text("a") + text("b");
  const std::string fields = u64(3) + u64(4) + u64(2) + fp + names;
  const auto length = [](const std::string& body) { return 24 + body.size() + 8; };
  std::vector<std::pair<std::string, std::string>> cases = {
      {forged_header(2, 0, length(fields), fields), "version 1"},
      {forged_header(1, 3, length(fields), fields), "storage 0 to 2"},
      {forged_header(1, 0, length(fields) - 1, fields), "checksum"},
      {forged_header(1, 0, length(fields) + 1, fields), "more bytes"},
      {forged_header(1, 0, 0, fields), "a header of at most"},
      {forged_header(1, 0, 31, fields), "a header of at most"},
      {forged_header(1, 0, huge, fields), "a header of at most"},
      {forged_header(1, 0, most, fields), "a header of at most"},
  };
  const auto with = [&](const std::string& body, const char* message) {
    cases.emplace_back(forged_header(1, 0, length(body), body), message);
  };
  with(u64(0) + u64(4) + u64(2) + fp + names, "height");
  with(u64(3) + u64(huge) + u64(2) + fp + names, "width");
  with(u64(most) + u64(most) + u64(2) + fp + names, "height");
  with(u64(16384) + u64(16384) + u64(2) + fp + names, "values an image");
  with(u64(3) + u64(4) + u64(0) + fp, "names");
  with(u64(3) + u64(4) + u64(1) + fp + names, "nothing after");
  with(u64(3) + u64(4) + u64(3) + fp + names, "more bytes");
  with(u64(3) + u64(4) + u64(most) + fp + names, "more bytes");
  with(u64(3) + u64(4) + u64(2) + fp + text("a") + text("a"), "twice");
  with(u64(3) + u64(4) + u64(2) + text("") + names, "fingerprint");
  with(u64(3) + u64(4) + u64(2) + u64(huge) + "fp" + names, "more bytes");
  with(u64(3) + u64(4) + u64(2) + fp + text("a") + u64(most), "more bytes");
  with(u64(3), "more bytes");
  with("", "more bytes");
  for (const auto& [bytes, message] : cases) {
    put(scratch.path("a"), bytes);
    const auto error = caught([&] { HeatmapStore(scratch.path("a"), "fp"); });
    INFO(error.what());
    CHECK(error.code() == ErrorCode::kFormat);
    CHECK(mentions(error, message));
    CHECK(mentions(error, scratch.path("a")));
  }

  // A record whose checksums fit, in the wrong place, of the wrong length, or with a scale no writer chooses.
  const std::string header = forged_header(1, 0, length(fields), fields);
  const std::string header_check = header.substr(header.size() - 8);
  const auto record = [&](std::uint64_t at, std::uint64_t bytes, float scale, std::uint16_t last = 0) {
    const std::string body =
        number(0.0F) + number(scale) + number(0.0F) + number(1.0F) + std::string(46, '\0') + number(last);
    const std::string head = u64(7) + u64(at) + u64(bytes) + sum(body);
    return head + sum(header_check + head) + body;
  };
  const std::uint64_t right = 40 + 16 + 48;
  put(scratch.path("a"), header + record(0, right, 1));
  CHECK(HeatmapStore(scratch.path("a"), "fp").read(7) == std::vector<float>(24, 0.0F));
  for (const auto& bad :
       {record(1, right, 1), record(most, right, 1), record(0, right + 1, 1), record(0, 0, 1), record(0, most, 1)}) {
    put(scratch.path("a"), header + bad);
    CHECK(caught([&] { HeatmapStore(scratch.path("a"), "fp"); }).code() == ErrorCode::kFormat);
  }
  for (const float scale : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), 1e38F}) {
    put(scratch.path("a"), header + record(0, right, scale));
    check_refused(ErrorCode::kFormat, scratch.path("a") + ": map 'a'",
                  [&] { (void)HeatmapStore(scratch.path("a"), "fp").read(7); });
  }
  for (const auto half :
       {std::uint16_t{0x7c00}, std::uint16_t{0xfc00}, std::uint16_t{0x7e00}}) {  // both infinities and not-a-number
    put(scratch.path("a"), header + record(0, right, 1, half));
    check_refused(ErrorCode::kFormat, scratch.path("a") + ": map 'b'",
                  [&] { (void)HeatmapStore(scratch.path("a"), "fp").read(7); });
  }
}
