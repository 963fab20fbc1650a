// Searches while an index changes: every answer must be that of one moment. DAUG_LONG_TESTS=1 asks 1e6 queries.

#include <algorithm>
#include <array>
#include <atomic>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "brute_force.h"
#include "daug/core/error.h"
#include "daug/core/random.h"
#include "daug/index/retrieval_index.h"
#include "support/catch.h"
#include "support/long_tests.h"

using namespace daug;
using namespace daug::test;

namespace {

constexpr Eigen::Index kDimension = 12;
constexpr std::int64_t kNearest = 6;

/// An index and what a change is to be recognised by: a vector far out that scores more than any other item and whose
/// id is the number of the change. An answer thereby tells the state that it must be the answer of.
class History {
 public:
  explicit History(Storage storage)
      : index_(kDimension, Metric::kInnerProduct, "", {storage}), random_(1, 0, "history") {
    queries_ = random_rows(random_, Kind::kGaussian, 5, kDimension);
    queries_.col(0).setOnes();
    add(40);
    states_.emplace(0, index_);
    mark(0);
  }

  const RetrievalIndex& index() const { return index_; }
  const RowMatrix& queries() const { return queries_; }

  /// One change of the items, and then of the mark in one call with it.
  void step(std::int64_t number) {
    const auto kind = random_.below(5);
    if (kind == 0 && ids_.size() > 60) {
      Ids some;
      for (int i = 0; i < 9; ++i) {
        const auto at = random_.below(static_cast<std::uint32_t>(ids_.size()));
        some.push_back(ids_[at]);
        ids_.erase(ids_.begin() + at);
      }
      prepare([&](RetrievalIndex& index) { index.remove(some); }, number);
    } else if (kind == 1) {
      const Ids one = {ids_[random_.below(static_cast<std::uint32_t>(ids_.size()))]};
      const RowMatrix vector = random_rows(random_, Kind::kGaussian, 1, kDimension);
      prepare([&](RetrievalIndex& index) { index.update(one, vector); }, number);
    } else if (kind == 2) {
      prepare([](RetrievalIndex& index) { index.compact(); }, number);
    } else {
      const auto count = static_cast<Eigen::Index>(1 + random_.below(ids_.size() < 3000 ? 30 : 2));
      Ids ids;
      for (Eigen::Index i = 0; i < count; ++i) ids.push_back(next_id_++);
      ids_.insert(ids_.end(), ids.begin(), ids.end());
      const RowMatrix vectors = random_rows(random_, Kind::kGaussian, count, kDimension);
      prepare([&](RetrievalIndex& index) { index.add(ids, vectors); }, number);
    }
  }

  /// The items at the moment that an answer tells and at the next one, without the mark; null when nobody needs them
  /// any more. Both from one moment: the next cannot be forgotten where this one is not.
  std::array<std::shared_ptr<const RetrievalIndex>, 2> states(std::int64_t mark) const {
    const std::lock_guard lock(mutex_);
    std::array<std::shared_ptr<const RetrievalIndex>, 2> result;
    for (std::size_t i = 0; i < 2; ++i)
      if (const auto found = states_.find(mark + static_cast<std::int64_t>(i)); found != states_.end())
        result[i] = std::make_shared<const RetrievalIndex>(found->second);
    return result;
  }
  void forget_before(std::int64_t number) {
    const std::lock_guard lock(mutex_);
    states_.erase(states_.begin(), states_.lower_bound(number));
  }

 private:
  static RowMatrix marking(std::int64_t number) {
    RowMatrix vector = RowMatrix::Zero(1, kDimension);
    vector(0, 0) = 1e6F + static_cast<float>(number);
    return vector;
  }
  void add(Eigen::Index count) {
    for (Eigen::Index i = 0; i < count; ++i) ids_.push_back(next_id_++);
    index_.add(ids_, random_rows(random_, Kind::kGaussian, count, kDimension));
  }
  void mark(std::int64_t number) { index_.add({-1}, marking(number)); }

  /// What the index will hold is written down before it holds it. Its mark is the score of item -1.
  template <class Change>
  void prepare(const Change& change, std::int64_t number) {
    RetrievalIndex next = index_;
    next.remove({-1});
    change(next);
    {
      const std::lock_guard lock(mutex_);
      states_.emplace(number, next);
    }
    change(index_);  // states between this and the mark: the old mark with the new items
    index_.update({-1}, marking(number));
  }

  RetrievalIndex index_;
  RandomStream random_;
  RowMatrix queries_;
  Ids ids_;
  std::int64_t next_id_ = 0;
  mutable std::mutex mutex_;
  std::map<std::int64_t, RetrievalIndex> states_;
};

bool same(const Hits& found, const Hits& expected) {
  return found.size() == expected.size() &&
         std::equal(found.begin(), found.end(), expected.begin(),
                    [](const Hit& a, const Hit& b) { return a.id == b.id && a.score == b.score; });
}

}  // namespace

TEST_CASE("every answer during changes is that of one moment", "[index][concurrency]") {
  const std::int64_t wanted = (long_tests() ? 1'000'000 : kSanitized ? 2'000 : 6'000) / 4;
  constexpr std::int64_t kFewestChanges = 40;  // whoever the processor serves first
  for (const Storage storage : kStorages) {
    History history(storage);
    std::atomic<std::int64_t> answered{0};
    std::atomic<std::int64_t> wrong{0};
    std::atomic<std::int64_t> changes{0};
    std::vector<std::thread> readers;
    for (std::uint64_t reader = 0; reader < 3; ++reader)
      readers.emplace_back([&, reader] {
        RandomStream random(2, reader, "reader");
        while (answered < wanted || changes < kFewestChanges) {
          const auto row = random.below(static_cast<std::uint32_t>(history.queries().rows()));
          const RowMatrix query = history.queries().row(row);
          Hits found = history.index().search(query, kNearest, SearchOptions{.threads = 1})[0];
          const auto mark = static_cast<std::int64_t>(found[0].score - 1e6);
          const bool marked = found[0].id == -1;
          found.erase(found.begin());
          // Between the change of the items and that of the mark, the items are those of the next mark.
          const auto states = history.states(mark);
          const bool forgotten = !states[0];
          const bool known = std::any_of(states.begin(), states.end(), [&](const auto& state) {
            return state && same(found, state->search(query, kNearest - 1, SearchOptions{.threads = 1})[0]);
          });
          if (!marked || (!known && !forgotten)) ++wrong;
          if (known || !marked) ++answered;
        }
      });
    std::thread writer([&] {
      for (std::int64_t number = 1; answered < wanted || number <= kFewestChanges; ++number) {
        history.step(number);
        changes = number;
        history.forget_before(number - 50);
      }
    });
    for (auto& thread : readers) thread.join();
    writer.join();
    INFO(storage_name(storage));
    CHECK(wrong == 0);
    CHECK(answered >= wanted);
    CHECK(changes >= kFewestChanges);
    std::cout << storage_name(storage) << ": " << answered << " answers during " << changes << " changes\n";
  }
}

TEST_CASE("changes of several threads wait for each other and none is lost", "[index][concurrency]") {
  RetrievalIndex index(4, Metric::kL2);
  std::vector<std::thread> writers;
  std::atomic<int> refused{0};
  for (int writer = 0; writer < 4; ++writer)
    writers.emplace_back([&, writer] {
      for (int i = 0; i < 60; ++i) {
        index.add({1000 * writer + i}, RowMatrix::Constant(1, 4, static_cast<float>(i)),
                  {{{"writer", std::to_string(writer)}}});
        if (i % 3 == 2) index.remove({1000 * writer + i - 1});
        try {
          index.add({-i - 1}, RowMatrix::Ones(1, 4));  // all want this id; one gets it
        } catch (const Error& error) {
          if (error.code() == ErrorCode::kInvalidArgument) ++refused;
        }
      }
    });
  for (auto& writer : writers) writer.join();
  CHECK(index.size() == 4 * 40 + 60);
  CHECK(refused == 3 * 60);
  for (int writer = 0; writer < 4; ++writer)
    CHECK(
        index.search(RowMatrix::Ones(1, 4), index.size(), Filter::equals("writer", std::to_string(writer)))[0].size() ==
        40);
}

TEST_CASE("a copy keeps the items of its moment while the original changes", "[index][concurrency]") {
  RandomStream random(3, 0, "copies");
  RetrievalIndex index(8, Metric::kCosine);
  const RowMatrix query = random_rows(random, Kind::kGaussian, 1, 8);
  std::vector<RetrievalIndex> copies;
  std::vector<Hits> expected;
  for (std::int64_t i = 0; i < 200; ++i) {
    index.add({i}, random_rows(random, Kind::kGaussian, 1, 8));
    if (i % 7 == 6) index.remove({i - 3});
    copies.push_back(index);
    expected.push_back(brute_search(index, query.row(0), 5, {}));
  }
  for (std::size_t i = 4; i < copies.size(); ++i) require_same(copies[i].search(query, 5)[0], expected[i]);
  copies.front().add({5000}, query);
  CHECK_FALSE(index.contains(5000));
}
