#pragma once
/// @file
/// Exact nearest-neighbour search over embeddings, with ids, metadata, filters and a checked file format. No LibTorch.

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "daug/index/filter.h"

namespace daug {

/// How alike two vectors q and x are.
enum class Metric {
  kCosine,        ///< q.x / (|q| |x|) in [-1, 1]; larger is nearer
  kInnerProduct,  ///< q.x; larger is nearer
  kL2,            ///< |q - x|^2, the squared Euclidean distance; smaller is nearer
};

/// "cosine", "inner_product" or "l2".
const char* metric_name(Metric metric);

/// Vectors as rows, one after another in memory.
using RowMatrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
/// Rows handed in; a column-major or sliced matrix is accepted too (copied when its rows are not contiguous).
using RowMatrixRef = Eigen::Ref<const RowMatrix>;

/// One found item.
struct Hit {
  std::int64_t id = 0;  ///< as given to RetrievalIndex::add
  double score = 0;     ///< in the metric's own terms, see Metric
};

/// The found items of one query, nearest first; equal scores by ascending id.
using Hits = std::vector<Hit>;

/// A gallery of embeddings that answers "the k nearest items" exactly.
///
/// Scores are those of double arithmetic, summed in component order, on the stored floats; results depend on neither
/// batch size, insertion order, nor block sizes. Cost of a search: one float matrix product of queries and items, then
/// double arithmetic on the few items that rounding could have put in the wrong order (see retrieval_index.cpp).
///
/// Const members may run in parallel on one index. Every member that changes the index does all of its work or, when
/// it throws, none.
class RetrievalIndex {
 public:
  /// An empty index for vectors of `dimension` components, in [1, 2^20]. `fingerprint` tells what made the vectors
  /// (see Fingerprint); it is stored with the index and may be empty. Throws kInvalidArgument.
  RetrievalIndex(std::int64_t dimension, Metric metric, std::string fingerprint = {});

  /// Adds one item a row of `vectors` [n, dimension]. `metadata` holds one entry an item, or nothing at all.
  ///
  /// Throws kMismatch when the sizes disagree, kInvalidArgument for an id that is there already or occurs twice, for a
  /// value that is not finite, and for a zero vector under kCosine.
  void add(const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
           const std::vector<Metadata>& metadata = {});

  /// Removes items; those left keep their order. Throws kNotFound for an id that is not there (or listed twice).
  void remove(const std::vector<std::int64_t>& ids);

  /// The k nearest matching items of every row of `queries` [q, dimension]: exactly k of them, or all that match when
  /// fewer than k do.
  ///
  /// Throws kMismatch for another dimension, kInvalidArgument when k < 1, a value is not finite, or a query is zero
  /// under kCosine.
  std::vector<Hits> search(const RowMatrixRef& queries, std::int64_t k, const Filter& filter = {}) const;

  /// The same with a filter for each query, e.g. Filter::exclude_patient of the query's own patient. Throws kMismatch
  /// also when there are not as many filters as queries.
  std::vector<Hits> search(const RowMatrixRef& queries, std::int64_t k, const std::vector<Filter>& filters) const;

  /// Number of items, components a vector, and how alikeness is measured.
  std::int64_t size() const { return static_cast<std::int64_t>(ids_.size()); }
  std::int64_t dimension() const { return dimension_; }
  Metric metric() const { return metric_; }

  /// All ids, in the order of insertion.
  const std::vector<std::int64_t>& ids() const { return ids_; }
  /// Whether an item has this id.
  bool contains(std::int64_t id) const { return row_of_.count(id) != 0; }
  /// The texts given with an item. Throws kNotFound.
  const Metadata& metadata(std::int64_t id) const;
  /// The vector as it was added. Throws kNotFound.
  Eigen::RowVectorXf vector(std::int64_t id) const;

  /// What made the vectors, as given to the constructor.
  const std::string& fingerprint() const { return fingerprint_; }
  /// Throws kMismatch unless the index was made by the encoder with this fingerprint: scores between embeddings of two
  /// encoders mean nothing.
  void require_fingerprint(const std::string& expected) const;

  /// Writes everything to one file, atomically. Throws kIo.
  void save(const std::string& path) const;
  /// Reads a file that `save` wrote. Throws kNotFound, kIo, or kFormat naming the damaged part (magic, version, length,
  /// or the section whose checksum differs).
  static RetrievalIndex load(const std::string& path);
  /// The same from memory; `name` is used in messages.
  static RetrievalIndex parse(const void* data, std::size_t size, const std::string& name);

 private:
  using ConstRows = Eigen::Map<const RowMatrix>;

  ConstRows rows() const { return ConstRows(values_.data(), size(), dimension_); }
  std::size_t row_of(std::int64_t id, const char* function) const;
  std::vector<double> checked_norms(const RowMatrixRef& vectors, const char* function, const char* argument) const;
  double cost(const float* query, double query_norm, std::size_t row) const;
  template <class FilterOf>
  std::vector<Hits> search_all(const RowMatrixRef& queries, std::int64_t k, FilterOf filter_of) const;
  void truncate(std::size_t count) noexcept;

  std::int64_t dimension_;
  Metric metric_;
  std::string fingerprint_;
  std::vector<float> values_;  ///< [size, dimension] row-major
  std::vector<double> norms_;
  std::vector<std::int64_t> ids_;
  std::vector<Metadata> metadata_;
  std::unordered_map<std::int64_t, std::size_t> row_of_;
};

}  // namespace daug
