#include "index_file.h"

#include <bit>
#include <chrono>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "daug/core/error.h"
#include "daug/io/bytes.h"
#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "daug/io/mapped_file.h"
#include "daug/io/random_access_file.h"
#include "exact_score.h"
#include "journal.h"

namespace daug::detail {
namespace {

static_assert(std::endian::native == std::endian::little, "the index file is used as it lies in memory");

constexpr std::string_view kMagic = "daugindx";
constexpr std::uint32_t kVersion = 3;
constexpr std::uint32_t kBlockBytes = 1U << 16U;
constexpr std::size_t kAlignment = 64;
constexpr const char* kLoad = "RetrievalIndex::load";
constexpr std::array<const char*, IndexFile::kParts> kPartNames = {"ids",   "order",  "norms",   "vectors",
                                                                   "codes", "bounds", "metadata"};

std::size_t padded(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }
std::size_t blocks_in(std::size_t bytes) { return (bytes + kBlockBytes - 1) / kBlockBytes; }

/// Lengths of the sections of a chunk, without padding. Cannot overflow for at most 2^32 rows.
std::array<std::size_t, IndexFile::kParts> section_lengths(const IndexSettings& settings, std::size_t rows,
                                                           std::size_t metadata_bytes) {
  const std::size_t blocks = settings.options.storage == Storage::kFloat32 ? 0 : (rows + kBlockRows - 1) / kBlockRows;
  return {rows * sizeof(std::int64_t),
          rows * sizeof(std::uint32_t),
          rows * sizeof(double),
          rows * settings.components() * sizeof(float),
          blocks * block_bytes(settings.options.storage, settings.components()),
          3 * blocks * kBlockRows * sizeof(float),
          metadata_bytes};
}

/// Puts checksums of the blocks of a section behind `checksums`.
class BlockChecksums {
 public:
  explicit BlockChecksums(std::string& checksums) : checksums_(checksums) {}

  void add(std::string_view bytes) {
    size_ += bytes.size();
    while (!bytes.empty()) {
      const auto some = bytes.substr(0, kBlockBytes - block_.size());
      block_ += some;
      bytes.remove_prefix(some.size());
      if (block_.size() == kBlockBytes) flush();
    }
  }
  /// Length of the section with its padding.
  std::size_t finish() {
    add(std::string(padded(size_) - size_, '\0'));
    if (!block_.empty()) flush();
    return size_;
  }

 private:
  void flush() {
    put<std::uint64_t>(checksums_, checksum64(block_.data(), block_.size()));
    block_.clear();
  }

  std::string& checksums_;
  std::string block_;
  std::size_t size_ = 0;
};

std::string table_bytes(const MetadataTable& table, std::size_t rows) {
  std::string bytes;
  put<std::uint64_t>(bytes, table.columns().size());
  for (const auto& [name, column] : table.columns()) {
    put_text(bytes, name);
    put<std::uint64_t>(bytes, column.values.size() - 1);
    for (std::size_t code = 1; code < column.values.size(); ++code) put_text(bytes, column.values[code]);
    for (std::size_t row = 0; row < rows; ++row)
      put<std::uint32_t>(bytes, row < column.codes.size() ? column.codes[row] : 0);
  }
  return bytes;
}

MetadataTable parse_table(ByteReader reader, std::size_t rows) {
  MetadataTable table;
  for (auto columns = reader.number<std::uint64_t>(); columns > 0; --columns) {
    const auto name = reader.text();
    if (!table.columns().empty() && name <= table.columns().rbegin()->first)
      reader.fail_format("names in ascending order", "'" + name + "'");
    auto& column = table.columns()[name];
    for (auto values = reader.number<std::uint64_t>(); values > 0; --values) {
      column.values.push_back(reader.text());
      if (!column.code_of.emplace(column.values.back(), static_cast<std::uint32_t>(column.values.size() - 1)).second)
        reader.fail_format("different values", "'" + column.values.back() + "' twice");
    }
    const auto codes = reader.take(rows * sizeof(std::uint32_t));
    column.codes.resize(rows);
    if (rows) std::memcpy(column.codes.data(), codes.data(), codes.size());
    for (const auto code : column.codes)
      if (code >= column.values.size())
        reader.fail_format(concat("at most ", column.values.size() - 1, " as a value's number"), code);
  }
  reader.expect_end();
  return table;
}

}  // namespace

/// A chunk that lies in a file.
class FileSource : public ChunkSource {
 public:
  FileSource(std::shared_ptr<const IndexFile> file, std::size_t chunk) : file_(std::move(file)), chunk_(chunk) {}

  void check_ids() const override {
    if (ids_checked_.load(std::memory_order_acquire)) return;
    file_->check(chunk_, IndexFile::kIds);
    file_->check(chunk_, IndexFile::kOrder);
    const auto* ids = reinterpret_cast<const std::int64_t*>(file_->data(chunk_, IndexFile::kIds));
    const auto* order = reinterpret_cast<const std::uint32_t*>(file_->data(chunk_, IndexFile::kOrder));
    for (std::size_t i = 0; i < rows(); ++i)
      if (order[i] >= rows() || (i > 0 && ids[order[i - 1]] >= ids[order[i]]))
        file_->fail_format(chunk_, IndexFile::kOrder, "rows by ascending id, each id once", concat(order[i]));
    ids_checked_.store(true, std::memory_order_release);
  }
  void check_rows(std::size_t first, std::size_t count) const override {
    const std::size_t bytes = file_->settings_->components() * sizeof(float);
    file_->check(chunk_, IndexFile::kVectors, first * bytes, count * bytes);
    check_norms(first, count);
  }
  void check_blocks(std::size_t first, std::size_t count) const override {
    const auto& settings = *file_->settings_;
    const std::size_t bytes = block_bytes(settings.options.storage, settings.components());
    file_->check(chunk_, IndexFile::kCodes, first * bytes, count * bytes);
    file_->check(chunk_, IndexFile::kBounds);
    check_norms(first * kBlockRows, std::min(count * kBlockRows, rows() - first * kBlockRows));
  }
  const MetadataTable& table() const override {
    std::call_once(table_once_, [&] {
      file_->check(chunk_, IndexFile::kMetadata);
      const std::string part = concat("chunk ", chunk_, ": metadata");
      const std::size_t bytes = file_->chunks_[chunk_].metadata_bytes;
      table_ =
          parse_table({{file_->data(chunk_, IndexFile::kMetadata), bytes}, kLoad, file_->name(), part.c_str()}, rows());
    });
    return table_;
  }

 private:
  std::size_t rows() const { return file_->chunks_[chunk_].rows; }
  void check_norms(std::size_t first, std::size_t count) const {
    file_->check(chunk_, IndexFile::kNorms, first * sizeof(double), count * sizeof(double));
  }

  std::shared_ptr<const IndexFile> file_;
  std::size_t chunk_;
  mutable std::atomic<bool> ids_checked_{false};
  mutable std::once_flag table_once_;
  mutable MetadataTable table_;
};

IndexFile::IndexFile(std::string_view bytes, std::shared_ptr<const void> owner, std::string name)
    : bytes_(bytes), owner_(std::move(owner)), name_(std::move(name)) {
  ByteReader start(bytes_, kLoad, name_, "header");
  if (start.take(kMagic.size()) != kMagic) start.fail_format("an index file (magic 'daugindx')", "another file");
  const auto version = start.number<std::uint32_t>();
  if (version < kVersion)
    start.fail_format(concat("version ", kVersion),
                      concat("version ", version, ", which is no longer read: make the index again"));
  if (version > kVersion)
    start.fail_format(concat("version ", kVersion), concat("version ", version, ", which a newer library wrote"));
  const auto block = start.number<std::uint32_t>();
  if (block != kBlockBytes) start.fail_format(concat("blocks of ", kBlockBytes, " bytes"), block);
  const auto header_length = start.number<std::uint64_t>();
  length_ = start.number<std::uint64_t>();
  const std::size_t read = bytes_.size() - start.remaining();
  if (length_ > bytes_.size())
    start.fail_format(concat("a file of at least ", length_, " bytes"), concat(bytes_.size(), " bytes"));
  if (header_length < read + sizeof(std::uint64_t) || header_length > length_ || header_length % kAlignment != 0)
    start.fail_format(concat("a header of at most ", length_, " bytes"), header_length);
  const std::size_t checked = static_cast<std::size_t>(header_length) - sizeof(std::uint64_t);
  std::memcpy(&header_check_, bytes_.data() + checked, sizeof header_check_);
  if (checksum64(bytes_.data(), checked) != header_check_)
    start.fail_format("contents that fit their checksum", "other contents");

  // The checksum fits; what follows guards against files that were not made by `write_index`.
  ByteReader header(bytes_.substr(read, checked - read), kLoad, name_, "header");
  IndexSettings settings{};
  settings.dimension = header.number<std::int64_t>();
  const auto metric = header.number<std::int64_t>();
  const auto storage = header.number<std::int64_t>();
  if (settings.dimension < 1 || settings.dimension > kLargestDimension)
    header.fail_format(concat("a dimension in [1, ", kLargestDimension, "]"), settings.dimension);
  if (metric < 0 || metric > static_cast<std::int64_t>(Metric::kL2)) header.fail_format("a metric in 0..2", metric);
  if (storage < 0 || storage > static_cast<std::int64_t>(Storage::kInt8))
    header.fail_format("a storage in 0..3", storage);
  settings.metric = static_cast<Metric>(metric);
  settings.options.storage = static_cast<Storage>(storage);
  settings.fingerprint = header.text();
  settings_ = std::make_shared<const IndexSettings>(settings);
  for (auto fields = header.number<std::uint64_t>(); fields > 0; --fields) fields_.insert(header.text());

  std::uint64_t end = header_length;
  std::size_t blocks = 0;
  for (auto chunks = header.number<std::uint64_t>(); chunks > 0; --chunks) {
    ChunkEntry chunk;
    const auto rows = header.number<std::uint64_t>();
    const auto metadata_bytes = header.number<std::uint64_t>();
    if (rows < 1 || rows > UINT32_MAX || metadata_bytes > length_)
      header.fail_format("chunks that fit into the file",
                         concat(rows, " rows, ", metadata_bytes, " bytes of metadata"));
    chunk.rows = static_cast<std::size_t>(rows);
    chunk.metadata_bytes = static_cast<std::size_t>(metadata_bytes);
    const auto lengths = section_lengths(settings, chunk.rows, chunk.metadata_bytes);
    for (std::size_t part = 0; part < kParts; ++part) {
      const std::size_t section_bytes = padded(lengths[part]);
      if (section_bytes > length_ - end)
        header.fail_format(concat("chunks of ", length_ - header_length, " bytes together"), "more");
      chunk.sections[part] = {static_cast<std::size_t>(end), section_bytes, blocks};
      end += section_bytes;
      blocks += blocks_in(section_bytes);
    }
    chunks_.push_back(chunk);
  }
  if (end != length_) header.fail_format(concat("chunks of ", length_ - header_length, " bytes together"), "less");
  checksums_ = header.take(std::uint64_t{blocks} * sizeof(std::uint64_t));
  if (header.remaining() >= kAlignment || header.take(header.remaining()).find_first_not_of('\0') != kMagic.npos)
    header.fail_format("nothing after the last checksum", "something");
  checked_ = std::vector<std::atomic<bool>>(blocks);
}

void IndexFile::check(std::size_t chunk, Kind part, std::size_t first, std::size_t count) const {
  const Section& where = section(chunk, part);
  if (count == 0) return;
  for (std::size_t block = first / kBlockBytes; block <= (first + count - 1) / kBlockBytes; ++block) {
    auto& checked = checked_[where.first_block + block];
    if (checked.load(std::memory_order_acquire)) continue;
    std::uint64_t expected;
    std::memcpy(&expected, checksums_.data() + (where.first_block + block) * sizeof expected, sizeof expected);
    const std::size_t begin = block * kBlockBytes;
    const std::size_t size = std::min<std::size_t>(kBlockBytes, where.length - begin);
    if (checksum64(bytes_.data() + where.offset + begin, size) != expected)
      fail_format(chunk, part, "contents that fit their checksum", concat("other contents in block ", block));
    checked.store(true, std::memory_order_release);
  }
}

void IndexFile::fail_format(std::size_t chunk, Kind part, const std::string& expected,
                            const std::string& actual) const {
  fail(ErrorCode::kFormat, kLoad, concat(name_, ": chunk ", chunk, ": ", kPartNames[part]), expected, actual);
}

Snapshot IndexFile::items() const {
  Snapshot snapshot(settings_);
  for (std::size_t i = 0; i < chunks_.size(); ++i) {
    const auto bounds = reinterpret_cast<const float*>(data(i, kBounds));
    const std::size_t lanes = (chunks_[i].rows + kBlockRows - 1) / kBlockRows * kBlockRows;
    const ChunkArrays arrays{
        reinterpret_cast<const std::int64_t*>(data(i, kIds)),
        reinterpret_cast<const std::uint32_t*>(data(i, kOrder)),
        reinterpret_cast<const double*>(data(i, kNorms)),
        reinterpret_cast<const float*>(data(i, kVectors)),
        {reinterpret_cast<const std::byte*>(data(i, kCodes)), bounds, bounds + lanes, bounds + 2 * lanes}};
    snapshot.append(std::make_shared<const Chunk>(settings_, chunks_[i].rows, arrays,
                                                  std::make_unique<const FileSource>(shared_from_this(), i)));
  }
  snapshot.add_fields(fields_);
  return snapshot;
}

std::string lock_path(const std::string& path) { return followed_path("IndexWriter", path) + ".lock"; }

void write_index(const std::string& path, const Snapshot& snapshot) {
  Snapshot whole = snapshot;
  whole.tidy(true);
  const auto& settings = whole.settings();
  std::string header(kMagic);
  put<std::uint32_t>(header, kVersion);
  put<std::uint32_t>(header, kBlockBytes);
  const std::size_t lengths_at = header.size();
  header.append(2 * sizeof(std::uint64_t), '\0');
  put<std::int64_t>(header, settings.dimension);
  put<std::int64_t>(header, static_cast<std::int64_t>(settings.metric));
  put<std::int64_t>(header, static_cast<std::int64_t>(settings.options.storage));
  put_text(header, settings.fingerprint);
  put<std::uint64_t>(header, whole.fields().size());
  for (const auto& name : whole.fields()) put_text(header, name);
  put<std::uint64_t>(header, whole.parts().size());
  std::vector<std::string> metadata;
  for (const auto& part : whole.parts()) {
    metadata.push_back(table_bytes(part.chunk->table(), part.chunk->rows()));
    put<std::uint64_t>(header, part.chunk->rows());
    put<std::uint64_t>(header, metadata.back().size());
  }

  /// Calls visit(pieces) for every section; its pieces make up its bytes, padding included.
  const auto for_each_section = [&](const auto& visit) {
    for (std::size_t i = 0; i < whole.parts().size(); ++i) {
      const Chunk& chunk = *whole.parts()[i].chunk;
      const ChunkArrays& arrays = chunk.all();
      const auto lengths = section_lengths(settings, chunk.rows(), metadata[i].size());
      const std::size_t bound_bytes = lengths[IndexFile::kBounds] / 3;
      const auto piece = [](const void* data, std::size_t size) {
        return std::string_view(static_cast<const char*>(data), size);
      };
      using Kind = IndexFile::Kind;
      const auto whole_section = [&](const void* data, Kind part) { visit({piece(data, lengths[part])}); };
      whole_section(arrays.ids, Kind::kIds);
      whole_section(arrays.order, Kind::kOrder);
      whole_section(arrays.norms, Kind::kNorms);
      whole_section(arrays.values, Kind::kVectors);
      whole_section(arrays.scan.codes, Kind::kCodes);
      visit({piece(arrays.scan.scale, bound_bytes), piece(arrays.scan.error, bound_bytes),
             piece(arrays.scan.offset, bound_bytes)});
      whole_section(metadata[i].data(), Kind::kMetadata);
    }
  };

  std::uint64_t payload = 0;
  for_each_section([&](std::initializer_list<std::string_view> pieces) {
    BlockChecksums checksums(header);
    for (const auto& piece : pieces) checksums.add(piece);
    payload += checksums.finish();
  });
  header.resize(padded(header.size() + sizeof(std::uint64_t)) - sizeof(std::uint64_t), '\0');
  const std::uint64_t header_length = header.size() + sizeof(std::uint64_t);
  const std::uint64_t lengths[] = {header_length, header_length + payload};
  std::memcpy(header.data() + lengths_at, lengths, sizeof lengths);
  const std::uint64_t header_check = checksum64(header.data(), header.size());
  put(header, header_check);

  write_file_atomically(path, [&](const ByteSink& sink) {
    sink(header.data(), header.size());
    for_each_section([&](std::initializer_list<std::string_view> pieces) {
      constexpr char kZeros[kAlignment] = {};
      std::size_t size = 0;
      for (const auto& piece : pieces) {
        sink(piece.data(), piece.size());
        size += piece.size();
      }
      sink(kZeros, padded(size) - size);
    });
    const auto commit = journal_commit(header_check, 0);
    sink(commit.data(), commit.size());
  });
}

namespace {

/// What stands behind the items now.
std::string journal_bytes(const RandomAccessFile& file, std::uint64_t begin) {
  constexpr int kAttempts = 100;
  for (int attempt = 1;; ++attempt) {
    const std::uint64_t size = file.size();
    std::string bytes(size > begin ? static_cast<std::size_t>(size - begin) : 0, '\0');
    try {
      file.read(begin, bytes.data(), bytes.size());
      return bytes;
    } catch (const Error&) {  // shorter by now, perhaps
      if (attempt == kAttempts) throw;
    }
  }
}

/// The items of a snapshot under other options.
Snapshot with_options(const Snapshot& snapshot, const IndexOptions& options) {
  auto settings = snapshot.settings();
  settings.options = options;
  const auto shared = std::make_shared<const IndexSettings>(settings);
  Snapshot coded(shared);
  for (const auto& part : snapshot.parts()) {
    const Chunk& chunk = *part.chunk;
    ChunkBuilder builder(shared, part.size);
    for (std::size_t row = 0; row < chunk.rows(); ++row) {
      if (!part.has(row)) continue;
      const float* values = chunk.values(row);
      builder.add(chunk.ids()[row], values, chunk.norms()[row], chunk.table().get(row));
    }
    coded.append(builder.finish());
  }
  coded.add_fields(snapshot.fields());
  return coded;
}

}  // namespace

OpenedIndex open_index(const std::string& path, bool recover) {
  for (std::optional<std::string> refused;;) {
    const RandomAccessFile named(path, RandomAccessFile::Mode::kRead);
    const auto mapping = std::make_shared<const MappedFile>(path);
    if (!named.is_current()) continue;  // another file was put in its place between the two
    const auto file = std::make_shared<const IndexFile>(mapping->bytes(), mapping, path);
    OpenedIndex opened{file, file->items(), {}};
    auto journal = journal_bytes(named, file->length());
    try {
      opened.journal = replay_journal(*file, journal, opened.snapshot, recover);
      return opened;
    } catch (const Error&) {
      // A writer may have exchanged the commit after the file's size was read, or meanwhile. Damage stays as it is.
      if (refused == journal) throw;
      refused = std::move(journal);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
}

Snapshot open_index(const std::string& path, const IndexOptions* options) {
  if (options) options->validate();
  auto snapshot = open_index(path).snapshot;
  if (!options || options->storage == snapshot.settings().options.storage) return snapshot;
  return with_options(snapshot, *options);
}

Snapshot parse_index(std::string_view bytes, const std::string& name) {
  const auto copy = std::make_shared<LineVector<char>>(bytes.begin(), bytes.end());
  const auto file = std::make_shared<const IndexFile>(std::string_view(copy->data(), copy->size()), copy, name);
  Snapshot snapshot = file->items();
  replay_journal(*file, file->journal(), snapshot);
  return snapshot;
}

}  // namespace daug::detail
