#include "daug/io/gzip.h"

#include <string>

#include "daug/core/error.h"
#include "daug/core/random.h"
#include "support/catch.h"
#include "support/gzip.h"

using daug::gunzip;
using daug::is_gzip;
using daug::test::gzip;

namespace {

std::string noise(std::size_t size) {
  daug::RandomStream random(1, size, "gzip");
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>(random.below(256));
  return text;
}

}  // namespace

TEST_CASE("what was packed is unpacked", "[gzip]") {
  for (const std::size_t size : {0U, 1U, 32767U, 32768U, 32769U, 200000U}) {
    INFO(size << " bytes");
    const std::string random = noise(size), zeros(size, '\0');
    CHECK(gunzip(gzip(random), size, "x") == random);
    CHECK(gunzip(gzip(zeros), size, "x") == zeros);
    CHECK(gunzip(gzip(zeros) + gzip(random) + gzip(""), 2 * size, "x") == zeros + random);
    CHECK(is_gzip(gzip(random)));
  }
  CHECK_FALSE(is_gzip(""));
  CHECK_FALSE(is_gzip("\x1f"));
  CHECK_FALSE(is_gzip("text"));
}

TEST_CASE("data that lies is refused by name", "[gzip]") {
  const std::string text = noise(5000) + std::string(5000, 'a'), packed = gzip(text);
  const auto refused = [](const std::string& data, std::uint64_t most) {
    CHECK_THROWS_WITH(gunzip(data, most, "some file"), daug::test::contains_text("some file"));
  };
  refused(packed, text.size() - 1);
  refused("", 100);
  refused("plain text", 100);
  refused(packed + "tail", text.size());
  for (std::size_t size = 0; size < packed.size(); size += 97) refused(packed.substr(0, size), text.size());
  for (std::size_t size = packed.size() - 10; size < packed.size(); ++size)
    refused(packed.substr(0, size), text.size());
  // A changed byte is noticed, by the checksum at the latest, or it held bits that mean nothing (the header's time and
  // system, what fills up the last byte of a block): the text is never another.
  int noticed = 0, changed = 0;
  for (std::size_t i = 10; i < packed.size(); i += 13, ++changed) {
    std::string damaged = packed;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x40);
    INFO("byte " << i);
    std::string unpacked;
    try {
      unpacked = gunzip(damaged, text.size(), "some file");
    } catch (const daug::Error& error) {
      CHECK(std::string(error.what()).find("some file") != std::string::npos);
      ++noticed;
      continue;
    }
    CHECK(unpacked == text);
  }
  CHECK(noticed >= changed - 3);
  // A bomb: 64 MB in 64 kB, of which no more than the limit is unpacked.
  const std::string bomb = gzip(std::string(64 << 20, '\0'));
  CHECK(bomb.size() < 100000);
  refused(bomb, 1 << 20);
}
