#pragma once
/// @file
/// Whole-file reading with a size cap, and writing that leaves the old file or the new one, never half.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace daug {

/// Reads a whole file. Throws kNotFound, kIo, or kFormat when it is larger than `max_bytes`.
std::vector<std::uint8_t> read_file(const std::string& path, std::uint64_t max_bytes = std::uint64_t{1} << 34);
/// The same as text, any bytes.
std::string read_text_file(const std::string& path, std::uint64_t max_bytes = std::uint64_t{1} << 30);

/// Writes to a temporary beside `path`, flushes it to disk (fsync), renames it over `path`. A file that is replaced
/// leaves its permissions (not its owner) to the new one; others get those of any new file. On any failure (full disk,
/// read-only folder) the temporary is removed, `path` is untouched, and kIo is thrown with the reason. A process that
/// is killed meanwhile leaves the temporary, `.daug-PROCESS-NUMBER.tmp`, which nothing reads.
void write_file_atomically(const std::string& path, const void* data, std::size_t size);
/// The same for text.
void write_file_atomically(const std::string& path, std::string_view text);

/// Takes the next `size` bytes of a file.
using ByteSink = std::function<void(const void* data, std::size_t size)>;
/// The same for content produced in pieces: `write` is handed a sink to call as often as it likes. What it throws is
/// passed on, and `path` is untouched.
void write_file_atomically(const std::string& path, const std::function<void(const ByteSink&)>& write);

}  // namespace daug
