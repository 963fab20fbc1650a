// What other programs read. PostgreSQL and NumPy themselves are asked where they are installed.

#include "daug/index/export.h"

#include <hnswlib/hnswlib.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "brute_force.h"
#include "daug/core/random.h"
#include "daug/index/shards.h"
#include "daug/io/file.h"
#include "daug/io/npy.h"
#include "support/caught.h"
#include "support/full_disk.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;

namespace {

RetrievalIndex sample_index(Metric metric, Eigen::Index dimension = 7) {
  RandomStream random(51, 0, "export");
  RetrievalIndex index(dimension, metric);
  std::vector<Metadata> metadata(40);
  metadata[3] = {{"note", "tab\t, line\n, back\\slash, \"quote\", \\. and Ümlaut"}, {"patient", "p1"}};
  metadata[4] = {{"note", ""}};
  index.add(shuffled_ids(random, 40), random_rows(random, Kind::kGaussian, 40, dimension), metadata);
  index.remove({index.ids()[10]});
  return index;
}

/// What a command prints; empty when it fails.
std::string output_of(const std::string& command) {
  std::string text;
  FILE* pipe = ::popen((command + " 2>/dev/null").c_str(), "r");
  if (!pipe) return "";
  char buffer[4096];
  for (std::size_t size; (size = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) text.append(buffer, size);
  return ::pclose(pipe) == 0 ? text : "";
}

/// A PostgreSQL server of its own, listening on a socket in a folder: of the programs in DAUG_POSTGRES_BIN, else of
/// Debian's newest.
class Server {
 public:
  explicit Server(const Scratch& scratch) : folder_(scratch.folder()) {
    const char* named = std::getenv("DAUG_POSTGRES_BIN");
    std::stringstream(named && *named ? named : output_of("ls -d /usr/lib/postgresql/*/bin | tail -n 1")) >> binaries_;
    if (binaries_.empty() || output_of("command -v " + binaries_ + "/psql").empty()) return;
    std::filesystem::permissions(folder_, std::filesystem::perms::all);
    // The server refuses to run as root.
    if (::geteuid() == 0) as_ = "runuser -u postgres -- ";
    const auto data = folder_ + "/data";
    running_ = run(binaries_ + "/initdb -D " + data + " -U daug -A trust -E UTF8 --no-sync") &&
               run(binaries_ + "/pg_ctl -D " + data + " -w -l " + folder_ + "/log -o \"-k " + folder_ +
                   " -c listen_addresses='' -c fsync=off\" start");
  }
  ~Server() {
    if (running_) (void)run(binaries_ + "/pg_ctl -D " + folder_ + "/data -w -m immediate stop");
    if (!as_.empty()) (void)run("rm -rf " + folder_ + "/data " + folder_ + "/log");
  }
  /// Whether there is a server to ask. One that DAUG_POSTGRES_BIN names has to run.
  bool running() const {
    if (running_) return true;
    const char* named = std::getenv("DAUG_POSTGRES_BIN");
    if (named && *named) FAIL("DAUG_POSTGRES_BIN: no server starts: " << as_ << binaries_ << "/initdb");
    std::cout << "postgres: skipped (" << (binaries_.empty() ? "no server installed" : "no server starts") << ")\n";
    return false;
  }
  bool script(const std::string& path, const std::string& user = "daug") const {
    // Whatever texts the user's programs are in, the script's are UTF-8.
    return std::system(("PGCLIENTENCODING=LATIN1 " + psql(user) + "-q -f " + path + " >/dev/null").c_str()) == 0;
  }
  std::string ask(const std::string& sql) const { return output_of(psql() + "-tA -c \"" + sql + "\""); }

 private:
  bool run(const std::string& command) const { return std::system((as_ + command + " >/dev/null 2>&1").c_str()) == 0; }
  std::string psql(const std::string& user = "daug") const {
    return binaries_ + "/psql -h " + folder_ + " -U " + user + " -d postgres -v ON_ERROR_STOP=1 ";
  }

  std::string folder_;
  std::string binaries_;
  std::string as_;
  bool running_ = false;
};

}  // namespace

TEST_CASE("vectors and ids are exported as arrays of NumPy", "[index]") {
  const Scratch scratch;
  const auto index = sample_index(Metric::kL2);
  export_npy(index, scratch.path("a"));
  const auto vectors = read_npy(scratch.path("a.npy"));
  REQUIRE(vectors.shape == std::vector<std::int64_t>{39, 7});
  const auto ids = read_text_file(scratch.path("a.ids.npy"));
  // numpy.lib.format 1.0: magic, version, length of the header, the header, then the values.
  const std::string text = "{'descr': '<i8', 'fortran_order': False, 'shape': (39,), }";
  REQUIRE(ids.substr(0, 8) == std::string("\x93NUMPY\x01\x00", 8));
  const auto length =
      static_cast<std::size_t>(static_cast<unsigned char>(ids[8])) + 256U * static_cast<unsigned char>(ids[9]);
  REQUIRE((10 + length) % 64 == 0);
  REQUIRE(ids.substr(10, text.size()) == text);
  REQUIRE(ids[10 + length - 1] == '\n');
  REQUIRE(ids.size() == 10 + length + 39 * 8);
  const auto expected = index.ids();
  CHECK(std::memcmp(ids.data() + 10 + length, expected.data(), 39 * 8) == 0);
  const auto bytes = read_text_file(scratch.path("a.npy"));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto vector = index.vector(expected[i]);
    CHECK(std::memcmp(bytes.data() + bytes.size() - (39 - i) * 28, vector.data(), 28) == 0);
  }
}

TEST_CASE("an export of arrays that fails leaves no ids of another", "[index]") {
  const Scratch scratch;
  const auto prefix = scratch.path("a");
  const auto before = sample_index(Metric::kL2, 1);
  RetrievalIndex after(1, Metric::kL2);
  after.add(before.ids(), RowMatrix::Constant(39, 1, 5));
  // Headers of 128 bytes; vectors of 156 and ids of 312.
  for (const rlim_t room : {200, 300, 500}) {
    export_npy(before, prefix);
    const auto vectors = read_file(prefix + ".npy");
    REQUIRE(read_file(prefix + ".ids.npy").size() == 440);
    {
      const FullDisk disk(room);
      if (room < 440) CHECK(caught([&] { export_npy(after, prefix); }).code() == ErrorCode::kIo);
      if (room > 440) CHECK_NOTHROW(export_npy(after, prefix));
    }
    CHECK((read_file(prefix + ".npy") == vectors) == (room < 284));
    CHECK(std::filesystem::exists(prefix + ".ids.npy") == (room > 440));
  }
}

TEST_CASE("NumPy, FAISS and usearch load exported arrays", "[.][numpy]") {
  const char* named = std::getenv("DAUG_PEERS_PYTHON");
  const std::string python = named && *named ? named : "python3";
  if (output_of(python + " -c 'import numpy; print(0)'") != "0\n") {
    std::cout << "numpy: skipped (" << python << " has none; DAUG_PEERS_PYTHON names another)\n";
    return;
  }
  const Scratch scratch;
  const auto index = sample_index(Metric::kL2);
  export_npy(index, scratch.path("a"));
  const auto script = scratch.put("load.py", R"(
import sys
import numpy
vectors = numpy.load(sys.argv[1] + ".npy")
ids = numpy.load(sys.argv[1] + ".ids.npy")
print(vectors.dtype.str, *vectors.shape, ids.dtype.str, *ids.shape)
for number, vector in zip(ids, vectors):
    print(number, *(float(value).hex() for value in vector))
query = numpy.linspace(-1, 2, vectors.shape[1], dtype="float32")
try:
    import faiss
except ImportError:
    pass
else:
    index = faiss.IndexIDMap(faiss.IndexFlatL2(vectors.shape[1]))
    index.add_with_ids(vectors, ids)
    faiss.write_index(index, sys.argv[1] + ".faiss")
    print("faiss", *faiss.read_index(sys.argv[1] + ".faiss").search(query[None], 5)[1][0])
try:
    from usearch.index import Index
except ImportError:
    pass
else:
    index = Index(ndim=vectors.shape[1], metric="l2sq", dtype="f32")
    index.add(ids.view("uint64"), vectors)
    index.save(sys.argv[1] + ".usearch")
    print("usearch", *Index.restore(sys.argv[1] + ".usearch").search(query, 5, exact=True).keys.astype("int64"))
)");
  std::istringstream lines(output_of(python + " " + script + " " + scratch.path("a")));
  std::string line;
  REQUIRE(std::getline(lines, line));
  CHECK(line == "<f4 39 7 <i8 39");
  for (const auto id : index.ids()) {
    REQUIRE(std::getline(lines, line));
    std::istringstream row(line);
    std::string text;
    REQUIRE(row >> text);
    CHECK(text == std::to_string(id));
    for (const float value : index.vector(id)) {
      REQUIRE(row >> text);
      CHECK(std::strtod(text.c_str(), nullptr) == static_cast<double>(value));
    }
    CHECK_FALSE(row >> text);
  }
  const RowMatrix query = Eigen::RowVectorXf::LinSpaced(7, -1, 2);
  std::string expected;
  const auto nearest = index.search(query, 5);
  for (const auto& hit : nearest[0]) expected += " " + std::to_string(hit.id);
  std::set<std::string> programs;
  while (std::getline(lines, line)) {
    const auto program = line.substr(0, line.find(' '));
    CHECK(line == program + expected);
    programs.insert(program);
  }
  for (const char* program : {"faiss", "usearch"})
    if (programs.count(program) == 0) std::cout << "numpy: without " << program << "\n";
}

TEST_CASE("what PostgreSQL cannot store is refused", "[index]") {
  const Scratch scratch;
  for (const std::string& text : {std::string("\xff"), std::string("a\0b", 3)}) {
    RetrievalIndex index(2, Metric::kL2);
    index.add({5}, RowMatrix::Ones(1, 2), {{{"note", text}}});
    check_refused(ErrorCode::kInvalidArgument, "metadata of 5", [&] { export_postgres(index, scratch.path("a.sql")); });
    CHECK(scratch.count() == 0);
  }
  for (const std::string& table :
       {std::string(), std::string("1a"), std::string("a; DROP TABLE b"), std::string(49, 'a')})
    CHECK(caught([&] { export_postgres(sample_index(Metric::kL2), scratch.path("a.sql"), {table}); }).code() ==
          ErrorCode::kInvalidArgument);
}

TEST_CASE("PostgreSQL finds what the index finds", "[.][postgres]") {
  const Scratch scratch;
  const Server server(scratch);
  if (!server.running()) return;
  const bool extension = server.ask("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'") == "1\n";
  std::cout << "postgres: " << (extension ? "with pgvector" : "plain arrays, no pgvector here") << "\n";
  for (const Metric metric : kMetrics) {
    const auto index = sample_index(metric);
    const std::string table = std::string("items_") + metric_name(metric);
    const auto path = scratch.path(table + ".sql");
    export_postgres(index, path, {table});
    REQUIRE(server.script(path));
    CHECK(server.ask("SELECT count(*) FROM " + table) == "39\n");
    CHECK(server.ask("SELECT count(*) FROM " + table +
                     " WHERE metadata->>'note' LIKE E'tab\\t, line\\n, back\\\\\\\\\\\\\\\\slash%'") == "1\n");
    CHECK(server.ask("SELECT count(*) FROM " + table + " WHERE metadata->>'note' LIKE '% Ümlaut'") == "1\n");
    const Eigen::RowVectorXf query = Eigen::RowVectorXf::LinSpaced(7, -1, 2);
    std::string array = "'{";
    for (const float value : query) array += (array.size() > 2 ? "," : "") + std::to_string(value);
    RowMatrix sent(1, 7);
    for (Eigen::Index i = 0; i < 7; ++i) sent(0, i) = std::stof(std::to_string(query[i]));
    std::istringstream rows(server.ask("SELECT id || ' ' || score FROM " + table + "_nearest(" + array + "}', 6)"));
    const auto found = index.search(sent, 6);
    for (const auto& hit : found[0]) {
      std::int64_t id = 0;
      double score = 0;
      REQUIRE(rows >> id >> score);
      CHECK(id == hit.id);
      CHECK(score == Approx(hit.score).epsilon(extension ? 1e-5 : 1e-12));
    }
  }
}

TEST_CASE("PostgreSQL takes what pgvector would not, and users who may add no extension", "[.][postgres]") {
  const Scratch scratch;
  const Server server(scratch);
  if (!server.running()) return;
  server.ask("CREATE ROLE guest LOGIN; GRANT CREATE ON SCHEMA public TO guest");
  const auto kind = [&](const std::string& table) {
    return server.ask("SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = '" + table +
                      "'::regclass AND attname = 'embedding'");
  };
  const auto nearest = [&](const std::string& table, std::int64_t dimension) {
    return server.ask("SELECT id FROM " + table + "_nearest(array_fill(1::real, ARRAY[" + std::to_string(dimension) +
                      "]), 2)");
  };
  for (const std::int64_t dimension : {3, 16'000, 16'001}) {
    RetrievalIndex index(dimension, Metric::kL2);
    RowMatrix vectors = RowMatrix::Constant(3, dimension, 1);
    vectors.row(0) *= 3;
    vectors.row(2) *= 2;
    index.add({7, -8, 9}, vectors);
    for (const std::string& user : {std::string("guest"), std::string("daug")}) {
      const std::string table = "wide_" + user + std::to_string(dimension);
      export_postgres(index, scratch.path(table + ".sql"), {table});
      INFO(table);
      REQUIRE(server.script(scratch.path(table + ".sql"), user));
      CHECK(nearest(table, dimension) == "-8\n9\n");
      if (dimension > 16'000) CHECK(kind(table) == "real[]\n");
    }
  }
}

TEST_CASE("hnswlib loads an exported graph and finds what the index finds", "[index]") {
  const Scratch scratch;
  constexpr Eigen::Index kItems = 300, kWidth = 9;
  for (const Metric metric : kMetrics) {
    RandomStream random(54, 0, "hnswlib");
    RetrievalIndex index(kWidth, metric);
    index.add(shuffled_ids(random, kItems), random_rows(random, Kind::kGaussian, kItems, kWidth));
    index.build_graph({.links = 8});
    const auto path = scratch.path(metric_name(metric));
    index.export_hnswlib(path);

    hnswlib::L2Space l2(kWidth);
    hnswlib::InnerProductSpace product(kWidth);
    hnswlib::SpaceInterface<float>* space = &l2;
    if (metric != Metric::kL2) space = &product;
    hnswlib::HierarchicalNSW<float> loaded(space, path);
    REQUIRE(loaded.cur_element_count == static_cast<std::size_t>(kItems));
    loaded.setEf(static_cast<std::size_t>(kItems));  // looks at everything that can be reached
    const RowMatrix queries = random_rows(random, Kind::kGaussian, 20, kWidth);
    const auto expected = index.search(queries, 10);
    for (Eigen::Index q = 0; q < queries.rows(); ++q) {
      const Eigen::RowVectorXf query =
          metric == Metric::kCosine ? queries.row(q).normalized().eval() : queries.row(q).eval();
      auto found = loaded.searchKnn(query.data(), 10);
      REQUIRE(found.size() == 10);
      for (std::size_t rank = 10; rank-- > 0; found.pop()) {  // farthest first
        const Hit& hit = expected[static_cast<std::size_t>(q)][rank];
        CHECK(static_cast<std::int64_t>(found.top().second) == hit.id);
        const double distance = metric == Metric::kL2 ? hit.score : 1 - hit.score;
        CHECK(static_cast<double>(found.top().first) == Approx(distance).margin(1e-4));
      }
    }
    // The vectors are those that were added, under cosine scaled to length 1.
    for (const auto id : index.ids()) {
      const auto vector = loaded.getDataByLabel<float>(static_cast<hnswlib::labeltype>(id));
      Eigen::RowVectorXf added = index.vector(id);
      if (metric == Metric::kCosine) added.normalize();
      CHECK(Eigen::Map<const Eigen::RowVectorXf>(vector.data(), kWidth).isApprox(added, 1e-6F));
    }
  }
  RetrievalIndex without(2, Metric::kL2);
  without.add({1}, RowMatrix::Ones(1, 2));
  CHECK(caught([&] { without.export_hnswlib(scratch.path("none")); }).code() == ErrorCode::kInvalidArgument);
  without.build_graph();
  CHECK(caught([&] { without.export_hnswlib("/nonexistent/file"); }).code() == ErrorCode::kIo);
}

TEST_CASE("shards merged are one index", "[index]") {
  for (std::uint64_t item = 0; item < 30; ++item) {
    RandomStream random(52, item, "shards");
    const Metric metric = kMetrics[item % 3];
    const RowMatrix vectors = random_rows(random, item % 2 ? Kind::kGrid : Kind::kCopies, 120, 4);
    const RowMatrix queries = random_rows(random, Kind::kGrid, 5, 4);
    const Ids ids = shuffled_ids(random, 120);
    RetrievalIndex whole(4, metric);
    whole.add(ids, vectors);
    const auto shard_count = 1 + random.below(5);
    std::vector<RetrievalIndex> shards(shard_count, RetrievalIndex(4, metric));
    for (std::size_t i = 0; i < ids.size(); ++i)
      shards[random.below(shard_count)].add({ids[i]}, vectors.row(static_cast<Eigen::Index>(i)));
    for (const std::int64_t k : {1, 7, 120}) {
      std::vector<std::vector<Hits>> found;
      for (const auto& shard : shards)
        found.push_back(shard.size() == 0 ? std::vector<Hits>(5) : shard.search(queries, std::min(k, shard.size())));
      require_identical(merge_hits(found, k, metric), whole.search(queries, k));
    }
  }
  const Hits sorted = {{1, 0.9}, {2, 0.5}};
  CHECK(merge_hits({}, 3, Metric::kCosine).empty());
  CHECK(caught([&] { (void)merge_hits({{sorted}}, 0, Metric::kCosine); }).code() == ErrorCode::kInvalidArgument);
  CHECK(caught([&] { (void)merge_hits({{sorted}}, 1, Metric::kL2); }).code() == ErrorCode::kInvalidArgument);
  CHECK(caught([&] {
          (void)merge_hits({{sorted}, {sorted}}, 1, Metric::kCosine);
        }).code() == ErrorCode::kInvalidArgument);
  CHECK(caught([&] { (void)merge_hits({{sorted}, {}}, 1, Metric::kCosine); }).code() == ErrorCode::kMismatch);
}
