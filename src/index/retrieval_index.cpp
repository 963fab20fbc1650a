#include "daug/index/retrieval_index.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <queue>
#include <unordered_set>
#include <utility>

#include "daug/core/error.h"

// How a search is exact and still fast
//
// Every metric is a function of the dot product and the two norms, which are kept in double. A float matrix product
// gives all dot products of a block at once, each within
//     E = D 2^-23 |q||x| + D 2^-125 (1 + |q| + |x|)
// of the double value: D roundings of relative size 2^-24 in whatever order the product sums (Higham, Accuracy and
// Stability of Numerical Algorithms, section 3.1), doubled to cover the double arithmetic, plus what underflow or
// flush-to-zero can take away. Hence every item has a lower and an upper bound of its cost. Let T be the k-th smallest
// upper bound among matching items: k items cost at most T, so an item whose lower bound exceeds T is not among the k
// nearest, not even by a tie. All others are scored again in double and sorted by (cost, id).

namespace daug {
namespace {

constexpr std::int64_t kLargestDimension = std::int64_t{1} << 20;
constexpr Eigen::Index kQueryBlock = 64;
constexpr Eigen::Index kItemBlock = 1024;

/// Below this product of norms no partial sum of the float dot product can overflow.
constexpr double kLargestScreened = 1e37;

/// Sum of a[i] b[i] in index order. A product of two floats is exact in double.
double dot(const float* a, const float* b, Eigen::Index size) {
  double sum = 0;
  for (Eigen::Index i = 0; i < size; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

double squared_distance(const float* a, const float* b, Eigen::Index size) {
  double sum = 0;
  for (Eigen::Index i = 0; i < size; ++i) {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    sum += difference * difference;
  }
  return sum;
}

/// Bounds of a cost: smaller is nearer, whatever the metric.
struct Bounds {
  double lower;
  double upper;
};

Bounds cost_bounds(Metric metric, float dot, double query_norm, double item_norm, double dimension) {
  const double scale = query_norm * item_norm;
  if (!(scale < kLargestScreened))
    return {-std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
  double error = dimension * (0x1p-23 * scale + 0x1p-125 * (1 + query_norm + item_norm));
  double cost = -static_cast<double>(dot);
  if (metric == Metric::kCosine) {
    cost /= scale;
    error /= scale;
  } else if (metric == Metric::kL2) {
    const double squares = query_norm * query_norm + item_norm * item_norm;
    cost = squares + 2 * cost;
    error = 2 * error + dimension * 0x1p-50 * squares;
  }
  return {cost - error, cost + error};
}

/// The rows that may be among the k of smallest cost, given bounds of each.
class Shortlist {
 public:
  explicit Shortlist(std::size_t k) : k_(k) {}

  /// A row whose lower bound exceeds this cannot be among the k.
  double limit() const { return smallest_.size() < k_ ? std::numeric_limits<double>::infinity() : smallest_.top(); }

  void add(std::size_t row, const Bounds& bounds) {
    smallest_.push(bounds.upper);
    if (smallest_.size() > k_) smallest_.pop();
    candidates_.push_back({bounds.lower, row});
    if (candidates_.size() >= prune_at_) prune();
  }

  template <class Visit>
  void for_each(Visit visit) {
    prune();
    for (const auto& candidate : candidates_) visit(candidate.row);
  }

 private:
  struct Candidate {
    double lower;
    std::size_t row;
  };

  void prune() {
    std::erase_if(candidates_, [limit = limit()](const Candidate& each) { return each.lower > limit; });
    prune_at_ = std::max<std::size_t>(1024, 2 * candidates_.size());
  }

  std::size_t k_;
  std::priority_queue<double> smallest_;  ///< the k smallest upper bounds, largest on top
  std::vector<Candidate> candidates_;
  std::size_t prune_at_ = 1024;
};

}  // namespace

const char* metric_name(Metric metric) {
  switch (metric) {
    case Metric::kCosine:
      return "cosine";
    case Metric::kInnerProduct:
      return "inner_product";
    case Metric::kL2:
      return "l2";
  }
  fail(ErrorCode::kInvalidArgument, "metric_name", "metric", "a Metric", static_cast<int>(metric));
}

RetrievalIndex::RetrievalIndex(std::int64_t dimension, Metric metric, std::string fingerprint)
    : dimension_(dimension), metric_(metric), fingerprint_(std::move(fingerprint)) {
  require_range(dimension, 1, kLargestDimension, "RetrievalIndex", "dimension");
  (void)metric_name(metric);  // refuses a value outside the enumeration
}

std::vector<double> RetrievalIndex::checked_norms(const RowMatrixRef& vectors, const char* function,
                                                  const char* argument) const {
  if (vectors.cols() != dimension_)
    fail(ErrorCode::kMismatch, function, argument, detail::concat(dimension_, " columns"), vectors.cols());
  std::vector<double> norms(static_cast<std::size_t>(vectors.rows()));
  for (Eigen::Index row = 0; row < vectors.rows(); ++row) {
    const float* values = vectors.data() + row * vectors.outerStride();
    // Squares of finite floats cannot overflow a double, so a norm is finite exactly when every value is.
    const double norm = std::sqrt(dot(values, values, dimension_));
    if (!std::isfinite(norm))
      fail(ErrorCode::kInvalidArgument, function, detail::concat(argument, " row ", row), "finite values",
           "an infinite value or not-a-number");
    if (metric_ == Metric::kCosine && norm == 0)
      fail(ErrorCode::kInvalidArgument, function, detail::concat(argument, " row ", row), "a direction (metric cosine)",
           "a zero vector");
    norms[static_cast<std::size_t>(row)] = norm;
  }
  return norms;
}

void RetrievalIndex::truncate(std::size_t count) noexcept {
  values_.resize(std::min(values_.size(), count * static_cast<std::size_t>(dimension_)));
  norms_.resize(std::min(norms_.size(), count));
  ids_.resize(std::min(ids_.size(), count));
  metadata_.resize(std::min(metadata_.size(), count));
}

void RetrievalIndex::add(const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
                         const std::vector<Metadata>& metadata) {
  constexpr char kFunction[] = "RetrievalIndex::add";
  const std::size_t count = ids.size();
  if (static_cast<std::size_t>(vectors.rows()) != count)
    fail(ErrorCode::kMismatch, kFunction, "vectors", detail::concat(count, " rows, one an id"), vectors.rows());
  if (!metadata.empty() && metadata.size() != count)
    fail(ErrorCode::kMismatch, kFunction, "metadata", detail::concat(count, " entries or none"), metadata.size());
  const auto norms = checked_norms(vectors, kFunction, "vectors");

  const std::size_t before = ids_.size();
  std::size_t registered = 0;
  try {
    for (; registered < count; ++registered)
      if (!row_of_.emplace(ids[registered], before + registered).second)
        fail(ErrorCode::kInvalidArgument, kFunction, detail::concat("ids[", registered, "]"), "a new id",
             detail::concat(ids[registered], ", which is there already"));
    values_.resize((before + count) * static_cast<std::size_t>(dimension_));
    Eigen::Map<RowMatrix>(values_.data() + before * static_cast<std::size_t>(dimension_), vectors.rows(), dimension_) =
        vectors;
    norms_.insert(norms_.end(), norms.begin(), norms.end());
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    if (metadata.empty())
      metadata_.resize(before + count);
    else
      metadata_.insert(metadata_.end(), metadata.begin(), metadata.end());
  } catch (...) {
    for (std::size_t i = 0; i < registered; ++i) row_of_.erase(ids[i]);
    truncate(before);
    throw;
  }
}

void RetrievalIndex::remove(const std::vector<std::int64_t>& ids) {
  std::vector<bool> doomed(ids_.size());
  for (const std::int64_t id : ids) {
    const std::size_t row = row_of(id, "RetrievalIndex::remove");
    if (doomed[row])
      fail(ErrorCode::kNotFound, "RetrievalIndex::remove", "ids", "each id once", detail::concat(id, " twice"));
    doomed[row] = true;
  }
  // Nothing below allocates or throws.
  const auto width = static_cast<std::size_t>(dimension_);
  std::size_t kept = 0;
  for (std::size_t row = 0; row < doomed.size(); ++row) {
    if (doomed[row]) {
      row_of_.erase(ids_[row]);
      continue;
    }
    if (kept != row) {
      std::copy_n(values_.begin() + static_cast<std::ptrdiff_t>(row * width), width,
                  values_.begin() + static_cast<std::ptrdiff_t>(kept * width));
      norms_[kept] = norms_[row];
      ids_[kept] = ids_[row];
      metadata_[kept] = std::move(metadata_[row]);
      row_of_.find(ids_[kept])->second = kept;
    }
    ++kept;
  }
  truncate(kept);
}

std::size_t RetrievalIndex::row_of(std::int64_t id, const char* function) const {
  const auto found = row_of_.find(id);
  if (found == row_of_.end()) fail(ErrorCode::kNotFound, function, "id", "an id of the index", id);
  return found->second;
}

const Metadata& RetrievalIndex::metadata(std::int64_t id) const {
  return metadata_[row_of(id, "RetrievalIndex::metadata")];
}

Eigen::RowVectorXf RetrievalIndex::vector(std::int64_t id) const {
  return rows().row(static_cast<Eigen::Index>(row_of(id, "RetrievalIndex::vector")));
}

void RetrievalIndex::require_fingerprint(const std::string& expected) const {
  if (fingerprint_ != expected)
    fail(ErrorCode::kMismatch, "RetrievalIndex::require_fingerprint", "fingerprint", "'" + expected + "'",
         "an index of vectors made by '" + fingerprint_ + "'");
}

double RetrievalIndex::cost(const float* query, double query_norm, std::size_t row) const {
  const float* item = values_.data() + row * static_cast<std::size_t>(dimension_);
  if (metric_ == Metric::kL2) return squared_distance(query, item, dimension_);
  const double product = dot(query, item, dimension_);
  return metric_ == Metric::kInnerProduct ? -product : -std::clamp(product / (query_norm * norms_[row]), -1.0, 1.0);
}

template <class FilterOf>
std::vector<Hits> RetrievalIndex::search_all(const RowMatrixRef& queries, std::int64_t k, FilterOf filter_of) const {
  require(k >= 1, "RetrievalIndex::search", "k", "at least 1", k);
  const auto query_norms = checked_norms(queries, "RetrievalIndex::search", "queries");
  const auto wanted = static_cast<std::size_t>(std::min(k, size()));
  std::vector<Hits> found(query_norms.size());
  if (wanted == 0) return found;

  RowMatrix products;
  for (Eigen::Index first = 0; first < queries.rows(); first += kQueryBlock) {
    const Eigen::Index query_count = std::min(kQueryBlock, queries.rows() - first);
    std::vector<Shortlist> shortlists(static_cast<std::size_t>(query_count), Shortlist(wanted));
    for (Eigen::Index item = 0; item < size(); item += kItemBlock) {
      const Eigen::Index item_count = std::min(kItemBlock, size() - item);
      products.noalias() = queries.middleRows(first, query_count) * rows().middleRows(item, item_count).transpose();
      for (Eigen::Index q = 0; q < query_count; ++q) {
        const auto query = static_cast<std::size_t>(first + q);
        auto& shortlist = shortlists[static_cast<std::size_t>(q)];
        const Filter& filter = filter_of(query);
        for (Eigen::Index i = 0; i < item_count; ++i) {
          const auto row = static_cast<std::size_t>(item + i);
          const auto bounds =
              cost_bounds(metric_, products(q, i), query_norms[query], norms_[row], static_cast<double>(dimension_));
          // The filter is asked last: it costs more than the comparison, and most rows are too far anyway.
          if (bounds.lower <= shortlist.limit() && filter.matches(ids_[row], metadata_[row]))
            shortlist.add(row, bounds);
        }
      }
    }
    for (Eigen::Index q = 0; q < query_count; ++q) {
      const auto query = static_cast<std::size_t>(first + q);
      const float* values = queries.data() + (first + q) * queries.outerStride();
      Hits& hits = found[query];
      shortlists[static_cast<std::size_t>(q)].for_each([&](std::size_t row) {
        hits.push_back({ids_[row], cost(values, query_norms[query], row)});
      });
      const auto kept = hits.begin() + static_cast<std::ptrdiff_t>(std::min(wanted, hits.size()));
      std::partial_sort(hits.begin(), kept, hits.end(), [](const Hit& a, const Hit& b) {
        return a.score != b.score ? a.score < b.score : a.id < b.id;
      });
      hits.erase(kept, hits.end());
      if (metric_ != Metric::kL2)
        for (Hit& hit : hits) hit.score = -hit.score;
    }
  }
  return found;
}

std::vector<Hits> RetrievalIndex::search(const RowMatrixRef& queries, std::int64_t k, const Filter& filter) const {
  return search_all(queries, k, [&](std::size_t) -> const Filter& { return filter; });
}

std::vector<Hits> RetrievalIndex::search(const RowMatrixRef& queries, std::int64_t k,
                                         const std::vector<Filter>& filters) const {
  if (filters.size() != static_cast<std::size_t>(queries.rows()))
    fail(ErrorCode::kMismatch, "RetrievalIndex::search", "filters", detail::concat(queries.rows(), ", one a query"),
         filters.size());
  return search_all(queries, k, [&](std::size_t query) -> const Filter& { return filters[query]; });
}

}  // namespace daug
