#include "daug/index/query.h"

#include <cmath>

#include "daug/core/error.h"

namespace daug {
namespace {

/// A weighted sum of directions.
class Sum {
 public:
  Sum(const char* function, Eigen::Index size) : function_(function), total_(Eigen::RowVectorXd::Zero(size)) {}

  void add(const Eigen::RowVectorXd& vector, double weight, const std::string& argument) {
    if (vector.size() != total_.size())
      fail(ErrorCode::kMismatch, function_, argument, detail::concat(total_.size(), " components"), vector.size());
    const double norm = vector.norm();
    if (!std::isfinite(norm) || !std::isfinite(weight))
      fail(ErrorCode::kInvalidArgument, function_, argument, "finite values", "an infinite value or not-a-number");
    if (norm == 0) fail(ErrorCode::kInvalidArgument, function_, argument, "a direction", "a zero vector");
    total_ += weight / norm * vector;
  }

  Eigen::RowVectorXf result() const {
    const Eigen::RowVectorXf rounded = total_.cast<float>();
    if (!rounded.allFinite() || rounded.isZero(0))
      fail(ErrorCode::kInvalidArgument, function_, "weights", "parts that leave a direction", "parts that cancel");
    return rounded;
  }

 private:
  const char* function_;
  Eigen::RowVectorXd total_;
};

}  // namespace

Eigen::RowVectorXf fused_query(const std::vector<QueryPart>& parts) {
  require(!parts.empty(), "fused_query", "parts", "at least one", 0);
  Sum sum("fused_query", parts[0].vector.size());
  for (std::size_t i = 0; i < parts.size(); ++i)
    sum.add(parts[i].vector.cast<double>(), parts[i].weight, detail::concat("parts[", i, "]"));
  return sum.result();
}

void FeedbackOptions::validate() const {
  constexpr double kLargest = 1e6;
  require_range(query, 0, kLargest, "FeedbackOptions", "query");
  require_range(relevant, 0, kLargest, "FeedbackOptions", "relevant");
  require_range(irrelevant, 0, kLargest, "FeedbackOptions", "irrelevant");
}

Eigen::RowVectorXf feedback_query(const Eigen::RowVectorXf& query, const RowMatrixRef& relevant,
                                  const RowMatrixRef& irrelevant, const FeedbackOptions& options) {
  options.validate();
  Sum sum("feedback_query", query.size());
  sum.add(query.cast<double>(), options.query, "query");
  const auto add_mean = [&](const RowMatrixRef& rows, double weight, const char* name) {
    for (Eigen::Index i = 0; i < rows.rows(); ++i)
      sum.add(rows.row(i).cast<double>(), weight / static_cast<double>(rows.rows()), detail::concat(name, " row ", i));
  };
  add_mean(relevant, options.relevant, "relevant");
  add_mean(irrelevant, -options.irrelevant, "irrelevant");
  return sum.result();
}

}  // namespace daug
