#include "chunk.h"

#include <algorithm>
#include <atomic>
#include <numeric>
#include <utility>

namespace daug::detail {

std::size_t IndexSettings::chunk_rows() const {
  constexpr std::size_t kMostRows = 65536;
  constexpr std::size_t kMostBytes = std::size_t{256} << 20U;
  constexpr std::size_t kFewestRows = 1024;
  return std::clamp(kMostBytes / (components() * sizeof(float)), kFewestRows, kMostRows);
}

Chunk::Chunk(std::shared_ptr<const IndexSettings> settings, std::size_t rows, const ChunkArrays& arrays,
             std::unique_ptr<const ChunkSource> source)
    : settings_(std::move(settings)), rows_(rows), arrays_(arrays), source_(std::move(source)) {
  static std::atomic<std::uint64_t> next{0};
  serial_ = next++;
}

std::optional<std::size_t> Chunk::find(std::int64_t id) const {
  source_->check_ids();
  const auto* end = arrays_.order + rows_;
  const auto* found = std::lower_bound(
      arrays_.order, end, id, [&](std::uint32_t row, std::int64_t wanted) { return arrays_.ids[row] < wanted; });
  if (found == end || arrays_.ids[*found] != id) return std::nullopt;
  return *found;
}

const ChunkArrays& Chunk::all() const {
  source_->check_ids();
  source_->check_rows(0, rows_);
  if (settings_->options.storage != Storage::kFloat32) source_->check_blocks(0, (rows_ + kBlockRows - 1) / kBlockRows);
  return arrays_;
}

class ChunkBuilder::Memory : public ChunkSource {
 public:
  Memory(const IndexSettings& settings, std::size_t rows)
      : scan(settings.components(), settings.metric, settings.options.storage, rows) {
    ids.reserve(rows);
    norms.reserve(rows);
    values.reserve(rows * settings.components());
  }
  const MetadataTable& table() const override { return texts; }

  std::vector<std::int64_t> ids;
  std::vector<std::uint32_t> order;
  std::vector<double> norms;
  std::vector<float> values;
  ScanStore scan;
  MetadataTable texts;
};

ChunkBuilder::ChunkBuilder(std::shared_ptr<const IndexSettings> settings, std::size_t rows)
    : settings_(std::move(settings)), memory_(std::make_unique<Memory>(*settings_, rows)) {}
ChunkBuilder::~ChunkBuilder() = default;

void ChunkBuilder::add(std::int64_t id, const float* values, double norm, const Metadata& metadata) {
  auto& memory = *memory_;
  const std::size_t row = memory.ids.size();
  memory.ids.push_back(id);
  memory.norms.push_back(norm);
  memory.values.insert(memory.values.end(), values, values + settings_->dimension);
  memory.texts.set(row, metadata);
  memory.scan.set(row, values, norm);
}

void ChunkBuilder::copy(const Chunk& from, std::size_t row) {
  auto& memory = *memory_;
  const float* values = from.values(row);
  const std::size_t to = memory.ids.size();
  memory.ids.push_back(from.ids()[row]);
  memory.norms.push_back(from.norms()[row]);
  memory.values.insert(memory.values.end(), values, values + settings_->dimension);
  memory.texts.set(to, from.table().get(row));
  if (settings_->options.storage != Storage::kFloat32)
    memory.scan.copy(from.blocks(row / kBlockRows, 1), row % kBlockRows, to);
}

std::shared_ptr<const Chunk> ChunkBuilder::finish() {
  auto& memory = *memory_;
  memory.order.resize(memory.ids.size());
  std::iota(memory.order.begin(), memory.order.end(), 0U);
  std::sort(memory.order.begin(), memory.order.end(),
            [&](std::uint32_t a, std::uint32_t b) { return memory.ids[a] < memory.ids[b]; });
  const ChunkArrays arrays{memory.ids.data(), memory.order.data(), memory.norms.data(), memory.values.data(),
                           memory.scan.arrays()};
  const std::size_t rows = memory.ids.size();
  return std::make_shared<const Chunk>(settings_, rows, arrays, std::move(memory_));
}

}  // namespace daug::detail
