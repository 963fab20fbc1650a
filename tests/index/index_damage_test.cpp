// Damage to index files, at random to a small one and to one of several chunks, both with a journal, and in every block
// of the latter: never accepted, never a wrong result. DAUG_LONG_TESTS=1 tries 1e6 mutations of each.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "brute_force.h"
#include "daug/core/error.h"
#include "daug/core/random.h"
#include "daug/index/index_writer.h"
#include "daug/io/file.h"
#include "fixtures.h"
#include "support/caught.h"
#include "support/long_tests.h"
#include "support/mutation.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Whether a search of what was opened finds the same, or refuses.
bool finds_or_refuses(const RetrievalIndex& damaged, const RowMatrix& query, const Filter& filter,
                      const Hits& expected) {
  try {
    const auto found = damaged.search(query, static_cast<std::int64_t>(expected.size()), filter, {.threads = 1});
    return std::equal(found[0].begin(), found[0].end(), expected.begin(), expected.end(),
                      [](const Hit& a, const Hit& b) { return a.id == b.id && a.score == b.score; });
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kFormat) throw;
    return true;
  }
}

constexpr std::int64_t kManyItems = 70'000;
constexpr Eigen::Index kNarrow = 2;

/// Items for a full chunk and another one, every second one with "view" PA.
RetrievalIndex two_chunks(RandomStream& random) {
  RetrievalIndex index(kNarrow, Metric::kCosine);
  Ids ids(kManyItems);
  std::iota(ids.begin(), ids.end(), 0);
  std::vector<Metadata> metadata(kManyItems);
  for (std::size_t i = 0; i < metadata.size(); ++i) metadata[i] = {{"view", i % 2 ? "PA" : "AP"}};
  index.add(ids, random_rows(random, Kind::kGaussian, kManyItems, kNarrow), metadata);
  return index;
}

/// A file that is damaged again and again.
class Victim {
 public:
  /// `whole`: the file; `index` has its items, some of them with "view" PA.
  Victim(std::string whole, const RetrievalIndex& index, RowMatrix query)
      : whole_(std::move(whole)),
        items_(index),
        query_(std::move(query)),
        expected_(index.search(query_, 5, filter_)[0]) {}

  /// Damages it `mutations` times at random and cuts it off at every `step`-th byte.
  void attack(int mutations, std::size_t step, RandomStream& random) {
    for (int i = 0; i < mutations; ++i) examine(mutated(whole_, random));
    for (std::size_t end = 0; end < whole_.size(); end += step) examine(whole_.substr(0, end));
    std::cout << mutations << " mutations of " << whole_.size() << " bytes, cut at every " << step << ": " << accepted_
              << " accepted, " << refused_ << " refused, " << found_late_ << " found when used, " << unchanged_
              << " without effect\n";
    CHECK(accepted_ == 0);
    CHECK(wrong_ == 0);
    CHECK(refused_ > 0);
    CHECK(found_late_ > 0);
  }

 private:
  void examine(const std::string& bytes) {
    if (bytes == whole_) {
      ++unchanged_;
      return;
    }
    const bool longer = bytes.starts_with(whole_);  // what stands behind its last change is none of the file's
    bool opened = false;
    try {
      const auto damaged = RetrievalIndex::parse(bytes.data(), bytes.size(), "x");
      opened = true;
      const bool right = longer ? Snapshot(damaged) == items_ : finds_or_refuses(damaged, query_, filter_, expected_);
      wrong_ += right ? 0 : 1;  // also where `verify` refuses it then
      (void)damaged.verify();
      ++(longer ? unchanged_ : accepted_);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kFormat) throw;
      ++(longer ? wrong_ : opened ? found_late_ : refused_);
    }
  }

  std::string whole_;
  Snapshot items_;
  RowMatrix query_;
  Filter filter_ = Filter::equals("view", "PA");
  Hits expected_;
  std::int64_t unchanged_ = 0, refused_ = 0, found_late_ = 0, accepted_ = 0, wrong_ = 0;
};

}  // namespace

TEST_CASE("a file that is damaged at random is refused, or finds what it found before", "[index]") {
  const Scratch scratch;
  RandomStream random(31, 0, "damage");
  RetrievalIndex index(16, Metric::kCosine, "fp");
  std::vector<Metadata> metadata(300);
  Ids ids(300);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<std::int64_t>(i);
    metadata[i] = {{"patient", "p" + std::to_string(i / 3)}, {"view", i % 2 ? "PA" : "AP"}};
  }
  index.add(ids, random_rows(random, Kind::kGaussian, 300, 16), metadata);
  index.save(scratch.path("a"));
  {
    IndexWriter writer(scratch.path("a"), "fp");
    writer.add({1000, 1001}, random_rows(random, Kind::kGaussian, 2, 16));
    writer.remove({5, 6});
    index = writer.index();
  }
  Victim victim(read_text_file(scratch.path("a")), index, random_rows(random, Kind::kGaussian, 1, 16));
  victim.attack(long_tests() ? 1'000'000 : kSanitized ? 1'000 : 4'000, kSanitized ? 7 : 1, random);
}

TEST_CASE("a file of several chunks that is damaged at random is refused, or finds what it found before", "[index]") {
  const Scratch scratch;
  RandomStream random(33, 0, "damage");
  RetrievalIndex index = two_chunks(random);
  index.save(scratch.path("a"));
  {
    IndexWriter writer(scratch.path("a"), "");
    writer.add({kManyItems, kManyItems + 1}, random_rows(random, Kind::kGaussian, 2, kNarrow));
    writer.remove({5, kManyItems - 1});
    index = writer.index();
  }
  Victim victim(read_text_file(scratch.path("a")), index, random_rows(random, Kind::kGaussian, 1, kNarrow));
  victim.attack(long_tests() ? 1'000'000 : kSanitized ? 100 : 1'500, 20'011, random);  // a mutation takes milliseconds
}

TEST_CASE("damage to any block of a file of several chunks is named by chunk, part and block", "[index]") {
  constexpr std::size_t kBlock = 65'536;
  const Scratch scratch;
  RandomStream random(32, 0, "damage");
  const RetrievalIndex index = two_chunks(random);
  index.save(scratch.path("a"));
  std::string file = read_text_file(scratch.path("a"));

  // Where its sections are: worked out by hand from the layout in src/index/index_file.h.
  struct Section {
    std::size_t chunk;
    const char* name;
    std::size_t begin, bytes;
  };
  std::vector<Section> sections;
  std::uint64_t end = 0;
  std::memcpy(&end, file.data() + 16, sizeof end);
  const std::size_t rows_of[] = {65'536, 4'464};
  for (std::size_t chunk = 0; chunk < 2; ++chunk) {
    const std::size_t rows = rows_of[chunk], blocks = (rows + 15) / 16;
    const std::pair<const char*, std::size_t> parts[] = {
        {"ids", 8 * rows},      {"order", 4 * rows},      {"norms", 8 * rows},        {"vectors", 4 * 2 * rows},
        {"codes", 32 * blocks}, {"bounds", 192 * blocks}, {"metadata", 48 + 4 * rows}};
    for (const auto& [name, bytes] : parts) {
      const std::size_t padded = (bytes + 63) / 64 * 64;
      sections.push_back({chunk, name, end, padded});
      end += padded;
    }
  }
  REQUIRE(end + 16 == file.size());  // and an empty journal

  const RowMatrix query = random_rows(random, Kind::kGaussian, 1, kNarrow);
  const auto filter = Filter::equals("view", "PA");
  const auto expected = index.search(query, 5, filter)[0];
  std::size_t blocks = 0;
  for (const auto& section : sections)
    for (std::size_t first = 0; first < section.bytes; first += kBlock, ++blocks) {
      const std::size_t size = std::min(kBlock, section.bytes - first);
      std::vector<std::size_t> places = {random.below(static_cast<std::uint32_t>(size))};
      if (!kSanitized) places.insert(places.end(), {0, size - 1});
      for (const std::size_t place : places) {
        char& byte = file[section.begin + first + place];
        const char before = byte;
        byte = static_cast<char>(byte ^ (1U << random.below(8)));
        const auto damaged = RetrievalIndex::parse(file.data(), file.size(), "x");
        byte = before;
        INFO("chunk " << section.chunk << " " << section.name << " byte " << first + place);
        CHECK(finds_or_refuses(damaged, query, filter, expected));
        const auto error = caught([&] { (void)damaged.verify(); });
        CHECK(error.code() == ErrorCode::kFormat);
        const std::string expected_end = detail::concat(
            section.name, ": expected contents that fit their checksum, got other contents in block ", first / kBlock);
        CHECK(mentions(error, detail::concat("chunk ", section.chunk, ": ")));
        CHECK(std::string(error.what()).ends_with(expected_end));
      }
    }
  CHECK(blocks == 54);
  CHECK(RetrievalIndex::parse(file.data(), file.size(), "x").verify().chunks == 2);
}
