#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "daug/core/random.h"
#include "daug/index/retrieval_index.h"
#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "io/scratch.h"
#include "support/catch.h"

using namespace daug;
using daug::test::caught;
using daug::test::mentions;
using daug::test::Scratch;

namespace {

RetrievalIndex small_index(Metric metric = Metric::kCosine) {
  RetrievalIndex index(3, metric, "fp");
  RowMatrix vectors(2, 3);
  vectors << 1, 2, 3, -4, 5.5F, 0;
  index.add({7, -9}, vectors, {{{"patient", "p1"}, {"findings", "Edema"}}, {}});
  return index;
}

RetrievalIndex parse(const std::string& bytes) { return RetrievalIndex::parse(bytes.data(), bytes.size(), "x.idx"); }

void require_equal(const RetrievalIndex& a, const RetrievalIndex& b) {
  REQUIRE(a.dimension() == b.dimension());
  REQUIRE(a.metric() == b.metric());
  REQUIRE(a.fingerprint() == b.fingerprint());
  REQUIRE(a.ids() == b.ids());
  for (const auto id : a.ids()) {
    REQUIRE(a.metadata(id) == b.metadata(id));
    REQUIRE(a.vector(id) == b.vector(id));
  }
}

/// An index file from section contents, with fitting lengths and checksums.
class Forger {
 public:
  template <class T>
  static std::string number(T value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof value);
  }
  static std::string text(const std::string& value) { return number<std::uint64_t>(value.size()) + value; }

  std::string settings(std::int64_t dimension, std::int64_t metric, std::int64_t count) const {
    return number(dimension) + number(metric) + number(count) + text("fp");
  }
  std::string file(const std::vector<std::string>& sections) const {
    std::string body;
    for (const auto& section : sections)
      body += number<std::uint64_t>(section.size()) + number(checksum64(section.data(), section.size())) + section;
    return "daugindx" + number<std::uint32_t>(1) + number<std::uint32_t>(static_cast<std::uint32_t>(sections.size())) +
           number<std::uint64_t>(24 + body.size()) + body;
  }
};

}  // namespace

TEST_CASE("an index comes back as it was saved", "[index]") {
  const Scratch scratch;
  for (std::uint64_t item = 0; item < 30; ++item) {
    RandomStream random(1, item, "index file");
    const std::int64_t dimension = 1 + random.below(20);
    RetrievalIndex index(dimension, static_cast<Metric>(random.below(3)), item % 2 ? "encoder \n 1" : "");
    for (auto count = random.below(20); count > 0; --count) {
      RowMatrix vector(1, dimension);
      for (auto& value : vector.reshaped()) value = static_cast<float>(random.normal());
      Metadata metadata;
      for (auto pairs = random.below(3); pairs > 0; --pairs)
        metadata["key" + std::to_string(random.below(5))] = std::string(random.below(5), '\0');
      index.add({static_cast<std::int64_t>(random()) << 31 | random()}, vector, {metadata});
    }
    index.save(scratch.path("a"));
    const auto back = RetrievalIndex::load(scratch.path("a"));
    require_equal(index, back);
    back.save(scratch.path("b"));
    REQUIRE(read_file(scratch.path("a")) == read_file(scratch.path("b")));

    RowMatrix query = RowMatrix::Constant(2, dimension, 0.25F);
    if (index.size() == 0) continue;
    const auto k = std::min<std::int64_t>(5, index.size());
    const auto expected = index.search(query, k);
    const auto found = back.search(query, k);
    for (std::size_t q = 0; q < 2; ++q) {
      REQUIRE(found[q].size() == expected[q].size());
      for (std::size_t i = 0; i < found[q].size(); ++i) {
        REQUIRE(found[q][i].id == expected[q][i].id);
        REQUIRE(found[q][i].score == expected[q][i].score);
      }
    }
  }
}

TEST_CASE("every flipped bit and every truncation of a file is refused by name", "[index]") {
  const Scratch scratch;
  small_index().save(scratch.path("a"));
  const std::string whole = read_text_file(scratch.path("a"));
  require_equal(parse(whole), small_index());

  std::size_t accepted = 0;
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::vector<char> damaged(whole.begin(), whole.end());
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    try {
      (void)RetrievalIndex::parse(damaged.data(), damaged.size(), "x.idx");
      ++accepted;
    } catch (const Error& error) {
      REQUIRE(error.code() == ErrorCode::kFormat);
      REQUIRE(mentions(error, "x.idx: "));
    }
  }
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const std::vector<char> part(whole.begin(), whole.begin() + static_cast<long>(size));
    try {
      (void)RetrievalIndex::parse(part.data(), part.size(), "x.idx");
      ++accepted;
    } catch (const Error& error) {
      REQUIRE(error.code() == ErrorCode::kFormat);
    }
  }
  CHECK(accepted == 0);
  CHECK(caught([&] { (void)parse(whole + '\0'); }).code() == ErrorCode::kFormat);
}

TEST_CASE("damage is named by the part it hit", "[index]") {
  const Scratch scratch;
  small_index().save(scratch.path("a"));
  const std::string whole = read_text_file(scratch.path("a"));
  const auto damaged_at = [&](std::size_t byte) {
    std::string damaged = whole;
    damaged[byte] = static_cast<char>(damaged[byte] ^ 4);
    return caught([&] { (void)parse(damaged); });
  };
  CHECK(mentions(damaged_at(0), "header: expected an index file (magic 'daugindx')"));
  CHECK(mentions(damaged_at(8), "header: expected version 1, got 5"));
  CHECK(mentions(damaged_at(12), "header: expected 4 sections"));
  CHECK(mentions(damaged_at(16), "header: expected a file of"));
  const std::size_t settings = 24 + 16;
  const std::size_t ids = settings + 24 + 10 + 16;
  const std::size_t vectors = ids + 2 * 8 + 16;
  CHECK(mentions(damaged_at(settings), "settings: expected contents that fit their checksum"));
  CHECK(mentions(damaged_at(ids), "ids: expected contents that fit their checksum"));
  CHECK(mentions(damaged_at(vectors), "vectors: expected contents that fit their checksum"));
  CHECK(mentions(damaged_at(whole.size() - 1), "metadata: expected contents that fit their checksum"));
}

TEST_CASE("a forged file with fitting checksums must still make sense", "[index]") {
  const Forger forger;
  const auto number = [](auto value) { return Forger::number(value); };
  const auto i64 = [](std::int64_t value) { return Forger::number(value); };
  const std::string settings = forger.settings(1, 2, 2);
  const std::string ids = i64(1) + i64(2);
  const std::string vectors = number(1.0F) + number(2.0F);
  const std::string metadata = i64(1) + Forger::text("k") + Forger::text("v") + i64(0);
  const auto good = parse(forger.file({settings, ids, vectors, metadata}));
  CHECK(good.ids() == std::vector<std::int64_t>{1, 2});
  CHECK(good.metadata(1) == Metadata{{"k", "v"}});

  const std::int64_t huge = std::int64_t{1} << 62;
  const std::string not_a_number = number(std::numeric_limits<float>::quiet_NaN());
  struct Case {
    std::vector<std::string> sections;
    std::string message;
  };
  const std::vector<Case> cases = {
      {{forger.settings(0, 2, 2), ids, vectors, metadata}, "dimension"},
      {{forger.settings(-1, 2, 2), ids, vectors, metadata}, "dimension"},
      {{forger.settings(huge, 2, 2), ids, vectors, metadata}, "dimension"},
      {{forger.settings(2, 2, 2), ids, vectors, metadata}, "vectors: expected 4 values"},
      {{forger.settings(1, 3, 2), ids, vectors, metadata}, "settings: expected a metric in 0..2, got 3"},
      {{forger.settings(1, -1, 2), ids, vectors, metadata}, "settings: expected a metric"},
      {{forger.settings(1, 2, 3), ids, vectors, metadata}, "ids: expected 3 values"},
      {{forger.settings(1, 2, -1), ids, vectors, metadata}, "ids: expected"},
      {{forger.settings(1, 2, huge), ids, vectors, metadata}, "ids: expected"},
      {{settings + "x", ids, vectors, metadata}, "settings: expected nothing after"},
      {{settings.substr(0, 20), ids, vectors, metadata}, "settings: expected 8 more bytes"},
      {{settings, ids + "x", vectors, metadata}, "ids: expected 2 values"},
      {{settings, i64(1) + i64(1), vectors, metadata}, "a new id"},
      {{settings, ids, vectors + "x", metadata}, "vectors: expected 2 values"},
      {{settings, ids, number(1.0F) + not_a_number, metadata}, "finite values"},
      {{forger.settings(1, 0, 2), ids, number(1.0F) + number(0.0F), metadata}, "a zero vector"},
      {{settings, ids, vectors, metadata.substr(0, metadata.size() - 1)}, "metadata: expected 8 more bytes"},
      {{settings, ids, vectors, metadata + "x"}, "metadata: expected nothing after"},
      {{settings, ids, vectors, i64(-1) + Forger::text("k") + Forger::text("v")}, "metadata: expected"},
      {{settings, ids, vectors, i64(1) + i64(huge) + "k"}, "metadata: expected"},
      {{settings, ids, vectors, i64(2) + Forger::text("k") + Forger::text("v") + Forger::text("k") + Forger::text("w")},
       "metadata: expected each key once"},
      {{settings, ids, vectors}, "header: expected 4 sections, got 3"},
      {{settings, ids, vectors, metadata, ""}, "header: expected 4 sections, got 5"},
  };
  for (const auto& each : cases) {
    INFO("should say: " << each.message);
    const auto error = caught([&] { (void)parse(forger.file(each.sections)); });
    INFO(error.what());
    CHECK(error.code() == ErrorCode::kFormat);
    CHECK(mentions(error, "x.idx"));
    CHECK(mentions(error, each.message));
  }
}

TEST_CASE("loading what is not there, and saving where it cannot be", "[index]") {
  const Scratch scratch;
  CHECK(caught([&] { (void)RetrievalIndex::load(scratch.path("absent")); }).code() == ErrorCode::kNotFound);
  CHECK(caught([&] { small_index().save(scratch.path("no/folder")); }).code() == ErrorCode::kIo);
  const auto other = caught([&] { (void)RetrievalIndex::load(scratch.put("other", "a text file of some length")); });
  CHECK(other.code() == ErrorCode::kFormat);
  CHECK(mentions(other, scratch.path("other")));
}

TEST_CASE("an index tells what made it and refuses queries of another encoder", "[index]") {
  const auto index = small_index();
  CHECK(index.fingerprint() == "fp");
  CHECK_NOTHROW(index.require_fingerprint("fp"));
  const auto error = caught([&] { index.require_fingerprint("other"); });
  CHECK(error.code() == ErrorCode::kMismatch);
  CHECK(mentions(error, "'other'"));
  CHECK(mentions(error, "'fp'"));
}
