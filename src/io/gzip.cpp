#include "daug/io/gzip.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <limits>
#include <memory>

#include "daug/core/error.h"

namespace daug {

bool is_gzip(std::string_view data) noexcept { return data.substr(0, 2) == "\x1f\x8b"; }

std::string gunzip(std::string_view data, std::uint64_t max_bytes, const std::string& name) {
  constexpr const char* kFunction = "daug::gunzip";
  constexpr int kGzipOnly = 16;  // added to the window's bits
  const auto refuse = [&](const char* why) { fail(ErrorCode::kFormat, kFunction, name, "intact gzip data", why); };
  z_stream stream{};
  if (inflateInit2(&stream, MAX_WBITS + kGzipOnly) != Z_OK)
    throw Error(ErrorCode::kIo, detail::concat(kFunction, ": ", name, ": zlib does not start"));
  const std::unique_ptr<z_stream, int (*)(z_stream*)> guard(&stream, inflateEnd);
  std::string unpacked;
  std::array<char, 1 << 15> block;
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
  std::size_t left = data.size();
  int status = Z_OK;
  do {
    const auto offered = static_cast<uInt>(std::min<std::size_t>(left, std::numeric_limits<uInt>::max()));
    stream.avail_in = offered;
    stream.next_out = reinterpret_cast<Bytef*>(block.data());
    stream.avail_out = static_cast<uInt>(block.size());
    status = inflate(&stream, Z_NO_FLUSH);
    left -= offered - stream.avail_in;
    const std::size_t produced = block.size() - stream.avail_out;
    if (status == Z_BUF_ERROR) refuse("data that is cut off");
    if (status != Z_OK && status != Z_STREAM_END) refuse(stream.msg ? stream.msg : "other data");
    if (produced > max_bytes - unpacked.size())
      fail(ErrorCode::kFormat, kFunction, name, detail::concat("at most ", max_bytes, " bytes unpacked"), "more");
    unpacked.append(block.data(), produced);
    if (status == Z_STREAM_END && left > 0) inflateReset(&stream);  // another member
  } while (status != Z_STREAM_END || left > 0);
  return unpacked;
}

}  // namespace daug
