#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "brute_force.h"
#include "daug/core/random.h"
#include "daug/index/retrieval_index.h"
#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "fixtures.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;

namespace {

RetrievalIndex small_index(Metric metric = Metric::kCosine) {
  RetrievalIndex index(3, metric, "fp");
  RowMatrix vectors(2, 3);
  vectors << 1, 2, 3, -4, 5.5F, 0;
  index.add({7, -9}, vectors, {{{"patient", "p1"}, {"findings", "Edema"}}, {}});
  return index;
}

// Where things are in the file of small_index: worked out by hand from the layout in src/index/index_file.h.
constexpr std::size_t kDimensionAt = 32, kMetricAt = 40, kStorageAt = 48, kFieldsAt = 66, kChunksAt = 105,
                      kRowsAt = 113, kMetadataBytesAt = 121, kChecksumsAt = 129, kHeader = 256;
constexpr std::size_t kIdsAt = kHeader, kOrderAt = kIdsAt + 64, kNormsAt = kOrderAt + 64, kVectorsAt = kNormsAt + 64,
                      kCodesAt = kVectorsAt + 64, kBoundsAt = kCodesAt + 64, kMetadataAt = kBoundsAt + 192;
constexpr std::size_t kSections[] = {kIdsAt, kOrderAt, kNormsAt, kVectorsAt, kCodesAt, kBoundsAt, kMetadataAt};
constexpr std::size_t kCommit = 16;  // what an empty journal takes behind them

RetrievalIndex parse(const std::string& bytes) { return RetrievalIndex::parse(bytes.data(), bytes.size(), "x.idx"); }

void require_equal(const RetrievalIndex& a, const RetrievalIndex& b) {
  REQUIRE(a.dimension() == b.dimension());
  REQUIRE(a.metric() == b.metric());
  REQUIRE(a.fingerprint() == b.fingerprint());
  REQUIRE(Snapshot(a) == Snapshot(b));
}

std::string saved(const RetrievalIndex& index) {
  const Scratch scratch;
  index.save(scratch.path("a"));
  return read_text_file(scratch.path("a"));
}

/// Changes a file of small_index and makes its checksums fit again.
class Forger {
 public:
  Forger() : bytes_(saved(small_index())) {}

  template <class T>
  Forger& put(std::size_t at, T value) {
    std::memcpy(bytes_.data() + at, &value, sizeof value);
    return *this;
  }
  std::string file() {
    for (std::size_t i = 0; i < std::size(kSections); ++i) {
      const std::size_t end = i + 1 < std::size(kSections) ? kSections[i + 1] : bytes_.size() - kCommit;
      put(kChecksumsAt + 8 * i, checksum64(bytes_.data() + kSections[i], end - kSections[i]));
    }
    const std::uint64_t commit[] = {checksum64(bytes_.data(), kHeader - 8), 0};  // and no changes
    put(kHeader - 8, commit[0]);
    put(bytes_.size() - 8, checksum64(commit, sizeof commit));
    return bytes_;
  }

 private:
  std::string bytes_;
};

}  // namespace

TEST_CASE("an index comes back as it was saved", "[index]") {
  const Scratch scratch;
  for (std::uint64_t item = 0; item < 30; ++item) {
    RandomStream random(1, item, "index file");
    const std::int64_t dimension = 1 + random.below(20);
    RetrievalIndex index(dimension, static_cast<Metric>(random.below(3)), item % 2 ? "encoder \n 1" : "",
                         {kStorages[item % 4]});
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
    REQUIRE(back.options().storage == index.options().storage);
    REQUIRE(back.verify().items == index.size());
    const auto coded = RetrievalIndex::load(scratch.path("a"), {kStorages[random.below(4)]});
    require_equal(index, coded);
    REQUIRE(coded.verify().items == index.size());
    back.save(scratch.path("b"));
    REQUIRE(read_file(scratch.path("a")) == read_file(scratch.path("b")));

    RowMatrix query = RowMatrix::Constant(2, dimension, 0.25F);
    if (index.size() == 0) continue;
    const auto k = std::min<std::int64_t>(5, index.size());
    const auto expected = index.search(query, k);
    require_identical(back.search(query, k), expected);
    require_identical(coded.search(query, k), expected);
  }
}

TEST_CASE("an index that changed is saved without what it lost, and goes on changing after it was opened", "[index]") {
  const Scratch scratch;
  RandomStream random(4, 0, "saved changes");
  RetrievalIndex index(5, Metric::kL2);
  for (std::int64_t i = 0; i < 90; ++i)
    index.add({i}, random_rows(random, Kind::kGaussian, 1, 5), {{{"even", i % 2 ? "no" : "yes"}}});
  index.remove({3, 50, 89});
  index.update({10, 11}, random_rows(random, Kind::kGaussian, 2, 5));
  index.save(scratch.path("a"));
  RetrievalIndex back = RetrievalIndex::load(scratch.path("a"));
  require_equal(index, back);
  CHECK(back.verify().items == 87);
  const RowMatrix more = random_rows(random, Kind::kGaussian, 3, 5);
  for (auto* each : {&index, &back}) {
    each->remove({0, 12});
    each->add({3, 200, 201}, more);
    each->update({20}, more.row(1));
    each->compact();
  }
  require_equal(index, back);
  const RowMatrix query = random_rows(random, Kind::kGaussian, 4, 5);
  require_identical(index.search(query, 20, Filter::equals("even", "yes")),
                    back.search(query, 20, Filter::equals("even", "yes")));
  back.save(scratch.path("a"));  // onto the file that it was opened from
  require_equal(RetrievalIndex::load(scratch.path("a")), index);
}

TEST_CASE("names of metadata are remembered though no item has them any more", "[index]") {
  auto index = four_points(Metric::kL2);
  index.remove({30});
  const auto back = parse(saved(index));
  const RowMatrix query = RowMatrix::Ones(1, 2);
  CHECK(back.search(query, 1, Filter::lists("findings", "Nodule"))[0].empty());
  CHECK(caught([&] { (void)back.search(query, 1, Filter::equals("sex", "F")); }).code() == ErrorCode::kNotFound);
}

TEST_CASE("every flipped bit and every truncation of a file is refused by name", "[index]") {
  const std::string whole = saved(small_index());
  require_equal(parse(whole), small_index());
  CHECK(parse(whole).verify().items == 2);
  const RowMatrix query = RowMatrix::Ones(1, 3);
  const auto expected = small_index().search(query, 2);

  std::size_t accepted = 0;
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    try {
      const auto index = parse(damaged);
      try {  // what has not been found out yet must not change a result
        require_identical(index.search(query, 2), expected);
      } catch (const Error& error) {
        REQUIRE(error.code() == ErrorCode::kFormat);
      }
      (void)index.verify();
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
}

TEST_CASE("damage is named by the part it hit", "[index]") {
  const std::string whole = saved(small_index());
  const auto damaged_at = [&](std::size_t byte) {
    std::string damaged = whole;
    damaged[byte] = static_cast<char>(damaged[byte] ^ 4);
    return caught([&] { (void)parse(damaged).verify(); });
  };
  CHECK(mentions(damaged_at(0), "header: expected an index file (magic 'daugindx')"));
  CHECK(mentions(damaged_at(8), "header: expected version 3, got version 7, which a newer library wrote"));
  CHECK(mentions(damaged_at(12), "header: expected blocks of"));
  CHECK(mentions(damaged_at(25), "header: expected a file of at least"));
  CHECK(mentions(damaged_at(kDimensionAt), "header: expected contents that fit their checksum"));
  CHECK(mentions(damaged_at(kHeader - 1), "header: expected contents that fit their checksum"));
  const char* names[] = {"ids", "order", "norms", "vectors", "codes", "bounds", "metadata"};
  for (std::size_t i = 0; i < 7; ++i)
    CHECK(mentions(damaged_at(kSections[i]),
                   std::string("chunk 0: ") + names[i] + ": expected contents that fit their checksum"));
  CHECK(mentions(damaged_at(whole.size() - kCommit - 1), "metadata: expected contents that fit their checksum"));
  for (std::size_t byte = whole.size() - kCommit; byte < whole.size(); ++byte)
    CHECK(mentions(damaged_at(byte), "journal: expected a length that fits its checksum"));
}

TEST_CASE("opening reads the header alone; a block is checked before it is used", "[index]") {
  std::string damaged = saved(small_index());
  damaged[kVectorsAt] ^= 1;
  const auto index = parse(damaged);
  CHECK(index.size() == 2);
  CHECK(index.metadata(7).at("patient") == "p1");
  CHECK(index.contains(-9));
  CHECK(caught([&] { (void)index.vector(7); }).code() == ErrorCode::kFormat);
  check_refused(ErrorCode::kFormat, "x.idx: chunk 0: vectors: expected contents that fit their checksum",
                [&] { (void)index.search(RowMatrix::Ones(1, 3), 1); });
  const Scratch scratch;
  CHECK(caught([&] { index.save(scratch.path("a")); }).code() == ErrorCode::kFormat);
  CHECK(scratch.count() == 0);
}

TEST_CASE("files of other versions are refused with what to do", "[index]") {
  std::string file = saved(small_index());
  for (const char old : {1, 2}) {
    file[8] = old;
    CHECK(mentions(caught([&] { (void)parse(file); }), "which is no longer read: make the index again"));
  }
  file[8] = 4;
  CHECK(mentions(caught([&] { (void)parse(file); }), "version 4, which a newer library wrote"));
}

TEST_CASE("a forged file with fitting checksums must still make sense", "[index]") {
  require_equal(parse(Forger().file()), small_index());
  const auto huge = std::int64_t{1} << 62;
  struct Case {
    std::string file;
    std::string message;
  };
  const float not_a_number = std::numeric_limits<float>::quiet_NaN();
  const std::vector<Case> opened = {
      {Forger().put<std::int64_t>(kDimensionAt, 0).file(), "a dimension"},
      {Forger().put<std::int64_t>(kDimensionAt, -1).file(), "a dimension"},
      {Forger().put(kDimensionAt, huge).file(), "a dimension"},
      {Forger().put<std::int64_t>(kDimensionAt, 4000).file(), "chunks of"},
      {Forger().put<std::int64_t>(kMetricAt, 3).file(), "a metric in 0..2, got 3"},
      {Forger().put<std::int64_t>(kMetricAt, -1).file(), "a metric"},
      {Forger().put<std::int64_t>(kStorageAt, 4).file(), "a storage"},
      {Forger().put<std::int64_t>(kStorageAt, 0).file(), "chunks of"},
      {Forger().put<std::int64_t>(56, huge).file(), "more bytes"},
      {Forger().put<std::int64_t>(kFieldsAt, huge).file(), "more bytes"},
      {Forger().put<std::int64_t>(kChunksAt, 0).file(), "chunks of"},
      {Forger().put<std::int64_t>(kChunksAt, 2).file(), "chunks that fit"},
      {Forger().put<std::int64_t>(kRowsAt, 0).file(), "chunks that fit"},
      {Forger().put<std::int64_t>(kRowsAt, 17).file(), "chunks of"},
      {Forger().put(kRowsAt, huge).file(), "chunks that fit"},
      {Forger().put<std::int64_t>(kRowsAt, (std::int64_t{1} << 32) - 1).file(), "chunks of"},
      {Forger().put<std::int64_t>(kMetadataBytesAt, 0).file(), "chunks of"},
      {Forger().put(kMetadataBytesAt, huge).file(), "chunks that fit"},
      {Forger().put<std::int64_t>(16, 64).file(), "header"},
  };
  for (const auto& each : opened) {
    INFO("should say: " << each.message);
    const auto error = caught([&] { (void)parse(each.file); });
    INFO(error.what());
    CHECK(error.code() == ErrorCode::kFormat);
    CHECK(mentions(error, "x.idx"));
    CHECK(mentions(error, each.message));
  }
  const RowMatrix query = RowMatrix::Ones(1, 3);
  const std::vector<Case> used = {
      {Forger().put<std::int64_t>(kIdsAt, -9).file(), "each id once"},
      {Forger().put<std::int64_t>(kIdsAt, -10).file(), "rows by ascending id"},
      {Forger().put<std::uint32_t>(kOrderAt, 2).file(), "rows by ascending id"},
      {Forger().put<double>(kNormsAt, 2).file(), "finite values of norm 2"},
      {Forger().put(kVectorsAt, not_a_number).file(), "finite values"},
      {Forger().put(kVectorsAt, 2.0F).file(), "finite values of norm"},
      {Forger().put<char>(kCodesAt, 77).file(), "codes and bounds of the vectors"},
      {Forger().put(kBoundsAt, 1.0F).file(), "codes and bounds of the vectors"},
      {Forger().put<std::int64_t>(kMetadataAt, huge).file(), "metadata"},
      {Forger().put<std::int64_t>(kMetadataAt, 1).file(), "metadata: expected nothing after"},
      {Forger().put<std::int64_t>(kMetadataAt + 24, huge).file(), "metadata"},
      {Forger().put<char>(kMetadataAt + 16, 'g').file(), "metadata that the header names"},
  };
  for (const auto& each : used) {
    INFO("should say: " << each.message);
    const auto index = parse(each.file);
    check_refused(ErrorCode::kFormat, each.message, [&] { (void)index.verify(); });
    try {  // whatever it finds, it stays in bounds (run under the sanitizers)
      (void)index.search(query, 2, Filter::has("patient") || Filter::ids({7}));
      (void)index.metadata(7);
    } catch (const Error& other) {
      CHECK((other.code() == ErrorCode::kFormat || other.code() == ErrorCode::kNotFound));
    }
  }

  // A block has places for 16 rows. That behind the last one says that it may be anything, and the padding of the
  // vectors behind those of the items would score more than both under the inner product.
  constexpr std::size_t kErrorAt = kBoundsAt + 16 * sizeof(float);
  const float infinity = std::numeric_limits<float>::infinity();
  const auto padded =
      parse(Forger().put<std::int64_t>(kMetricAt, 1).put(kErrorAt + 2 * sizeof(float), infinity).file());
  const auto found = padded.search(-query, 2)[0];
  REQUIRE(found.size() == 2);
  CHECK(found[0].id == -9);
  CHECK(found[1].id == 7);
  check_refused(ErrorCode::kFormat, "codes and bounds of the vectors", [&] { (void)padded.verify(); });
}

TEST_CASE("loading what is not there, and saving where it cannot be", "[index]") {
  const Scratch scratch;
  CHECK(caught([&] { (void)RetrievalIndex::load(scratch.path("absent")); }).code() == ErrorCode::kNotFound);
  CHECK(caught([&] { small_index().save(scratch.path("no/folder")); }).code() == ErrorCode::kIo);
  check_refused(ErrorCode::kFormat, scratch.path("other"),
                [&] { (void)RetrievalIndex::load(scratch.put("other", "a text file of some length")); });
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
