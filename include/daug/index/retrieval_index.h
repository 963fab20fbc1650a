#pragma once
/// @file
/// Exact and approximate nearest-neighbour search over embeddings, with ids, metadata, filters and a checked file
/// format. No LibTorch.

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
class IndexState;
class Snapshot;
struct IndexSettings;
}  // namespace detail

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

/// What RetrievalIndex::verify looked at.
struct IndexCheck {
  std::int64_t items = 0;   ///< how many there are
  std::int64_t chunks = 0;  ///< pieces that the items are kept in
  double recall = 1;        ///< share of the ten nearest that searches found, over the sample; 1 without
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
/// Any number of threads may call const members while others call `add`, `add_named`, `update`, `remove` and `compact`:
/// each call sees the items as they were at one moment between changes, for as long as it runs, and waits for nobody.
/// Changes wait for each other. A copy costs next to nothing and keeps the items of its moment, which is how several
/// calls see the same ones; afterwards both are changed separately. Assigning to, moving and destroying an index are
/// for one thread alone.
///
/// Every member that changes the index does all of its work or, when it throws, none. A moved-from index may only be
/// assigned to or destroyed.
class RetrievalIndex {
 public:
  /// An empty index for vectors of `dimension` components, in [1, 2^20]. `fingerprint` tells what made the vectors
  /// (see Fingerprint); it is stored with the index and may be empty. Searches compare it with what their caller says
  /// made the queries, and only if the caller does (SearchOptions::fingerprint). Throws kInvalidArgument.
  RetrievalIndex(std::int64_t dimension, Metric metric, std::string fingerprint = {}, const IndexOptions& options = {});
  /// Copies cost next to nothing; see above.
  RetrievalIndex(const RetrievalIndex& other);
  /// Takes the other's items.
  RetrievalIndex(RetrievalIndex&& other) noexcept;
  /// A copy in place of what was there.
  RetrievalIndex& operator=(const RetrievalIndex& other);
  /// The other's items in place of what was there.
  RetrievalIndex& operator=(RetrievalIndex&& other) noexcept;
  /// Copies keep their items.
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
  std::string name(std::int64_t id) const;

  /// Replaces the vectors of items that are there, and their metadata unless `metadata` is empty.
  /// Throws what `add` throws for values and sizes, kNotFound for an id that is not there, kInvalidArgument for one
  /// that occurs twice.
  void update(const std::vector<std::int64_t>& ids, const RowMatrixRef& vectors,
              const std::vector<Metadata>& metadata = {});

  /// Removes items. Throws kNotFound for an id that is not there (or listed twice).
  void remove(const std::vector<std::int64_t>& ids);

  /// Gives all memory back that removals and updates left unused (by themselves they leave at most half of it), and
  /// puts together what was added in small pieces.
  void compact();

  /// Builds a graph of the items for approximate searches (SearchOptions::breadth), beside or in place of an earlier
  /// one; others may search and change meanwhile. Items that are added or updated later are searched exactly besides it
  /// and removed ones are left out, so it stays right but grows slower; build it again now and then. Graphs are not
  /// saved. With several threads two builds may differ. Throws kInvalidArgument, also for an empty index, and
  /// kUnsupported when there is too little memory.
  void build_graph(const GraphOptions& options = {});

  /// The k nearest matching items of every row of `queries` [q, dimension]: exactly k of them, or all that match when
  /// fewer than k do. With `options.breadth` other than 0 some of the k nearest may be missed and farther items stand
  /// in their place: still exactly k of them, scored and ordered like all others. Under a filter the search is as much
  /// broader as fewer items match, and goes on until half as many as the breadth do. Filters that let less than about
  /// an eighth of the items through, and queries for which that would take more than an eighth of them or the graph
  /// yields fewer than k, are answered exactly.
  ///
  /// Throws kMismatch for another dimension and for queries of another encoder (SearchOptions::fingerprint),
  /// kInvalidArgument unless 1 <= k <= size() and every value is finite, when a query is zero under kCosine, and for an
  /// approximate search without a graph, kNotFound for a filter on a name that no item ever had.
  std::vector<Hits> search(const RowMatrixRef& queries, std::int64_t k, const Filter& filter = {},
                           const SearchOptions& options = {}) const;
  /// The same without a filter.
  std::vector<Hits> search(const RowMatrixRef& queries, std::int64_t k, const SearchOptions& options) const {
    return search(queries, k, Filter(), options);
  }

  /// The same with a filter for each query, e.g. Filter::exclude_patient of the query's own patient. Throws kMismatch
  /// also when there are not as many filters as queries.
  std::vector<Hits> search(const RowMatrixRef& queries, std::int64_t k, const std::vector<Filter>& filters,
                           const SearchOptions& options = {}) const;

  /// All matching items that score at least `score` (under kL2: at most), nearest first. Throws what `search` throws,
  /// and kInvalidArgument for a score that is not finite. Exact, whatever options.breadth.
  std::vector<Hits> search_range(const RowMatrixRef& queries, double score, const Filter& filter = {},
                                 const SearchOptions& options = {}) const;

  /// Number of items, >= 0.
  std::int64_t size() const;
  /// Components of a vector.
  std::int64_t dimension() const;
  /// How alikeness is measured.
  Metric metric() const;
  /// How vectors are kept.
  const IndexOptions& options() const;

  /// All ids in the order in which they were added or last updated.
  std::vector<std::int64_t> ids() const;
  /// Whether an item has this id.
  bool contains(std::int64_t id) const;
  /// The texts given with an item. Throws kNotFound.
  Metadata metadata(std::int64_t id) const;
  /// The vector as it was added. Throws kNotFound.
  Eigen::RowVectorXf vector(std::int64_t id) const;

  /// What made the vectors, as given to the constructor.
  const std::string& fingerprint() const;
  /// Throws kMismatch unless the index was made by the encoder with this fingerprint: scores between embeddings of two
  /// encoders mean nothing.
  void require_fingerprint(const std::string& expected) const;

  /// Writes everything to one file, atomically (to a temporary that is flushed and renamed). Throws kIo, kFormat when
  /// the items come from a damaged file, and kBusy when the file has an IndexWriter, whose next folding would replace
  /// it.
  void save(const std::string& path) const;
  /// Opens a file that `save` wrote, with what an IndexWriter added to it. An addition that was not completed is left
  /// out; a file that was cut off anywhere, also between additions, is refused (IndexWriter::recover).
  ///
  /// The file says how long it is up to its last completed addition. Bytes behind that are what a crash leaves of an
  /// addition, and nobody can tell whether they are that or something else: they are never read, `verify` does not look
  /// at them, and the next IndexWriter cuts them off. Bytes that were put in anywhere else are refused as damage.
  ///
  /// The file is mapped: opening takes milliseconds at any size, for only the header and the additions, of which a
  /// closed writer leaves few (IndexWriter::kJournalLimit), are read and checked. Everything else is checked, block by
  /// block, before it is first used, so every member may throw kFormat naming the damaged part; `verify` checks all at
  /// once. Replacing the file while it is open is harmless, and so is a writer; cutting its items short in place is not
  /// (see MappedFile).
  ///
  /// Throws kNotFound, kIo, kFormat (magic, version, length, checksum or contents of the header or of an addition).
  static RetrievalIndex load(const std::string& path);
  /// The same under other options: when its storage is not that of the file, everything is read and coded anew.
  static RetrievalIndex load(const std::string& path, const IndexOptions& options);
  /// The same from memory, which is copied; `name` is used in messages.
  static RetrievalIndex parse(const void* data, std::size_t size, const std::string& name);

  /// Checks every byte and that all of it makes sense: values are finite, norms, codes and bounds are those of the
  /// vectors, ids differ. Throws kFormat naming what is not so.
  ///
  /// With `sample` above 0 also measures `recall`: as many stored vectors, evenly spread, are searched for under
  /// `options`; what finds itself does not count. An approximate search is measured against exact ones, an exact one
  /// against the scores of all items, one by one.
  IndexCheck verify(std::int64_t sample = 0, const SearchOptions& options = {}) const;

  /// Writes the graph as hnswlib's own file, labels being ids and vectors under cosine scaled to length 1: its `ip`
  /// space for cosine and inner product, `l2` for L2. Throws kIo, and kInvalidArgument without a graph.
  void export_hnswlib(const std::string& path) const;

 private:
  friend class DeviceSearch;
  friend class IndexWriter;
  explicit RetrievalIndex(std::shared_ptr<const detail::Snapshot> snapshot);
  const detail::IndexSettings& settings() const;

  std::unique_ptr<detail::IndexState> state_;
};

}  // namespace daug
