#include "daug/io/fingerprint.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <system_error>
#include <vector>

#include "daug/core/error.h"

namespace daug {
namespace {

std::string canonical_bytes(XXH128_hash_t hash) {
  XXH128_canonical_t bytes;
  XXH128_canonicalFromHash(&bytes, hash);
  return std::string(reinterpret_cast<const char*>(bytes.digest), sizeof bytes.digest);
}

std::string hex_digits(XXH128_hash_t hash) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const char byte : canonical_bytes(hash)) {
    const auto value = static_cast<unsigned char>(byte);
    text += kDigits[value >> 4];
    text += kDigits[value & 15];
  }
  return text;
}

}  // namespace

// A field is kind, name length, name, value length, value digest: lengths keep neighbouring fields apart, the digest
// keeps the object small however much is added.
Fingerprint& Fingerprint::add_field(char kind, std::string_view name, const void* data, std::size_t size) {
  const std::uint64_t lengths[2] = {name.size(), size};
  fields_ += kind;
  fields_.append(reinterpret_cast<const char*>(lengths), sizeof lengths);
  fields_.append(name);
  fields_ += canonical_bytes(XXH3_128bits(data, size));
  return *this;
}

Fingerprint& Fingerprint::add(std::string_view name, std::string_view value) {
  return add_field('s', name, value.data(), value.size());
}

Fingerprint& Fingerprint::add_integer(std::string_view name, std::int64_t value) {
  return add_field('i', name, &value, sizeof value);
}

Fingerprint& Fingerprint::add(std::string_view name, double value) {
  if (value == 0) value = 0;  // -0 and +0 are the same setting
  return add_field('d', name, &value, sizeof value);
}

Fingerprint& Fingerprint::add_bytes(std::string_view name, const void* data, std::size_t size) {
  return add_field('b', name, data, size);
}

std::string Fingerprint::hex() const { return hex_digits(XXH3_128bits(fields_.data(), fields_.size())); }

std::uint64_t checksum64(const void* data, std::size_t size) { return XXH3_64bits(data, size); }

std::string fingerprint_file(const std::string& path) {
  const auto fail_io = [&](int error) {
    fail(error == ENOENT || error == ENOTDIR ? ErrorCode::kNotFound : ErrorCode::kIo, "fingerprint_file", path,
         "a readable file", std::generic_category().message(error));
  };
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) fail_io(errno);
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(), XXH3_freeState);
  XXH3_128bits_reset(state.get());
  std::vector<char> buffer(std::size_t{1} << 20);
  while (const std::size_t count = std::fread(buffer.data(), 1, buffer.size(), file.get()))
    XXH3_128bits_update(state.get(), buffer.data(), count);
  if (std::ferror(file.get())) fail_io(errno);
  return hex_digits(XXH3_128bits_digest(state.get()));
}

}  // namespace daug
