#pragma once
/// @file
/// Exact nearest-neighbour search over embeddings, with ids, metadata, filters and a checked file format. No LibTorch.

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daug/index/filter.h"
#include "daug/index/search_options.h"

namespace daug {

namespace detail {
struct IndexState;
}

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
/// Scores are those of double arithmetic, summed in component order, on the vectors as they were added. Results depend
/// on neither storage, batch size, threads, insertion order, nor processor: a search reads a reduced copy of the
/// vectors (IndexOptions::storage), whose error is bounded for every item, and scores again in double whatever the
/// bounds leave open. That bound is the certificate that nothing was missed; SearchStats counts what it cost.
///
/// Const members may run in parallel on one index. Every member that changes the index does all of its work or, when
/// it throws, none. A moved-from index may only be assigned to or destroyed.
class RetrievalIndex {
 public:
  /// An empty index for vectors of `dimension` components, in [1, 2^20]. `fingerprint` tells what made the vectors
  /// (see Fingerprint); it is stored with the index and may be empty. Throws kInvalidArgument.
  RetrievalIndex(std::int64_t dimension, Metric metric, std::string fingerprint = {}, const IndexOptions& options = {});
  RetrievalIndex(const RetrievalIndex& other);
  RetrievalIndex(RetrievalIndex&& other) noexcept;
  RetrievalIndex& operator=(const RetrievalIndex& other);
  RetrievalIndex& operator=(RetrievalIndex&& other) noexcept;
  ~RetrievalIndex();

  /// Adds one item a row of `vectors` [n, dimension]. `metadata` holds one entry an item, or nothing at all.
  ///
  /// Throws kMismatch when the sizes disagree, kInvalidArgument for an id that is there already or occurs twice, for a
  /// value that is not finite, and for a zero vector under kCosine.
  void add(const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
           const std::vector<Metadata>& metadata = {});

  /// The same with texts for ids: the item's id is id_of(name), and its metadata has the name under "name". Throws
  /// kInvalidArgument also when an entry of `metadata` has another "name".
  void add_named(const std::vector<std::string>& names, const RowMatrixRef& vectors,
                 const std::vector<Metadata>& metadata = {});

  /// The 64-bit id that stands for a text: its XXH3 hash, so that it depends on the text alone. Two texts of one hash
  /// (one pair in 4e9 texts is expected) cannot be in one index: adding the second is refused as a duplicate.
  static std::int64_t id_of(const std::string& name);
  /// The text an item was added under. Throws kNotFound when there is no such item or it has no name.
  const std::string& name(std::int64_t id) const;

  /// Replaces the vectors of items that are there, and their metadata unless `metadata` is empty; ids keep their place.
  /// Throws what `add` throws for values and sizes, kNotFound for an id that is not there, kInvalidArgument for one
  /// that occurs twice.
  void update(const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
              const std::vector<Metadata>& metadata = {});

  /// Removes items; those left keep their order. Throws kNotFound for an id that is not there (or listed twice).
  void remove(const std::vector<std::int64_t>& ids);

  /// Gives memory back that removals left unused.
  void compact();

  /// The k nearest matching items of every row of `queries` [q, dimension]: exactly k of them, or all that match when
  /// fewer than k do.
  ///
  /// Throws kMismatch for another dimension, kInvalidArgument unless 1 <= k <= size() and every value is finite, or
  /// when a query is zero under kCosine, and kNotFound for a filter on a name that no item ever had.
  std::vector<Hits> search(const RowMatrixRef& queries, std::int64_t k, const Filter& filter = {},
                           const SearchOptions& options = {}) const;
  std::vector<Hits> search(const RowMatrixRef& queries, std::int64_t k, const SearchOptions& options) const {
    return search(queries, k, Filter(), options);
  }

  /// The same with a filter for each query, e.g. Filter::exclude_patient of the query's own patient. Throws kMismatch
  /// also when there are not as many filters as queries.
  std::vector<Hits> search(const RowMatrixRef& queries, std::int64_t k, const std::vector<Filter>& filters,
                           const SearchOptions& options = {}) const;

  /// All matching items that score at least `score` (under kL2: at most), nearest first. Throws what `search` throws,
  /// and kInvalidArgument for a score that is not finite.
  std::vector<Hits> search_range(const RowMatrixRef& queries, double score, const Filter& filter = {},
                                 const SearchOptions& options = {}) const;

  /// Number of items, components a vector, how alikeness is measured, and how vectors are kept.
  std::int64_t size() const { return static_cast<std::int64_t>(ids().size()); }
  std::int64_t dimension() const;
  Metric metric() const;
  const IndexOptions& options() const;

  /// All ids, in the order of insertion.
  const std::vector<std::int64_t>& ids() const;
  /// Whether an item has this id.
  bool contains(std::int64_t id) const;
  /// The texts given with an item. Throws kNotFound.
  const Metadata& metadata(std::int64_t id) const;
  /// The vector as it was added. Throws kNotFound.
  Eigen::RowVectorXf vector(std::int64_t id) const;

  /// What made the vectors, as given to the constructor.
  const std::string& fingerprint() const;
  /// Throws kMismatch unless the index was made by the encoder with this fingerprint: scores between embeddings of two
  /// encoders mean nothing.
  void require_fingerprint(const std::string& expected) const;

  /// Writes everything but the options to one file, atomically. Throws kIo.
  void save(const std::string& path) const;
  /// Reads a file that `save` wrote. Throws kNotFound, kIo, or kFormat naming the damaged part (magic, version, length,
  /// or the section whose checksum differs).
  static RetrievalIndex load(const std::string& path, const IndexOptions& options = {});
  /// The same from memory; `name` is used in messages.
  static RetrievalIndex parse(const void* data, std::size_t size, const std::string& name,
                              const IndexOptions& options = {});

 private:
  std::unique_ptr<detail::IndexState> state_;
};

}  // namespace daug
