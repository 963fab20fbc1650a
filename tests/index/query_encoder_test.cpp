// Queries that say which encoder made them.

#include <vector>

#include "brute_force.h"
#include "daug/index/retrieval_index.h"
#include "support/caught.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("every kind of search refuses queries that another encoder made", "[index]") {
  RetrievalIndex index(2, Metric::kInnerProduct, "encoder a");
  index.add({1, 2, 3}, (RowMatrix(3, 2) << 1, 0, 0, 1, 1, 1).finished(), std::vector<Metadata>(3, {{"view", "PA"}}));
  index.build_graph({.threads = 1});
  const RowMatrix queries = RowMatrix::Identity(2, 2);
  const std::vector<Filter> filters(2, Filter::equals("view", "PA"));
  for (const int breadth : {0, 10}) {
    SearchOptions options;
    options.breadth = breadth;
    const auto expected = index.search(queries, 2, options);
    options.fingerprint = "encoder a";
    require_identical(index.search(queries, 2, options), expected);
    require_identical(index.search(queries, 2, filters, options), expected);
    CHECK(index.search_range(queries, 0.5, {}, options)[0].size() == 2);

    options.fingerprint = "encoder b";
    const auto error = caught([&] { (void)index.search(queries, 2, options); });
    CHECK(error.code() == ErrorCode::kMismatch);
    CHECK(mentions(error, "RetrievalIndex::search", "'encoder b'", "'encoder a'"));
    CHECK(caught([&] { (void)index.search(queries, 2, filters, options); }).code() == ErrorCode::kMismatch);
    CHECK(caught([&] { (void)index.search_range(queries, 0.5, {}, options); }).code() == ErrorCode::kMismatch);
  }
  // Of an index that does not know what made it, nobody can say that it is the same.
  RetrievalIndex unknown(2, Metric::kL2);
  unknown.add({1}, RowMatrix::Ones(1, 2));
  SearchOptions options;
  options.fingerprint = "encoder a";
  CHECK(caught([&] { (void)unknown.search(queries, 1, options); }).code() == ErrorCode::kMismatch);
}
