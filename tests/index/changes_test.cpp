// Indexes that change: updates, removals, copies, texts as ids.

#include <algorithm>
#include <string>
#include <vector>

#include "brute_force.h"
#include "daug/core/random.h"
#include "daug/index/retrieval_index.h"
#include "fixtures.h"
#include "support/catch.h"
#include "support/caught.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("items change as if the index had been made anew", "[index]") {
  for (const Storage storage : kStorages) {
    RandomStream random(1, static_cast<std::uint64_t>(storage), "changes");
    const auto rows = [&](Eigen::Index count) { return random_rows(random, Kind::kGaussian, count, 7); };
    const auto patient = [&] { return Metadata{{"patient", std::to_string(random.below(5))}}; };
    RetrievalIndex changed(7, Metric::kL2, "", {storage});
    RowMatrix current(0, 7);
    Ids ids;
    std::vector<Metadata> metadata;
    for (int step = 0; step < 150; ++step) {
      const auto choice = random.below(4);
      if (choice < 2 || ids.empty()) {
        const auto count = static_cast<Eigen::Index>(1 + random.below(20));
        const RowMatrix more = rows(count);
        Ids added;
        std::vector<Metadata> texts;
        for (Eigen::Index i = 0; i < count; ++i) {
          added.push_back(1000 * step + i);
          texts.push_back(patient());
        }
        changed.add(added, more, texts);
        ids.insert(ids.end(), added.begin(), added.end());
        metadata.insert(metadata.end(), texts.begin(), texts.end());
        const RowMatrix before = current;
        current.resize(before.rows() + count, 7);
        current << before, more;
      } else if (choice == 2) {
        // An updated item is as if it had been removed and added again, but for its metadata.
        const auto at = random.below(static_cast<std::uint32_t>(ids.size()));
        const auto last = static_cast<Eigen::Index>(ids.size()) - 1;
        const RowMatrix tail = current.bottomRows(last - at);
        current.middleRows(at, last - at) = tail;
        current.row(last) = rows(1);
        std::rotate(ids.begin() + at, ids.begin() + at + 1, ids.end());
        std::rotate(metadata.begin() + at, metadata.begin() + at + 1, metadata.end());
        if (random.below(2)) {
          metadata.back() = patient();
          changed.update({ids.back()}, current.row(last), {metadata.back()});
        } else {
          changed.update({ids.back()}, current.row(last));
        }
      } else {
        const auto at = random.below(static_cast<std::uint32_t>(ids.size()));
        const auto last = static_cast<Eigen::Index>(ids.size()) - 1;
        changed.remove({ids[at]});
        ids.erase(ids.begin() + at);
        metadata.erase(metadata.begin() + at);
        const RowMatrix tail = current.bottomRows(last - at);
        current.conservativeResize(last, 7);
        current.bottomRows(last - at) = tail;
        if (random.below(2)) changed.compact();
      }
      REQUIRE(changed.ids() == ids);
      if (ids.empty()) continue;
      RetrievalIndex fresh(7, Metric::kL2, "", {storage});
      fresh.add(ids, current, metadata);
      REQUIRE(Snapshot(changed) == Snapshot(fresh));
      const RowMatrix query = rows(2);
      const auto k = std::min<std::int64_t>(5, fresh.size());
      require_identical(changed.search(query, k), fresh.search(query, k));
      const auto filter = Filter::equals("patient", "3") || Filter::has("nothing");
      require_identical(changed.search(query, k, filter), fresh.search(query, k, filter));
    }
  }
}

TEST_CASE("a copy is an index of its own", "[index]") {
  const auto original = four_points(Metric::kL2);
  RetrievalIndex copy = original;
  copy.remove({10});
  CHECK(original.size() == 4);
  CHECK(original.search(RowMatrix::Identity(1, 2), 1)[0][0].id == 10);
  copy = original;
  CHECK(copy.search(RowMatrix::Identity(1, 2), 1)[0][0].id == 10);
}

TEST_CASE("texts serve as ids", "[index]") {
  RetrievalIndex index(2, Metric::kL2);
  const RowMatrix vectors = (RowMatrix(3, 2) << 1, 0, 0, 2, 3, 4).finished();
  index.add_named({"study-7", "study-9", ""}, vectors, {{{"view", "PA"}}, {}, {}});
  CHECK(index.contains(RetrievalIndex::id_of("study-7")));
  const auto hits = index.search(RowMatrix::Identity(1, 2), 2)[0];
  CHECK(index.name(hits[0].id) == "study-7");
  CHECK(index.name(hits[1].id) == "study-9");
  CHECK(index.metadata(hits[0].id).at("view") == "PA");
  CHECK(index.search(vectors, 1, Filter::equals("name", ""))[0][0].id == RetrievalIndex::id_of(""));

  const Snapshot before(index);
  const RowMatrix one = RowMatrix::Ones(1, 2);
  CHECK(caught([&] { index.add_named({"study-7"}, one); }).code() == ErrorCode::kInvalidArgument);
  check_refused(ErrorCode::kInvalidArgument, "metadata[0]: expected no 'name' or 'a', got 'b'", [&] {
    index.add_named({"a"}, one, {{{"name", "b"}}});
  });
  CHECK(caught([&] { index.add_named({"a", "b"}, one); }).code() == ErrorCode::kMismatch);
  CHECK(Snapshot(index) == before);
  index.add({5}, one);
  CHECK(caught([&] { (void)index.name(5); }).code() == ErrorCode::kNotFound);
  CHECK(caught([&] { (void)index.name(6); }).code() == ErrorCode::kNotFound);
}
