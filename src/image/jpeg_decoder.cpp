// JPEG files: ITU-T T.81 (https://www.w3.org/Graphics/JPEG/itu-t81.pdf).
//
// stb_image computes the pixels, but it fills what is missing with gray and trusts tables more than it should. So the
// file is walked first: every segment, and every entropy-coded bit of every scan, with nothing left over and nothing
// missing. What stb is then handed is complete and within the ranges for which it is safe.

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>

#include "format.h"

namespace daug::detail {
namespace {

constexpr unsigned kStart = 0xd8, kEnd = 0xd9, kHuffmanTables = 0xc4, kQuantTables = 0xdb, kRestartInterval = 0xdd,
                   kStartOfScan = 0xda, kFirstRestart = 0xd0, kExif = 0xe1, kArithmeticTables = 0xcc;
/// More scans than any encoder writes; bounds the work that a small hostile file can ask for.
constexpr int kMaxScans = 100;

/// Symbol and length of the code that starts each 16-bit pattern; length 0: no code does.
class HuffmanTable {
 public:
  HuffmanTable(const std::array<unsigned, 16>& counts, ByteView symbols, const std::string& name)
      : entries_(std::size_t{1} << 16) {
    std::size_t next = 0, code = 0;
    for (unsigned length = 1; length <= 16; ++length) {
      for (unsigned i = 0; i < counts[length - 1]; ++i, ++code, ++next) {
        if (code >> length != 0) malformed(name, "a Huffman table that is a prefix code", "too many codes");
        const std::size_t first = code << (16 - length), last = (code + 1) << (16 - length);
        std::fill(entries_.begin() + static_cast<std::ptrdiff_t>(first),
                  entries_.begin() + static_cast<std::ptrdiff_t>(last), Entry{symbols.data[next], length});
      }
      code <<= 1;
    }
  }

  struct Entry {
    Entry(unsigned symbol_ = 0, unsigned length_ = 0)
        : symbol(static_cast<std::uint8_t>(symbol_)), length(static_cast<std::uint8_t>(length_)) {}
    std::uint8_t symbol, length;
  };
  const Entry& operator[](unsigned pattern) const { return entries_[pattern]; }

 private:
  std::vector<Entry> entries_;
};

/// Bits of one entropy-coded segment, up to the next marker.
class BitReader {
 public:
  BitReader(ByteView bytes, std::size_t position, const std::string& name)
      : bytes_(bytes), position_(position), name_(name) {}

  unsigned symbol(const HuffmanTable& table) {
    if (count_ < 16) fill();
    const std::uint64_t pattern = count_ >= 16 ? buffer_ >> (count_ - 16) : buffer_ << (16 - count_);
    const auto& entry = table[static_cast<unsigned>(pattern & 0xffff)];
    if (entry.length == 0) malformed(name_, concat("a Huffman code before byte ", position_), "bits that are none");
    skip(entry.length);
    return entry.symbol;
  }

  unsigned bits(unsigned count) {
    skip(count);
    return static_cast<unsigned>(buffer_ >> count_ & ((std::uint64_t{1} << count) - 1));
  }

  /// Position of the marker after the segment; only the padding of the last byte may be left before it.
  std::size_t finish() {
    fill();
    if (count_ >= 8)
      malformed(name_, concat("a marker before byte ", position_), "more coded data than the picture takes");
    return position_;
  }

 private:
  void skip(unsigned count) {
    if (count_ < count) fill();
    if (count_ < count)
      malformed(name_, concat("more coded data at byte ", position_), "a marker or the end of the file");
    count_ -= count;
  }

  void fill() {
    while (count_ <= 48 && position_ < bytes_.size) {
      const std::uint8_t byte = bytes_.data[position_];
      std::size_t next = position_ + 1;
      if (byte == 0xff) {  // 0xff 0x00 is a data byte; 0xff may be repeated before a marker
        while (next < bytes_.size && bytes_.data[next] == 0xff) ++next;
        if (next == bytes_.size || bytes_.data[next] != 0) return;
        ++next;
      }
      buffer_ = buffer_ << 8 | byte;
      count_ += 8;
      position_ = next;
    }
  }

  ByteView bytes_;
  std::size_t position_;
  const std::string& name_;
  std::uint64_t buffer_ = 0;
  unsigned count_ = 0;
};

struct Component {
  unsigned id = 0, across = 0, down = 0, quant = 0;  // sampling factors, quantisation table
  int columns = 0, rows = 0;                         // blocks, when coded alone
  int stride = 0, padded_rows = 0;                   // blocks, when interleaved
  std::array<int, 64> precision{};                   // lowest bit coded so far, by coefficient; kUncoded: none
  std::vector<std::uint64_t> nonzero;                // progressive: coefficients known not to be 0, by block
  int dc = 0;
  const HuffmanTable* dc_table = nullptr;
  const HuffmanTable* ac_table = nullptr;
};
constexpr int kUncoded = -1;

struct Frame {
  int width = 0, height = 0;
  bool progressive = false;
  int mcu_columns = 0, mcu_rows = 0;
  std::vector<Component> components;
};

/// One scan: which coefficients and bits it codes.
struct Scan {
  std::vector<Component*> components;
  unsigned first = 0, last = 63;  // coefficients, in zigzag order
  int high = 0, low = 0;          // bit positions: before (0: first pass) and after
};

class Walker {
 public:
  Walker(ByteView bytes, const std::string& name, const DecodeLimits& limits)
      : bytes_(bytes), name_(name), limits_(limits) {}

  /// Up to the first scan when `header_only`, else to the end-of-image marker.
  void walk(bool header_only) {
    position_ = 2;
    int scans = 0;
    for (;;) {
      const unsigned marker = next_marker();
      if (marker == kEnd || (marker == kStartOfScan && header_only)) break;
      if (marker < 0xc0 || (marker >= kFirstRestart && marker <= kStart))
        malformed(name_, concat("a segment before byte ", position_), concat("marker ", marker));
      Reader reader(bytes_, name_, position_);
      const unsigned length = reader.u16();
      if (length < 2) malformed(name_, "a segment of at least 2 bytes", length);
      const ByteView segment = reader.take(length - 2);
      position_ = reader.position();
      if (marker == kStartOfScan) {
        if (++scans > kMaxScans) unsupported(name_, concat("at most ", kMaxScans, " scans"), "more");
        scan(segment);
      } else {
        table(marker, segment);
      }
    }
    if (!frame_) malformed(name_, "a frame header", "none");
    for (const Component& component : frame_->components)
      if (!header_only && component.precision[0] == kUncoded)
        malformed(name_, concat("pixels of component ", component.id), "none");
  }

  const Frame& frame() const { return *frame_; }
  int orientation() const { return orientation_.value_or(1); }
  std::size_t end() const { return position_; }

 private:
  unsigned next_marker() {
    // Some writers pad between the segments of the header; readers skip that.
    while (!frame_ && position_ < bytes_.size && bytes_.data[position_] != 0xff) ++position_;
    Reader reader(bytes_, name_, position_);
    unsigned byte = reader.u8();
    if (byte != 0xff) malformed(name_, concat("a marker at byte ", position_), byte);
    while (byte == 0xff) byte = reader.u8();
    position_ = reader.position();
    return byte;
  }

  void table(unsigned marker, ByteView segment) {
    Reader reader(segment, name_);
    if (marker == kHuffmanTables) {
      huffman(reader);
    } else if (marker == kQuantTables) {
      while (reader.left() > 0) {
        const unsigned info = reader.u8();
        if (info >> 4 > 1 || (info & 15) > 3) malformed(name_, "a quantisation table 0 to 3 of 8 or 16 bits", info);
        reader.take(info >> 4 ? 128 : 64);
        quant_defined_[info & 15] = true;
      }
    } else if (marker == kRestartInterval) {
      restart_interval_ = static_cast<int>(reader.u16());
    } else if (marker == kExif && segment.size > 6 && std::memcmp(segment.data, "Exif\0\0", 6) == 0) {
      if (!orientation_) orientation_ = exif_orientation({segment.data + 6, segment.size - 6});
    } else if (marker >= 0xc0 && marker <= 0xcf) {
      if (marker == kArithmeticTables || marker > 0xc2)
        unsupported(name_, "baseline, extended or progressive Huffman coding", concat("JPEG coding process ", marker));
      start_frame(reader, marker == 0xc2);
    }
  }

  void huffman(Reader& reader) {
    while (reader.left() > 0) {
      const unsigned info = reader.u8();
      if (info >> 4 > 1 || (info & 15) > 3) malformed(name_, "a DC or AC Huffman table 0 to 3", info);
      std::array<unsigned, 16> counts{};
      unsigned total = 0;
      for (unsigned& count : counts) total += count = reader.u8();
      if (total > 256) malformed(name_, "at most 256 Huffman codes", total);
      if (++table_count_ > 8 * kMaxScans)
        unsupported(name_, concat("at most ", 8 * kMaxScans, " Huffman tables"), "more");
      tables_[info >> 4][info & 15].emplace(counts, reader.take(total), name_);
    }
  }

  void start_frame(Reader& reader, bool progressive) {
    if (frame_) malformed(name_, "one frame header", "another");
    Frame frame;
    frame.progressive = progressive;
    const unsigned bits = reader.u8(), height = reader.u16(), width = reader.u16(), count = reader.u8();
    if (bits != 8) unsupported(name_, "JPEG samples of 8 bits", bits);
    if (height == 0) unsupported(name_, "a JPEG header with the height", "one that leaves it to a later marker");
    check_extent(width, height, limits_, name_);
    if (count != 1 && count != 3 && count != 4) unsupported(name_, "1, 3 or 4 JPEG components", count);
    if (reader.left() != 3 * count) malformed(name_, concat(3 * count, " bytes of components"), reader.left());
    unsigned most_across = 1, most_down = 1;
    for (unsigned i = 0; i < count; ++i) {
      Component component;
      component.id = reader.u8();
      const unsigned sampling = reader.u8();
      component.across = sampling >> 4;
      component.down = sampling & 15;
      component.quant = reader.u8();
      component.precision.fill(kUncoded);
      for (const Component& other : frame.components)
        if (other.id == component.id) malformed(name_, "components with different ids", component.id);
      if (component.across < 1 || component.across > 4 || component.down < 1 || component.down > 4)
        malformed(name_, "sampling factors in [1, 4]", concat(component.across, " and ", component.down));
      if (component.quant > 3) malformed(name_, "quantisation table 0 to 3", component.quant);
      most_across = std::max(most_across, component.across);
      most_down = std::max(most_down, component.down);
      frame.components.push_back(component);
    }
    const auto divide_up = [](unsigned a, unsigned b) { return static_cast<int>((a + b - 1) / b); };
    frame.width = static_cast<int>(width);
    frame.height = static_cast<int>(height);
    frame.mcu_columns = divide_up(width, 8 * most_across);
    frame.mcu_rows = divide_up(height, 8 * most_down);
    std::uint64_t blocks = 0;
    for (Component& component : frame.components) {
      if (most_across % component.across != 0 || most_down % component.down != 0)
        unsupported(name_, "sampling factors that divide the largest", "others");
      component.columns = divide_up(width * component.across, 8 * most_across);
      component.rows = divide_up(height * component.down, 8 * most_down);
      component.stride = frame.mcu_columns * static_cast<int>(component.across);
      component.padded_rows = frame.mcu_rows * static_cast<int>(component.down);
      blocks += static_cast<std::uint64_t>(component.columns) * static_cast<std::uint64_t>(component.rows);
    }
    // Every block takes at least a bit, so a file too short for its header is refused before memory is set aside.
    if (blocks > std::uint64_t{8} * bytes_.size)
      malformed(name_, concat("enough data for ", blocks, " blocks of 8 x 8"), concat(bytes_.size, " bytes"));
    frame_ = std::move(frame);
  }

  void scan(ByteView segment) {
    if (!frame_) malformed(name_, "a frame header before the first scan", "none");
    Reader reader(segment, name_);
    Scan scan;
    const unsigned count = reader.u8();
    if (count < 1 || count > frame_->components.size() || segment.size != 4 + 2 * count)
      malformed(name_, "a scan of some of the frame's components", concat(count, " in ", segment.size, " bytes"));
    std::vector<std::array<unsigned, 2>> tables;
    for (unsigned i = 0; i < count; ++i) {
      const unsigned id = reader.u8(), chosen = reader.u8();
      const auto found = std::find_if(frame_->components.begin(), frame_->components.end(),
                                      [&](const Component& component) { return component.id == id; });
      if (found == frame_->components.end() ||
          std::find(scan.components.begin(), scan.components.end(), &*found) != scan.components.end())
        malformed(name_, "components of the frame, each once", concat("component ", id));
      if (chosen >> 4 > 3 || (chosen & 15) > 3) malformed(name_, "Huffman tables 0 to 3", chosen);
      if (!quant_defined_[found->quant])
        malformed(name_, "a quantisation table", concat("none numbered ", found->quant));
      scan.components.push_back(&*found);
      tables.push_back({chosen >> 4, chosen & 15});
    }
    const unsigned first = reader.u8(), last = reader.u8(), bits = reader.u8();
    if (frame_->progressive) {
      scan.first = first;
      scan.last = last;
      scan.high = static_cast<int>(bits >> 4);
      scan.low = static_cast<int>(bits & 15);
      const bool band = first == 0 ? last == 0 : first <= last && last <= 63 && count == 1;
      if (!band || scan.low > 13 || (scan.high != 0 && scan.high != scan.low + 1))
        malformed(name_, "a progressive scan's band and bits", concat(first, " to ", last, ", bits ", bits));
    } else if (first != 0 || bits != 0) {
      malformed(name_, "a sequential scan of all coefficients", concat(first, " to ", last, ", bits ", bits));
    }
    for (unsigned i = 0; i < count; ++i) {
      Component& component = *scan.components[i];
      for (unsigned k = scan.first; k <= scan.last; ++k) {
        if (component.precision[k] != (scan.high == 0 ? kUncoded : scan.high) ||
            (k > 0 && frame_->progressive && component.precision[0] == kUncoded))
          malformed(name_, "scans in an order that refines", concat("coefficient ", k, " of component ", component.id));
        component.precision[k] = scan.low;
      }
      const bool needs_dc = scan.first == 0 && scan.high == 0, needs_ac = scan.last > 0;
      component.dc_table = needs_dc ? &defined(0, tables[i][0]) : nullptr;
      component.ac_table = needs_ac ? &defined(1, tables[i][1]) : nullptr;
      if (frame_->progressive && component.nonzero.empty())
        component.nonzero.resize(static_cast<std::size_t>(component.stride) *
                                 static_cast<std::size_t>(component.padded_rows));
    }
    coded_data(scan);
  }

  const HuffmanTable& defined(std::size_t kind, std::size_t number) const {
    const auto& table = tables_[kind][number];
    if (!table) malformed(name_, concat(kind == 0 ? "DC" : "AC", " Huffman table ", number), "none");
    return *table;
  }

  /// All units of a scan (blocks of a lone component, else interleaved units), with restart markers between.
  void coded_data(const Scan& scan) {
    const bool alone = scan.components.size() == 1;
    const Component& lone = *scan.components[0];
    const int columns = alone ? lone.columns : frame_->mcu_columns;
    const int rows = alone ? lone.rows : frame_->mcu_rows;
    int until_restart = 0;
    unsigned restarts = 0;
    std::optional<BitReader> reader;
    for (int row = 0; row < rows; ++row)
      for (int column = 0; column < columns; ++column) {
        if (!reader || (restart_interval_ > 0 && until_restart == 0)) {
          if (reader) restart(*reader, restarts++ % 8);
          reader.emplace(bytes_, position_, name_);
          until_restart = restart_interval_;
          end_of_band_run_ = 0;
          for (Component* component : scan.components) component->dc = 0;
        }
        --until_restart;
        for (Component* component : scan.components) {
          const int across = alone ? 1 : static_cast<int>(component->across);
          const int down = alone ? 1 : static_cast<int>(component->down);
          for (int y = row * down; y < (row + 1) * down; ++y)
            for (int x = column * across; x < (column + 1) * across; ++x) block(*reader, scan, *component, x, y);
        }
      }
    position_ = reader->finish();
  }

  void restart(BitReader& reader, unsigned number) {
    position_ = reader.finish();
    const unsigned marker = next_marker();
    if (marker != kFirstRestart + number)
      malformed(name_, concat("restart marker ", number, " before byte ", position_), concat("marker ", marker));
  }

  void block(BitReader& reader, const Scan& scan, Component& component, int x, int y) {
    if (!frame_->progressive) {
      dc_difference(reader, component);
      coefficients(reader, *component.ac_table, 1, 63, nullptr);
    } else if (scan.first == 0) {
      if (scan.high == 0)
        dc_difference(reader, component);
      else
        reader.bits(1);
    } else {
      std::uint64_t& nonzero =
          component.nonzero[static_cast<std::size_t>(y) * static_cast<std::size_t>(component.stride) +
                            static_cast<std::size_t>(x)];
      if (scan.high != 0)
        refine(reader, scan, *component.ac_table, nonzero);
      else if (end_of_band_run_ > 0)
        --end_of_band_run_;
      else
        coefficients(reader, *component.ac_table, scan.first, scan.last, &nonzero);
    }
  }

  /// F.2.2.1. Values within what 8-bit samples can need (and twice that), so that stb's arithmetic cannot overflow.
  void dc_difference(BitReader& reader, Component& component) {
    const unsigned size = reader.symbol(*component.dc_table);
    if (size > 11) malformed(name_, "a DC difference of at most 11 bits", size);
    if (size == 0) return;
    const int value = static_cast<int>(reader.bits(size));
    component.dc += value >> (size - 1) ? value : value - (1 << size) + 1;
    if (std::abs(component.dc) > 4096) malformed(name_, "a DC value within 4096", component.dc);
  }

  /// F.2.2.2 and, with `nonzero`, G.1.2.2: runs of zeros, each ended by a value.
  void coefficients(BitReader& reader, const HuffmanTable& table, unsigned first, unsigned last,
                    std::uint64_t* nonzero) {
    for (unsigned k = first; k <= last; ++k) {
      const unsigned symbol = reader.symbol(table), run = symbol >> 4, size = symbol & 15;
      if (size == 0 && run < 15) {
        if (run > 0 && nonzero == nullptr) malformed(name_, "a run in baseline data", "a progressive end of band");
        if (nonzero != nullptr) end_of_band_run_ = (1U << run) + reader.bits(run) - 1;
        return;
      }
      k += run;
      if (k > last || size > 10)
        malformed(name_, concat("a coefficient up to ", last, " of 10 bits"), concat(k, " of ", size));
      reader.bits(size);
      if (nonzero != nullptr && size > 0) *nonzero |= std::uint64_t{1} << k;
    }
  }

  /// G.1.2.3: a correction bit for every coefficient that is not zero, between new ones of size 1.
  void refine(BitReader& reader, const Scan& scan, const HuffmanTable& table, std::uint64_t& nonzero) {
    unsigned k = scan.first;
    const auto is_nonzero = [&] { return (nonzero >> k & 1) != 0; };
    while (end_of_band_run_ == 0 && k <= scan.last) {
      const unsigned symbol = reader.symbol(table), size = symbol & 15;
      unsigned run = symbol >> 4;
      if (size > 1) malformed(name_, "a refinement of 1 bit", size);
      if (size == 0 && run < 15) {
        end_of_band_run_ = (1U << run) + reader.bits(run);
        break;
      }
      reader.bits(size);
      for (; k <= scan.last && (is_nonzero() || run > 0); ++k) {
        if (is_nonzero())
          reader.bits(1);
        else
          --run;
      }
      if (k > scan.last) malformed(name_, concat("a refined coefficient up to ", scan.last), "a run beyond it");
      if (size == 1) nonzero |= std::uint64_t{1} << k;
      ++k;
    }
    if (end_of_band_run_ == 0) return;
    for (; k <= scan.last; ++k)
      if (is_nonzero()) reader.bits(1);
    --end_of_band_run_;
  }

  ByteView bytes_;
  const std::string& name_;
  const DecodeLimits& limits_;
  std::size_t position_ = 0;
  std::optional<Frame> frame_;
  std::optional<int> orientation_;
  std::array<bool, 4> quant_defined_{};
  std::array<std::array<std::optional<HuffmanTable>, 4>, 2> tables_;  // DC, AC
  int table_count_ = 0;
  int restart_interval_ = 0;
  unsigned end_of_band_run_ = 0;  // blocks, this one included, without further new coefficients
};

class JpegDecoder final : public ImageDecoder {
 public:
  const char* format() const override { return "JPEG"; }

  bool recognises(ByteView bytes) const override {
    return bytes.size >= 3 && bytes.data[0] == 0xff && bytes.data[1] == kStart && bytes.data[2] == 0xff;
  }

  ImageInfo inspect(ByteView bytes, const std::string& name, const DecodeLimits& limits) const override {
    Walker walker(bytes, name, limits);
    walker.walk(true);
    const Frame& frame = walker.frame();
    return {format(), frame.width, frame.height, static_cast<int>(frame.components.size()), 8, walker.orientation()};
  }

  GrayImage decode(ByteView bytes, const std::string& name, const DecodeLimits& limits) const override {
    Walker walker(bytes, name, limits);
    walker.walk(false);
    const Frame& frame = walker.frame();
    const auto luma = jpeg_luma({bytes.data, walker.end()}, frame.width, frame.height, name);
    GrayImage image = GrayImage::filled(frame.width, frame.height);
    std::transform(luma.begin(), luma.end(), image.pixels.begin(),
                   [](std::uint8_t value) { return static_cast<float>(value) / 255.0F; });
    return upright(std::move(image), walker.orientation());
  }
};

}  // namespace

const ImageDecoder& jpeg_decoder() {
  static const JpegDecoder decoder;
  return decoder;
}

}  // namespace daug::detail
