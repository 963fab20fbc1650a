// The index file. All numbers little-endian.
//
//     magic      8 bytes  "daugindx"
//     version    u32
//     sections   u32
//     length     u64      of the whole file
//     then each section: length u64, XXH3 checksum u64, payload
//
//     settings   dimension i64, metric i64, item count i64, fingerprint text
//     ids        i64 an item
//     vectors    dimension f32 an item
//     metadata   for each item: pair count u64, then key text and value text of each pair, keys ascending
//     (a text is its length u64 and its bytes)

#include <array>
#include <bit>
#include <string_view>
#include <utility>

#include "daug/core/error.h"
#include "daug/index/retrieval_index.h"
#include "daug/io/bytes.h"
#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "index_state.h"

namespace daug {

using detail::ByteReader;
using detail::put;
using detail::put_text;

namespace {

static_assert(std::endian::native == std::endian::little, "the index file is written as it lies in memory");

constexpr std::string_view kMagic = "daugindx";
constexpr std::uint32_t kVersion = 1;
constexpr std::array<const char*, 4> kSections = {"settings", "ids", "vectors", "metadata"};
constexpr std::size_t kHeaderBytes = kMagic.size() + 2 * sizeof(std::uint32_t) + sizeof(std::uint64_t);
constexpr std::size_t kSectionHeaderBytes = 2 * sizeof(std::uint64_t);
constexpr const char* kLoad = "RetrievalIndex::load";

template <class T>
std::string_view bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

}  // namespace

void RetrievalIndex::save(const std::string& path) const {
  std::string settings;
  put<std::int64_t>(settings, dimension());
  put<std::int64_t>(settings, static_cast<std::int64_t>(metric()));
  put<std::int64_t>(settings, size());
  put_text(settings, fingerprint());

  std::string metadata;
  for (const auto& item : state_->metadata) {
    put<std::uint64_t>(metadata, item.size());
    for (const auto& [key, value] : item) {
      put_text(metadata, key);
      put_text(metadata, value);
    }
  }

  const std::array<std::string_view, kSections.size()> sections = {settings, bytes_of(state_->ids),
                                                                   bytes_of(state_->values), metadata};
  std::uint64_t length = kHeaderBytes;
  for (const auto& section : sections) length += kSectionHeaderBytes + section.size();
  std::string header(kMagic);
  put<std::uint32_t>(header, kVersion);
  put<std::uint32_t>(header, kSections.size());
  put<std::uint64_t>(header, length);

  write_file_atomically(path, [&](const ByteSink& sink) {
    sink(header.data(), header.size());
    for (const auto& section : sections) {
      const std::uint64_t section_header[] = {section.size(), checksum64(section.data(), section.size())};
      sink(section_header, sizeof section_header);
      sink(section.data(), section.size());
    }
  });
}

RetrievalIndex RetrievalIndex::load(const std::string& path, const IndexOptions& options) {
  const auto bytes = read_file(path);
  return parse(bytes.data(), bytes.size(), path, options);
}

RetrievalIndex RetrievalIndex::parse(const void* data, std::size_t size, const std::string& name,
                                     const IndexOptions& options) {
  options.validate();
  ByteReader header({static_cast<const char*>(data), size}, kLoad, name, "header");
  if (header.take(kMagic.size()) != kMagic) header.fail_format("an index file (magic 'daugindx')", "another file");
  const auto version = header.number<std::uint32_t>();
  if (version != kVersion) header.fail_format(detail::concat("version ", kVersion), version);
  const auto section_count = header.number<std::uint32_t>();
  if (section_count != kSections.size())
    header.fail_format(detail::concat(kSections.size(), " sections"), section_count);
  const auto length = header.number<std::uint64_t>();
  if (length != size)
    header.fail_format(detail::concat("a file of ", length, " bytes"), detail::concat(size, " bytes"));

  std::vector<ByteReader> sections;
  for (const char* section_name : kSections) {
    const auto section_length = header.number<std::uint64_t>();
    const auto checksum = header.number<std::uint64_t>();
    if (section_length > header.remaining())
      header.fail_format(detail::concat("section ", section_name, " of at most ", header.remaining(), " bytes"),
                         section_length);
    const auto payload = header.take(section_length);
    sections.emplace_back(payload, kLoad, name, section_name);
    if (checksum64(payload.data(), payload.size()) != checksum)
      sections.back().fail_format("contents that fit their checksum", "other contents");
  }
  header.expect_end();

  // The checksums fit; what follows guards against files that were not made by `save`.
  auto& settings = sections[0];
  const auto dimension = settings.number<std::int64_t>();
  const auto metric = settings.number<std::int64_t>();
  const auto count = settings.number<std::int64_t>();
  std::string fingerprint = settings.text();
  settings.expect_end();
  if (metric < 0 || metric > static_cast<std::int64_t>(Metric::kL2)) settings.fail_format("a metric in 0..2", metric);

  const auto ids = sections[1].all_numbers<std::int64_t>(static_cast<std::uint64_t>(count));
  std::vector<Metadata> metadata(ids.size());
  for (auto& item : metadata)
    for (auto pairs = sections[3].number<std::uint64_t>(); pairs > 0; --pairs) {
      const std::string key = sections[3].text();
      if (!item.emplace(key, sections[3].text()).second) sections[3].fail_format("each key once in an item", key);
    }
  sections[3].expect_end();

  try {  // The constructor and `add` check what every index must satisfy.
    RetrievalIndex index(dimension, static_cast<Metric>(metric), std::move(fingerprint), options);
    const auto values = sections[2].all_numbers<float>(ids.size() * static_cast<std::uint64_t>(dimension));
    index.add(ids, Eigen::Map<const RowMatrix>(values.data(), count, dimension), metadata);
    return index;
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kFormat) throw;
    throw Error(ErrorCode::kFormat, "RetrievalIndex::load: " + name + ": " + error.what());
  }
}

}  // namespace daug
