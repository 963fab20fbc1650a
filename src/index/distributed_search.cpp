#include "daug/index/distributed_search.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <exception>
#include <string>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "daug/core/error.h"
#include "daug/index/shards.h"
#include "daug/io/fingerprint.h"

namespace daug {
namespace {

constexpr const char* kFunction = "daug::distributed_search";
using Numbers = std::vector<std::int64_t>;

/// The numbers of every rank, as many on each.
std::vector<Numbers> gather(const Numbers& mine, c10d::ProcessGroup& group) {
  std::vector<at::Tensor> inputs = {at::tensor(mine, at::kLong)};
  std::vector<std::vector<at::Tensor>> outputs(1);
  for (int rank = 0; rank < group.getSize(); ++rank) outputs[0].push_back(at::empty_like(inputs[0]));
  try {
    group.allgather(outputs, inputs)->wait();
  } catch (const std::exception& error) {  // of LibTorch or of the backend
    fail(ErrorCode::kIo, kFunction, "group", "an exchange with all ranks", error.what());
  }
  std::vector<Numbers> all;
  for (const auto& tensor : outputs[0]) {
    const auto* first = tensor.const_data_ptr<std::int64_t>();
    all.emplace_back(first, first + tensor.numel());
  }
  return all;
}

/// A hash of everything that must be the same on all ranks.
std::int64_t question(const RetrievalIndex& shard, const RowMatrixRef& queries, std::int64_t k, const Filter& filter,
                      const SearchOptions& options) {
  Fingerprint hash;
  hash.add("dimension", shard.dimension()).add("metric", metric_name(shard.metric()));
  hash.add("fingerprint", shard.fingerprint()).add("k", k);
  const RowMatrix rows = queries;
  hash.add("queries", queries.rows()).add("columns", queries.cols());
  hash.add_bytes("values", rows.data(), static_cast<std::size_t>(rows.size()) * sizeof(float));
  hash.add("filter", filter.text()).add("breadth", options.breadth);
  const std::string text = hash.hex();
  return static_cast<std::int64_t>(checksum64(text.data(), text.size()));
}

/// Whether an item of this shard ever had a metadata of this name.
bool knows(const RetrievalIndex& shard, const RowMatrixRef& queries, const std::string& field) {
  try {
    (void)shard.search(queries.topRows(1), 1, Filter::equals(field, ""));
    return true;
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kNotFound) return false;
    throw;
  }
}

/// What one rank found.
struct Found {
  std::vector<Hits> hits;
  std::vector<bool> known;  ///< by field of the filter
};

Found search_here(const RetrievalIndex& shard, const RowMatrixRef& queries, std::int64_t k, const Filter& filter,
                  const SearchOptions& options) {
  if (!options.fingerprint.empty()) shard.require_fingerprint(options.fingerprint);  // of an empty shard as well
  const auto fields = filter.fields();
  Found found{std::vector<Hits>(static_cast<std::size_t>(queries.rows())),
              std::vector<bool>(fields.size(), shard.size() > 0 || queries.rows() == 0)};
  if (shard.size() == 0 || queries.rows() == 0) return found;
  const std::int64_t count = std::min(k, shard.size());
  try {
    found.hits = shard.search(queries, count, filter, options);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNotFound) throw;
    // A name that no item here has may be another shard's. A predicate may ask for any.
    for (std::size_t i = 0; i < fields.size(); ++i) found.known[i] = knows(shard, queries, fields[i]);
    const Filter any([filter](std::int64_t id, const Metadata& metadata) { return filter.matches(id, metadata); });
    found.hits = shard.search(queries, count, any, options);
  }
  return found;
}

}  // namespace

std::vector<Hits> distributed_search(const RetrievalIndex& shard, const RowMatrixRef& queries, std::int64_t k,
                                     c10d::ProcessGroup& group, const Filter& filter, const SearchOptions& options) {
  const RetrievalIndex here = shard;  // as it is now
  Found found;
  std::exception_ptr refused;
  try {
    require(k >= 1, kFunction, "k", "at least 1", k);
    found = search_here(here, queries, k, filter, options);
  } catch (...) {
    refused = std::current_exception();
  }
  // Every rank learns how the others fare before any waits for hits: an error here is an error everywhere.
  enum Column { kItems, kQuestion, kRefused };
  const auto ranks = gather({here.size(), question(here, queries, k, filter, options), refused ? 1 : 0}, group);
  if (refused) std::rethrow_exception(refused);
  std::int64_t items = 0;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    items += ranks[rank][kItems];
    const std::string name = detail::concat("rank ", rank);
    if (ranks[rank][kRefused] != 0)
      fail(ErrorCode::kMismatch, kFunction, name, "a search that succeeds", "an error there");
    if (ranks[rank][kQuestion] != ranks[0][kQuestion])
      fail(ErrorCode::kMismatch, kFunction, name,
           "the dimension, metric, fingerprint, queries, k, filter and breadth of rank 0", "others");
  }
  if (found.hits.empty()) return {};
  require(k <= items, kFunction, "k", detail::concat("at most the ", items, " items of all ranks"), k);

  // A query's hits as their number, ids and scores, filled up to k; then the known fields.
  const auto width = static_cast<std::size_t>(1 + 2 * k);
  Numbers mine(found.hits.size() * width, 0);
  for (std::size_t query = 0; query < found.hits.size(); ++query) {
    std::int64_t* row = mine.data() + query * width;
    *row++ = static_cast<std::int64_t>(found.hits[query].size());
    for (const Hit& hit : found.hits[query]) {
      *row++ = hit.id;
      *row++ = std::bit_cast<std::int64_t>(hit.score);
    }
  }
  mine.insert(mine.end(), found.known.begin(), found.known.end());
  const auto all = gather(mine, group);
  std::vector<std::vector<Hits>> shards(all.size(), std::vector<Hits>(found.hits.size()));
  for (std::size_t rank = 0; rank < all.size(); ++rank)
    for (std::size_t query = 0; query < found.hits.size(); ++query) {
      const std::int64_t* row = all[rank].data() + query * width;
      for (std::int64_t i = 0; i < *row; ++i)
        shards[rank][query].push_back({row[1 + 2 * i], std::bit_cast<double>(row[2 + 2 * i])});
    }
  const auto fields = filter.fields();
  for (std::size_t field = 0; field < fields.size(); ++field)
    if (std::none_of(all.begin(), all.end(),
                     [&](const Numbers& of) { return of[of.size() - fields.size() + field] != 0; }))
      fail(ErrorCode::kNotFound, kFunction, "filter", "metadata that an item of some rank has had", fields[field]);
  return merge_hits(shards, k, here.metric());
}

}  // namespace daug
