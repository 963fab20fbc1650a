#include "daug/io/fingerprint.h"

#include <cctype>
#include <cstdint>
#include <set>
#include <string>

#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using daug::test::caught;
using daug::test::Scratch;

TEST_CASE("fingerprints are 32 lower-case hexadecimal digits, equal for equal fields", "[io]") {
  const auto make = [] { return Fingerprint().add("seed", 3).add("rate", 0.1).add("name", "tiny").hex(); };
  const std::string text = make();
  CHECK(text == make());
  REQUIRE(text.size() == 32);
  for (const char c : text) CHECK((std::isdigit(static_cast<unsigned char>(c)) || (c >= 'a' && c <= 'f')));
}

TEST_CASE("everything about a field matters, and the order", "[io]") {
  const std::string text = "1";
  const std::int64_t one = 1;
  std::set<std::string> seen;
  const std::string fingerprints[] = {
      Fingerprint().hex(),
      Fingerprint().add("ab", "c").hex(),
      Fingerprint().add("a", "bc").hex(),
      Fingerprint().add("", "abc").hex(),
      Fingerprint().add("abc", "").hex(),
      Fingerprint().add("a", "").add("b", "c").hex(),
      Fingerprint().add("b", "c").add("a", "").hex(),
      Fingerprint().add("x", text).hex(),
      Fingerprint().add("x", 1).hex(),
      Fingerprint().add("x", 1.0).hex(),
      Fingerprint().add("x", 2).hex(),
      Fingerprint().add("x", -1).hex(),
      Fingerprint().add_bytes("x", &one, sizeof one).hex(),
      Fingerprint().add("x", 1).add("x", 1).hex(),
  };
  for (const auto& each : fingerprints) CHECK(seen.insert(each).second);
}

TEST_CASE("the same value of another integer type, and zero of either sign, are the same field", "[io]") {
  const std::string one = Fingerprint().add("x", std::int64_t{1}).hex();
  CHECK(Fingerprint().add("x", 1).hex() == one);
  CHECK(Fingerprint().add("x", std::uint64_t{1}).hex() == one);
  CHECK(Fingerprint().add("x", true).hex() == one);
  CHECK(Fingerprint().add("x", 0.0).hex() == Fingerprint().add("x", -0.0).hex());
  CHECK(Fingerprint().add("x", 0.5F).hex() == Fingerprint().add("x", 0.5).hex());
}

TEST_CASE("checksums are the published XXH3 values", "[io]") {
  CHECK(checksum64("", 0) == 0x2d06800538d394c2ULL);  // XXH3_64bits of nothing, seed 0
  const std::string text(1000, 'a');
  const std::uint64_t whole = checksum64(text.data(), text.size());
  for (std::size_t i = 0; i < text.size(); i += 37) {
    std::string changed = text;
    changed[i] ^= 1;
    CHECK(checksum64(changed.data(), changed.size()) != whole);
  }
}

TEST_CASE("a file's fingerprint is that of its bytes, whatever its name and size", "[io]") {
  const Scratch scratch;
  CHECK(fingerprint_file(scratch.put("empty", "")) == "99aa06d3014798d86001c324468d497f");  // XXH3-128 of nothing
  const std::string large(3000000, 'x');
  const std::string first = fingerprint_file(scratch.put("a", large));
  CHECK(fingerprint_file(scratch.put("b", large)) == first);
  CHECK(fingerprint_file(scratch.put("c", large + "y")) != first);
  std::string changed = large;
  changed[2500000] = 'y';
  CHECK(fingerprint_file(scratch.put("d", changed)) != first);
  CHECK(caught([&] { (void)fingerprint_file(scratch.path("absent")); }).code() == ErrorCode::kNotFound);
  CHECK(caught([&] { (void)fingerprint_file(scratch.folder()); }).code() == ErrorCode::kIo);
}
