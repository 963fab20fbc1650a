// A search over shards on several ranks against the search of one index, with ranks as threads and as processes.

#include "daug/index/distributed_search.h"

#include <string>
#include <utility>
#include <vector>

#include "brute_force.h"
#include "daug/core/error.h"
#include "support/caught.h"
#include "support/ranks.h"

using namespace daug;
using namespace daug::test;

namespace {

struct Problem {
  RetrievalIndex whole;
  std::vector<RetrievalIndex> shards;
  RowMatrix queries;
};

/// Items with many ties, dealt out at random to all ranks but perhaps one; "site" is a name that few items have.
Problem problem(std::uint64_t item, std::size_t ranks) {
  RandomStream random(53, item, "distributed search");
  const Metric metric = kMetrics[item % 3];
  constexpr Eigen::Index kItems = 90, kWidth = 4;
  const RowMatrix vectors = random_rows(random, item % 2 ? Kind::kGrid : Kind::kCopies, kItems, kWidth);
  Problem problem{RetrievalIndex(kWidth, metric, "encoder"), {}, random_rows(random, Kind::kGrid, 4, kWidth)};
  problem.shards.assign(ranks, RetrievalIndex(kWidth, metric, "encoder"));
  const Ids ids = shuffled_ids(random, kItems);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    Metadata metadata = {{"patient", "p" + std::to_string(i % 7)}};
    if (i == 5) metadata["site"] = "A";
    const auto row = vectors.row(static_cast<Eigen::Index>(i));
    problem.whole.add({ids[i]}, row, {metadata});
    const std::size_t rank = ranks > 2 ? 1 + random.below(static_cast<std::uint32_t>(ranks - 1))
                                       : random.below(static_cast<std::uint32_t>(ranks));
    problem.shards[rank].add({ids[i]}, row, {metadata});
  }
  return problem;
}

std::vector<Filter> filters() {
  return {Filter(),
          Filter::exclude_patient("p3"),
          Filter::equals("site", "A"),
          !Filter::equals("site", "A") && Filter::equals("patient", "p5"),
          Filter::has("nothing") || Filter::equals("patient", "p1"),
          Filter::equals("patient", "p99")};
}

bool identical(const std::vector<Hits>& a, const std::vector<Hits>& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](const Hits& x, const Hits& y) {
           return std::equal(x.begin(), x.end(), y.begin(), y.end(),
                             [](const Hit& p, const Hit& q) { return p.id == q.id && p.score == q.score; });
         });
}

/// How many searches of this rank differ from those of one index.
int differences(c10d::ProcessGroup& group) {
  int different = 0;
  for (std::uint64_t item = 0; item < 6; ++item) {
    const Problem problem = ::problem(item, static_cast<std::size_t>(group.getSize()));
    const RetrievalIndex& mine = problem.shards[static_cast<std::size_t>(group.getRank())];
    for (const auto& filter : filters())
      for (const std::int64_t k : {1, 9, 90})
        different += identical(distributed_search(mine, problem.queries, k, group, filter, {.threads = 1}),
                               problem.whole.search(problem.queries, k, filter))
                         ? 0
                         : 1;
  }
  return different;
}

/// The code of what each rank throws, as a number; -1 where it throws nothing.
using Codes = std::vector<int>;

template <class Search>
Codes codes(int ranks, const Search& search) {
  Codes thrown(static_cast<std::size_t>(ranks), -1);
  run_as_threads(ranks, [&](c10d::ProcessGroup& group) {
    const auto rank = static_cast<std::size_t>(group.getRank());
    try {
      search(group, rank);
    } catch (const Error& error) {
      thrown[rank] = static_cast<int>(error.code());
    }
  });
  return thrown;
}

}  // namespace

TEST_CASE("a search over ranks as threads is the search of one index", "[index][distributed]") {
  for (const int ranks : {1, 2, 4}) {
    std::vector<int> different(static_cast<std::size_t>(ranks), -1);
    run_as_threads(ranks, [&](c10d::ProcessGroup& group) {
      different[static_cast<std::size_t>(group.getRank())] = differences(group);
    });
    CHECK(different == std::vector<int>(static_cast<std::size_t>(ranks), 0));
  }
}

TEST_CASE("rank of a search over processes", "[.rank]") {
  run_as_this_process([](c10d::ProcessGroup& group) { CHECK(differences(group) == 0); });
}

TEST_CASE("a search over ranks as processes is the search of one index", "[index][distributed]") {
  CHECK(run_as_processes(3, "rank of a search over processes") == 3);
}

TEST_CASE("what one index refuses is refused on every rank, and so is what ranks disagree in", "[index][distributed]") {
  const Problem problem = ::problem(0, 3);
  const auto all = [](ErrorCode code) { return Codes(3, static_cast<int>(code)); };
  const auto search = [&](c10d::ProcessGroup& group, std::size_t rank, const RowMatrix& queries, std::int64_t k,
                          const Filter& filter = {}) {
    (void)distributed_search(problem.shards[rank], queries, k, group, filter, {.threads = 1});
  };
  CHECK(codes(3, [&](auto& group, std::size_t rank) { search(group, rank, problem.queries, 91); }) ==
        all(ErrorCode::kInvalidArgument));
  CHECK(codes(3, [&](auto& group, std::size_t rank) { search(group, rank, problem.queries, 0); }) ==
        all(ErrorCode::kInvalidArgument));
  CHECK(codes(3, [&](auto& group, std::size_t rank) {
          search(group, rank, problem.queries, 2, Filter::equals("nothing", "a"));
        }) == all(ErrorCode::kNotFound));
  CHECK(codes(3, [&](auto& group, std::size_t rank) {
          search(group, rank, rank == 1 ? RowMatrix(problem.queries * 2) : problem.queries, 2);
        }) == all(ErrorCode::kMismatch));
  CHECK(codes(3, [&](auto& group, std::size_t rank) { search(group, rank, problem.queries, rank == 2 ? 3 : 2); }) ==
        all(ErrorCode::kMismatch));
  // Filters on the same names that ask for something else, and graphs searched more or less thoroughly.
  const auto asked = [](std::size_t rank, const Filter& here, const Filter& elsewhere) {
    return rank == 1 ? here : elsewhere;
  };
  const std::pair<Filter, Filter> different[] = {
      {Filter::equals("patient", "p3"), Filter::equals("patient", "p4")},
      {Filter::equals("patient", "p3"), Filter::lists("patient", "p3")},
      {Filter::equals("patient", "p3"), Filter::exclude_patient("p3")},
      {Filter::ids({1}), Filter::ids({2})},
      {Filter::has("patient"), Filter::has("site")},
      {Filter(), Filter([](std::int64_t, const Metadata&) { return true; })},
  };
  for (const auto& [here, elsewhere] : different) {
    INFO(here.text() << " beside " << elsewhere.text());
    CHECK(codes(3, [&, &here = here, &elsewhere = elsewhere](auto& group, std::size_t rank) {
            search(group, rank, problem.queries, 2, asked(rank, here, elsewhere));
          }) == all(ErrorCode::kMismatch));
  }
  std::vector<RetrievalIndex> graphs = problem.shards;
  for (auto& graph : graphs)
    if (graph.size() > 0) graph.build_graph({.threads = 1});
  CHECK(codes(3, [&](auto& group, std::size_t rank) {
          SearchOptions options;
          options.breadth = rank == 2 ? 40 : 20;
          (void)distributed_search(graphs[rank], problem.queries, 2, group, {}, options);
        }) == all(ErrorCode::kMismatch));
  // Another encoder's shard on one rank.
  CHECK(codes(3, [&](auto& group, std::size_t rank) {
          const RetrievalIndex other(4, problem.whole.metric(), "another");
          (void)distributed_search(rank == 0 ? other : problem.shards[rank], problem.queries, 2, group);
        }) == all(ErrorCode::kMismatch));
  // Queries of another encoder, on every rank and on one whose shard is empty.
  REQUIRE(problem.shards[0].size() == 0);
  const auto made_by = [&](const std::string& first, const std::string& others) {
    return codes(3, [&](auto& group, std::size_t rank) {
      SearchOptions options;
      options.fingerprint = rank == 0 ? first : others;
      (void)distributed_search(problem.shards[rank], problem.queries, 2, group, {}, options);
    });
  };
  CHECK(made_by("encoder", "encoder") == Codes(3, -1));
  CHECK(made_by("another", "another") == all(ErrorCode::kMismatch));
  CHECK(made_by("another", "encoder") == all(ErrorCode::kMismatch));
  // An error of one rank: its own there, kMismatch elsewhere.
  CHECK(codes(3,
              [&](auto& group, std::size_t rank) {
                SearchOptions options;
                options.breadth = rank == 1 ? 10 : 0;  // without a graph
                (void)distributed_search(problem.shards[rank], problem.queries, 2, group, {}, options);
              }) == Codes{static_cast<int>(ErrorCode::kMismatch), static_cast<int>(ErrorCode::kInvalidArgument),
                          static_cast<int>(ErrorCode::kMismatch)});
  // The same item on two ranks.
  CHECK(codes(2, [&](auto& group, std::size_t) {
          (void)distributed_search(problem.whole, problem.queries, 2, group);
        }) == Codes(2, static_cast<int>(ErrorCode::kInvalidArgument)));
}

TEST_CASE("a group whose ranks cannot exchange anything is an error of the library's own", "[index][distributed]") {
  const Problem problem = ::problem(0, 1);
  const auto group = c10::make_intrusive<c10d::ProcessGroup>(0, 1);  // has no backend
  check_refused(ErrorCode::kIo, "daug::distributed_search: group: expected an exchange with all ranks",
                [&] { (void)distributed_search(problem.whole, problem.queries, 2, *group); });
}
