#pragma once
// Searches beside those of faiss, in the golden sets knn_*.

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "daug/index/retrieval_index.h"
#include "support/catch.h"
#include "support/golden.h"

namespace daug::test::knn {

/// The number that follows `word` in a text, searched from `from` on.
inline double number_after(const std::string& text, const std::string& word, std::size_t from = 0) {
  const auto at = text.find(word, from);
  REQUIRE(at != text.npos);
  return std::stod(text.substr(at + word.size()));
}

inline RowMatrix matrix(const Array& array) {
  REQUIRE(array.shape.size() == 2);
  const auto values = array.to_float();
  return Eigen::Map<const RowMatrix>(values.data(), array.shape[0], array.shape[1]);
}

struct Tolerance {
  double relative;
  double absolute;
  double at(double value) const { return absolute + relative * std::abs(value); }
};

/// Compares with [q, k] reference ids and scores. Ids must be equal except where both items score the same.
inline double compare(const std::vector<Hits>& found, const Array& ids, const Array& scores, const RowMatrix& base,
                      const RowMatrix& queries, Metric metric, const Tolerance& tolerance) {
  const auto expected_ids = ids.to_int64();
  const auto expected_scores = scores.to_double();
  const auto width = static_cast<std::size_t>(ids.shape[1]);
  REQUIRE(found.size() == static_cast<std::size_t>(ids.shape[0]));
  double largest = 0;
  for (std::size_t q = 0; q < found.size(); ++q) {
    const auto first = expected_ids.begin() + static_cast<std::ptrdiff_t>(q * width);
    const auto filled = static_cast<std::size_t>(width) -
                        static_cast<std::size_t>(std::count(first, first + static_cast<std::ptrdiff_t>(width), -1));
    REQUIRE(found[q].size() == filled);
    for (std::size_t rank = 0; rank < filled; ++rank) {
      const Hit& hit = found[q][rank];
      const double expected = expected_scores[q * width + rank];
      largest = std::max(largest, std::abs(hit.score - expected));
      REQUIRE(std::abs(hit.score - expected) <= tolerance.at(expected));
      const std::int64_t expected_id = first[static_cast<std::ptrdiff_t>(rank)];
      if (hit.id == expected_id) continue;
      const Eigen::RowVectorXd query = queries.row(static_cast<Eigen::Index>(q)).cast<double>();
      const Eigen::RowVectorXd item = base.row(expected_id).cast<double>();
      const double score = metric == Metric::kL2 ? (query - item).squaredNorm() : query.dot(item);
      REQUIRE(std::abs(score - hit.score) <= tolerance.at(expected));
    }
  }
  return largest;
}

/// The k nearest items of every query.
using Search = std::function<std::vector<Hits>(const RetrievalIndex& index, const RowMatrix& queries, std::int64_t k)>;

/// Compares what `search` finds in every set.
inline void check_sets(const Search& search) {
  for_each_golden("knn_", [&search](const GoldenSet& set) {
    const std::string text = set.settings.at("tolerance").get<std::string>();
    const Tolerance direct{number_after(text, "rtol "), number_after(text, "atol ")};
    // Of the blas path squared distances alone, as differences of larger numbers, have one of their own.
    const auto own = text.find("blas L2");
    const Tolerance blas_l2{direct.relative, number_after(text, "atol ", own == text.npos ? 0 : own)};
    const Tolerance exact{1e-9, 0};
    double largest = 0;
    std::size_t compared = 0;
    for (const auto& config : set.settings.at("config")) {
      const auto name = config.at("case").get<std::string>();
      INFO("case " << name);
      const RowMatrix base = matrix(set.at(name + ".base"));
      const RowMatrix queries = matrix(set.at(name + ".queries"));
      std::vector<std::int64_t> ids(static_cast<std::size_t>(base.rows()));
      for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int64_t>(i);
      for (const auto metric : {Metric::kInnerProduct, Metric::kL2}) {
        const std::string prefix = name + (metric == Metric::kL2 ? ".l2." : ".ip.");
        RetrievalIndex index(base.cols(), metric);
        index.add(ids, base);
        const auto found =
            search(index, queries, std::min<std::int64_t>(config.at("k").get<std::int64_t>(), base.rows()));
        const auto check = [&](const std::string& path, const std::string& scores, const Tolerance& tolerance) {
          if (!set.file.contains(prefix + path + ".ids")) return;
          INFO(prefix << path);
          largest = std::max(largest, compare(found, set.at(prefix + path + ".ids"),
                                              set.at(prefix + path + "." + scores), base, queries, metric, tolerance));
          ++compared;
        };
        check("exact", "scores", exact);
        check("direct", "distances", direct);
        check("blas", "distances", metric == Metric::kL2 ? blas_l2 : direct);
      }
    }
    CHECK(compared > 0);
    check_outputs_read(set, {}, {"*.ids", "*.distances", "*.scores"});
    return largest;
  });
}

}  // namespace daug::test::knn
