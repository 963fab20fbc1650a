#pragma once
/// @file
/// An index for programs that people already run: NumPy, FAISS and usearch through `.npy`, PostgreSQL with or without
/// pgvector. (For hnswlib see RetrievalIndex::export_hnswlib.)

#include <string>

#include "daug/index/retrieval_index.h"

namespace daug {

/// Writes `prefix + ".npy"`, the vectors as they were added (float32 [n, D]), and `prefix + ".ids.npy"`, their ids
/// (int64 [n]), in the order of RetrievalIndex::ids. Each file is written atomically, and old ids go before the vectors
/// come: whatever happens, two files that are there belong together. Throws kIo.
void export_npy(const RetrievalIndex& index, const std::string& prefix);

/// What an SQL script makes.
struct PostgresOptions {
  std::string table = "daug_items";  ///< 1 to 48 lower-case letters, digits and _, the first no digit

  /// Throws kInvalidArgument.
  void validate() const;
};

/// Writes an SQL script for psql (`psql -v ON_ERROR_STOP=1 -f path`) that makes, in one transaction, a table of all
/// items
///     id bigint primary key, embedding, metadata jsonb
/// from COPY data in the script, and a function TABLE_nearest(query real[], k integer) of (id, score) in the index's
/// order. `embedding` is pgvector's `vector` (up to 16000 components, float32 arithmetic) where the server has that
/// extension or lets this user add it, else `real[]`, searched by plain SQL in double; psql says why. The script is
/// written atomically.
///
/// Throws kInvalidArgument for metadata that is not UTF-8 or holds a zero byte, which PostgreSQL cannot store; kIo.
void export_postgres(const RetrievalIndex& index, const std::string& path, const PostgresOptions& options = {});

}  // namespace daug
