#pragma once
/// @file
/// Image files to gray pictures behind one interface. The format is told from the content, never from the name, and
/// nothing a file claims is believed before it is checked.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "daug/image/image.h"

namespace daug {

/// What a file may ask for; checked against its header, before any memory is set aside for pixels.
struct DecodeLimits {
  int max_width = 16384;                             ///< pixels, at least 1
  int max_height = 16384;                            ///< pixels, at least 1
  std::int64_t max_pixels = std::int64_t{1} << 26;   ///< width * height, at least 1
  std::int64_t max_bytes = std::int64_t{256} << 20;  ///< size of the file, in [1, 2^31 - 1]

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// A range of bytes owned by someone else.
struct ByteView {
  const std::uint8_t* data = nullptr;  ///< first byte; null only when there are none
  std::size_t size = 0;                ///< number of bytes

  /// No bytes.
  ByteView() = default;
  /// `count` bytes from `first` on, which must outlive the view.
  ByteView(const std::uint8_t* first, std::size_t count) : data(first), size(count) {}
  /// All of `bytes`, which must outlive the view.
  ByteView(const std::vector<std::uint8_t>& bytes) : data(bytes.data()), size(bytes.size()) {}  // NOLINT: a view
};

/// What a header says.
struct ImageInfo {
  std::string format;   ///< "PNG", "JPEG" or "PGM"
  int width = 0;        ///< pixels, as stored: before `orientation` is applied
  int height = 0;       ///< pixels, as stored
  int channels = 1;     ///< as stored; a palette counts as 3
  int bits = 8;         ///< of one stored sample (of one palette index), 1 to 16
  int orientation = 1;  ///< EXIF orientation, 1 to 8; 1: upright, 5 and above exchange width and height
};

/// One file format. Implementations hold no state, so one object serves all threads.
///
/// `name` (usually the path) only serves error messages. Throws kFormat when the bytes contradict the format (cut off,
/// checksum wrong, more or less data than the header announces), kUnsupported when they are valid but beyond the
/// limits or this build.
class ImageDecoder {
 public:
  /// Implementations may be destroyed as this.
  virtual ~ImageDecoder() = default;

  /// Short upper-case name, e.g. "PNG".
  virtual const char* format() const = 0;
  /// Whether the first bytes carry the format's signature. Any size, also 0.
  virtual bool recognises(ByteView bytes) const = 0;
  /// Header and metadata alone; pixel data are not looked at.
  virtual ImageInfo inspect(ByteView bytes, const std::string& name, const DecodeLimits& limits) const = 0;
  /// The whole picture, upright (orientation applied).
  virtual GrayImage decode(ByteView bytes, const std::string& name, const DecodeLimits& limits) const = 0;
};

/// The decoders in the order in which they are asked.
const std::vector<const ImageDecoder*>& image_decoders();

/// The decoder whose signature the bytes carry. Throws kUnsupported naming a known foreign format (BMP, GIF, TIFF,
/// JPEG 2000, ICO, WebP, PPM, DICOM, ...), kFormat for anything else.
const ImageDecoder& decoder_for(ByteView bytes, const std::string& name);

/// Decodes a file that is in memory.
///
/// - PNG: every colour type and depth, interlaced or not. Checksums are verified, and the data must fill the picture
///   exactly; bytes after the end are ignored, as are alpha, gamma and colour profiles.
/// - JPEG: baseline, extended and progressive, 8 bits. The coded data are walked bit by bit before a pixel is computed,
///   so a file that ends early is refused instead of being filled with gray; luma is taken as stored.
/// - PGM: plain (P2) and raw (P5), up to 16 bits.
///
/// A sample v of a file with largest value m becomes v / m, exactly rounded. Colour becomes 0.299 R + 0.587 G + 0.114 B
/// (ITU-R BT.601); equal channels give exactly what the gray file gives. The EXIF orientation of JPEG and PNG files is
/// applied; malformed EXIF data count as upright. Deterministic.
GrayImage decode_image(ByteView bytes, const std::string& name, const DecodeLimits& limits = {});

/// The same for a file on disk, with the same errors; also throws kNotFound and kIo. A file beyond limits.max_bytes is
/// not read.
GrayImage read_image(const std::string& path, const DecodeLimits& limits = {});

/// Header of a file in memory; same errors as far as the header and metadata go.
ImageInfo inspect_image(ByteView bytes, const std::string& name, const DecodeLimits& limits = {});

}  // namespace daug
