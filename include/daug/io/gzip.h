#pragma once
/// @file
/// Reading gzip data (RFC 1952) that may be hostile.

#include <cstdint>
#include <string>
#include <string_view>

namespace daug {

/// Whether data begins as gzip data does.
bool is_gzip(std::string_view data) noexcept;

/// What gzip data stands for: its members joined, each checked against its checksum. `name` is what errors call it.
/// Throws kFormat for data that is no gzip, is cut off or damaged, or unpacks to more than `max_bytes`; no more memory
/// than that is ever set aside, however small the data is.
std::string gunzip(std::string_view data, std::uint64_t max_bytes, const std::string& name);

}  // namespace daug
