#include "index/golden_knn.h"

using namespace daug;

TEST_CASE("search agrees with published exact search", "[index][golden]") {
  test::knn::check_sets(
      [](const RetrievalIndex& index, const RowMatrix& queries, std::int64_t k) { return index.search(queries, k); });
}
