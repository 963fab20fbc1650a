// The one place where stb is compiled: private copies, JPEG reading, zlib and PNG writing only.

#include <climits>
#include <memory>

#include "format.h"

// An assertion that fails must not end the user's program. (stb's buffers leak then; none is known to fail.)
#define DAUG_STB_ASSERT(condition)                                                     \
  do {                                                                                 \
    if (!(condition)) throw daug::Error(daug::ErrorCode::kFormat, "stb: " #condition); \
  } while (false)

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_SUPPORT_ZLIB
#define STBI_NO_STDIO
#define STBI_ASSERT(condition) DAUG_STB_ASSERT(condition)
#include <stb_image.h>

#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBI_WRITE_NO_STDIO
#define STBIW_ASSERT(condition) DAUG_STB_ASSERT(condition)
#include <stb_image_write.h>

namespace daug::detail {

std::int64_t inflate_into(ByteView stream, std::vector<std::uint8_t>& out) {
  if (stream.size > INT_MAX || out.size() > INT_MAX) return -1;
  return stbi_zlib_decode_buffer(reinterpret_cast<char*>(out.data()), static_cast<int>(out.size()),
                                 reinterpret_cast<const char*>(stream.data), static_cast<int>(stream.size));
}

std::vector<std::uint8_t> jpeg_luma(ByteView bytes, int width, int height, const std::string& name) {
  int actual_width = 0, actual_height = 0, channels = 0;
  const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
      stbi_load_from_memory(bytes.data, static_cast<int>(bytes.size), &actual_width, &actual_height, &channels, 1),
      stbi_image_free);
  if (!pixels) unsupported(name, "a JPEG file that stb_image decodes", stbi_failure_reason());
  if (actual_width != width || actual_height != height)
    malformed(name, concat(width, " x ", height, " pixels"), concat(actual_width, " x ", actual_height));
  return {pixels.get(), pixels.get() + static_cast<std::size_t>(width) * static_cast<std::size_t>(height)};
}

std::vector<std::uint8_t> png_bytes(const std::uint8_t* pixels, int width, int height, int channels) {
  std::vector<std::uint8_t> bytes;
  const auto append = [](void* target, void* data, int size) {
    const auto* first = static_cast<const std::uint8_t*>(data);
    auto* out = static_cast<std::vector<std::uint8_t>*>(target);
    out->insert(out->end(), first, first + size);
  };
  stbi_write_png_to_func(append, &bytes, width, height, channels, pixels, width * channels);
  return bytes;
}

}  // namespace daug::detail
