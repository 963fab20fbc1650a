#pragma once
/// @file
/// Queries made of several: an image and a text together, or a query moved by what its user marked as relevant.

#include <Eigen/Core>
#include <vector>

#include "daug/index/retrieval_index.h"

namespace daug {

/// One part of a fused query.
struct QueryPart {
  Eigen::RowVectorXf vector;  ///< any length but zero
  double weight = 1;          ///< finite; a negative weight moves away
};

/// sum_i w_i q_i / |q_i|, in double. Under kCosine a search with it ranks items by sum_i w_i cosine(q_i, item).
///
/// Throws kInvalidArgument when there are no parts, a value or weight is not finite, a vector is zero, or the sum is;
/// kMismatch when the parts differ in size.
Eigen::RowVectorXf fused_query(const std::vector<QueryPart>& parts);

/// Weights of relevance feedback; the defaults are the usual ones (Manning, Raghavan & Schuetze, Introduction to
/// Information Retrieval, section 9.1.1).
struct FeedbackOptions {
  double query = 1;          ///< alpha, in [0, 1e6]
  double relevant = 0.75;    ///< beta, in [0, 1e6]
  double irrelevant = 0.15;  ///< gamma, in [0, 1e6]

  /// Throws kInvalidArgument.
  void validate() const;
};

/// The query moved towards the mean of relevant items and away from that of irrelevant ones (Rocchio, 1971):
///     alpha q + beta mean_i r_i - gamma mean_j s_j
/// with every vector first scaled to length 1. Either matrix may have no rows; its term is left out then. Throws as
/// fused_query does.
Eigen::RowVectorXf feedback_query(const Eigen::RowVectorXf& query, const RowMatrixRef& relevant,
                                  const RowMatrixRef& irrelevant, const FeedbackOptions& options = {});

}  // namespace daug
