#include "daug/index/export.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>

#include "daug/core/error.h"
#include "daug/io/file.h"

namespace daug {
namespace {

/// Header of a `.npy` file, version 1.0: as long as a multiple of 64 says.
std::string npy_header(const std::string& type, const std::string& shape) {
  constexpr std::string_view kStart("\x93NUMPY\x01\x00", 8);
  std::string text = "{'descr': '" + type + "', 'fortran_order': False, 'shape': (" + shape + "), }";
  while ((kStart.size() + 2 + text.size() + 1) % 64 != 0) text += ' ';
  text += '\n';
  std::string header(kStart);
  header += static_cast<char>(text.size() % 256);
  header += static_cast<char>(text.size() / 256);
  return header + text;
}

/// For the text format of COPY.
std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c == '\\') result += '\\';
    result += c;
  }
  return result;
}

std::string json_of(const Metadata& metadata, std::int64_t id) {
  constexpr const char* kExport = "export_postgres";
  nlohmann::json object = nlohmann::json::object();
  for (const auto& [name, value] : metadata) {
    if (name.find('\0') != name.npos || value.find('\0') != value.npos)
      fail(ErrorCode::kInvalidArgument, kExport, detail::concat("metadata of ", id), "texts without zero bytes", "one");
    object[name] = value;
  }
  try {
    return object.dump();
  } catch (const nlohmann::json::type_error&) {
    fail(ErrorCode::kInvalidArgument, kExport, detail::concat("metadata of ", id), "UTF-8", "other bytes");
  }
}

/// Components that pgvector's `vector` takes.
constexpr std::int64_t kLargestVector = 16'000;

std::string array_of(const Eigen::RowVectorXf& vector) {
  std::string text = "{";
  std::array<char, 32> number;
  for (const float value : vector) {
    if (text.size() > 1) text += ',';
    text.append(number.data(), std::to_chars(number.begin(), number.end(), value).ptr);  // reads back as the same float
  }
  return text + "}";
}

/// The two ways of scoring `embedding` against `query`, larger or, for L2, smaller being nearer.
struct Scores {
  const char* vector;
  const char* array;
};
Scores scores_of(Metric metric) {
  switch (metric) {
    case Metric::kCosine:
      return {"1 - (embedding <=> query::vector)", "sum(x * y) / sqrt(sum(x * x) * sum(y * y))"};
    case Metric::kInnerProduct:
      return {"-(embedding <#> query::vector)", "sum(x * y)"};
    case Metric::kL2:
      return {"(embedding <-> query::vector) ^ 2", "sum((x - y) * (x - y))"};
  }
  return {};
}

}  // namespace

void export_npy(const RetrievalIndex& index, const std::string& prefix) {
  const RetrievalIndex moment = index;
  const auto ids = moment.ids();
  const std::string ids_path = prefix + ".ids.npy";
  // Two files cannot be replaced at one moment: while the vectors are, there are no ids that could be another export's.
  std::error_code error;
  std::filesystem::remove(ids_path, error);
  if (error) fail(ErrorCode::kIo, "export_npy", ids_path, "a file that can be replaced", error.message());
  write_file_atomically(prefix + ".npy", [&](const ByteSink& sink) {
    const auto header = npy_header("<f4", detail::concat(ids.size(), ", ", moment.dimension()));
    sink(header.data(), header.size());
    for (const auto id : ids) {
      const auto vector = moment.vector(id);
      sink(vector.data(), static_cast<std::size_t>(vector.size()) * sizeof(float));
    }
  });
  write_file_atomically(ids_path, [&](const ByteSink& sink) {
    const auto header = npy_header("<i8", detail::concat(ids.size(), ","));
    sink(header.data(), header.size());
    sink(ids.data(), ids.size() * sizeof(std::int64_t));
  });
}

void PostgresOptions::validate() const {
  const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'; };
  const bool good = !table.empty() && table.size() <= 48 && std::all_of(table.begin(), table.end(), plain) &&
                    !(table[0] >= '0' && table[0] <= '9');
  require(good, "PostgresOptions", "table", "1 to 48 lower-case letters, digits and _, the first no digit",
          "'" + table + "'");
}

void export_postgres(const RetrievalIndex& index, const std::string& path, const PostgresOptions& options) {
  options.validate();
  const RetrievalIndex moment = index;
  const auto scores = scores_of(moment.metric());
  const char* const order = moment.metric() == Metric::kL2 ? "" : " DESC";
  const std::string& table = options.table;
  const auto text = [&](const auto&... parts) { return detail::concat(parts...); };
  const auto nearest = [&](const std::string& score) {
    return text("CREATE FUNCTION ", table, "_nearest(query real[], k integer)\n",
                "  RETURNS TABLE (id bigint, score double precision) LANGUAGE sql STABLE AS $$\n", "    SELECT id, (",
                score, ")::double precision AS score FROM ", table, "\n    ORDER BY score", order,
                ", id LIMIT k\n  $$;\n");
  };
  // Whether pgvector can be used shows when it is tried: it may be absent, or this user not be allowed to add it.
  const bool fits = moment.dimension() <= kLargestVector;
  const std::string choice = fits ? "DO $$ BEGIN CREATE EXTENSION IF NOT EXISTS vector; EXCEPTION WHEN OTHERS THEN\n"
                                    "  RAISE NOTICE 'without pgvector: %', SQLERRM; END $$;\n"
                                    "SELECT to_regtype('vector') IS NOT NULL AS has_vector \\gset\n"
                                  : "\\set has_vector false\n";
  // Names of columns and of the function's results are the same; the table's win inside of the function.
  const std::string start =
      text("\\set ON_ERROR_STOP on\n", "BEGIN;\n", "SET LOCAL client_encoding = 'UTF8';\n", choice,
           "CREATE TEMPORARY TABLE daug_import (id bigint, embedding real[], metadata jsonb) ON COMMIT DROP;\n",
           "COPY daug_import FROM stdin;\n");
  const std::string end =
      text("\\.\n", "\\if :has_vector\n", "CREATE TABLE ", table, " (id bigint PRIMARY KEY, embedding vector(",
           moment.dimension(), ") NOT NULL, metadata jsonb NOT NULL);\n", "INSERT INTO ", table,
           " SELECT id, embedding::vector, metadata FROM daug_import;\n", nearest(scores.vector), "\\else\n",
           "CREATE TABLE ", table,
           " (id bigint PRIMARY KEY, embedding real[] NOT NULL CHECK (cardinality(embedding) = ", moment.dimension(),
           "), metadata jsonb NOT NULL);\n", "INSERT INTO ", table, " SELECT * FROM daug_import;\n",
           nearest(text("SELECT ", scores.array,
                        " FROM unnest(embedding::double precision[], query::double precision[]) AS pair(x, y)")),
           "\\endif\n", "COMMIT;\n");
  write_file_atomically(path, [&](const ByteSink& sink) {
    sink(start.data(), start.size());
    for (const auto id : moment.ids()) {
      const auto line =
          text(id, '\t', array_of(moment.vector(id)), '\t', escaped(json_of(moment.metadata(id), id)), '\n');
      sink(line.data(), line.size());
    }
    sink(end.data(), end.size());
  });
}

}  // namespace daug
