#include "mojibake.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string_view>
#include <utility>

#include "daug/core/utf8.h"
#include "unicode.h"

namespace daug::text {
namespace {

struct KindRange {
  std::uint32_t first, last;
  std::uint8_t kind;
};
// The character sets that a kind is in, a bit each.
struct Sets {
  std::uint64_t words[2];
};
constexpr std::size_t kLongest = 7;
// A sequence of `length` characters, each out of one set.
struct Pattern {
  bool at_start;  // of the text only
  std::uint8_t length;
  std::uint8_t sets[kLongest];
};
struct EncodedCode {
  char16_t code;
  std::uint8_t byte;
};
struct Encoding {
  const EncodedCode* codes;  // bytes from 0x80 on and 0x1A, by code
  std::size_t size;
  bool sloppy;     // U+FFFD, a byte that was lost, is byte 0x1A
  bool spaces_a0;  // byte 0xA0 may have become a space
};

#include "mojibake_tables.inc"

constexpr int kRounds = 8;
constexpr std::uint8_t kOtherLetter = 0, kOtherCode = 1;  // kinds of what no table names
constexpr char32_t kSubstitute = 0x1A;

constexpr bool in_set(const Sets& sets, unsigned number) { return sets.words[number / 64] >> (number % 64) & 1; }

std::uint8_t find_kind(char32_t code) {
  if (const KindRange* range = find_range(kCodeKinds, code)) return range->kind;
  return is_letter(code) || is_number(code) ? kOtherLetter : kOtherCode;
}

std::uint8_t kind_of(char32_t code) {
  constexpr char32_t kListed = 0x3000;  // nearly all that is misread, and what it is misread as, stands below
  static const auto listed = [] {
    std::array<std::uint8_t, kListed> kinds{};
    for (char32_t low = 0; low < kListed; ++low) kinds[low] = find_kind(low);
    return kinds;
  }();
  return code < kListed ? listed[code] : find_kind(code);
}

constexpr std::array<std::uint8_t, 256> kKindsOfBytes = [] {
  std::array<std::uint8_t, 256> kinds{};
  for (const KindRange& range : kByteKinds)
    for (std::uint32_t byte = range.first; byte <= range.last; ++byte) kinds[byte] = range.kind;
  return kinds;
}();

std::uint8_t kind_of(char byte) { return kKindsOfBytes[static_cast<unsigned char>(byte)]; }

// Tries all patterns of a list at once, a bit each: two characters rule out nearly all of them nearly everywhere.
template <std::size_t kPatterns, std::size_t kKinds>
class Matcher {
 public:
  constexpr Matcher(const Pattern (&patterns)[kPatterns], const Sets (&sets)[kKinds]) {
    static_assert(kPatterns <= 64, "a pattern needs a bit");
    for (std::size_t p = 0; p < kPatterns; ++p) {
      const Pattern& pattern = patterns[p];
      const std::uint64_t bit = std::uint64_t{1} << p;
      lengths_[p] = pattern.length;
      if (!pattern.at_start) anywhere_ |= bit;
      for (std::size_t k = 0; k < kLongest; ++k)
        for (std::size_t kind = 0; kind <= kKinds; ++kind)
          if (k >= pattern.length || (kind < kKinds && in_set(sets[kind], pattern.sets[k]))) fits_[k][kind] |= bit;
    }
  }

  // Length of the first pattern of the list that stands at `at`; 0 when none does.
  template <class Text>
  std::size_t matched(const Text& text, std::size_t at) const {
    std::uint64_t left = at == 0 ? ~std::uint64_t{0} : anywhere_;
    for (std::size_t k = 0; k < kLongest && left != 0; ++k)
      left &= fits_[k][at + k < text.size() ? kind_of(text[at + k]) : kKinds];
    return left == 0 ? 0 : lengths_[static_cast<std::size_t>(std::countr_zero(left))];
  }

 private:
  // [k][kind]: patterns whose character k may be of that kind, and shorter ones; the last kind is the end of the text.
  std::uint64_t fits_[kLongest][kKinds + 1]{};
  std::uint64_t anywhere_ = 0;
  std::uint8_t lengths_[kPatterns]{};
};

constexpr Matcher kBadnessMatcher(kBadness, kCodeSets);
constexpr Matcher kSpaceForA0Matcher(kSpaceForA0, kByteSets);
constexpr Matcher kLossyMatcher(kLossy, kByteSets);

// Whether characters stand side by side that hardly ever do but in text that was read in a wrong encoding.
bool is_bad(std::u32string_view text) {
  for (std::size_t at = 0; at < text.size(); ++at)
    if (kBadnessMatcher.matched(text, at) != 0) return true;
  return false;
}

std::optional<std::string> encode(std::u32string_view text, const Encoding& encoding) {
  std::string bytes;
  bytes.reserve(text.size());
  const EncodedCode* const end = encoding.codes + encoding.size;
  for (char32_t code : text) {
    if (code < 0x80 && code != kSubstitute) {
      bytes += static_cast<char>(code);
      continue;
    }
    const EncodedCode* found = std::lower_bound(
        encoding.codes, end, code, [](const EncodedCode& candidate, char32_t value) { return candidate.code < value; });
    if (found == end || found->code != code) return std::nullopt;
    bytes += static_cast<char>(found->byte);
  }
  return bytes;
}

// The bytes with replace(at, length) in place of what the patterns match.
template <class Patterns, class Replace>
std::string replaced(const Patterns& patterns, const std::string& bytes, const Replace& replace) {
  std::string out;
  out.reserve(bytes.size());
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t length = patterns.matched(bytes, at);
    if (length == 0) {
      out += bytes[at++];
      continue;
    }
    out += replace(at, length);
    at += length;
  }
  return out;
}

// Puts byte 0xA0, a space in many encodings, back where a space breaks a sequence of UTF-8.
std::string restore_a0(const std::string& bytes) {
  return replaced(kSpaceForA0Matcher, bytes, [&](std::size_t at, std::size_t length) {
    std::string sequence = bytes.substr(at, length);
    std::replace(sequence.begin(), sequence.end(), ' ', '\xA0');
    // An "à" is a word of its own, whose space was kept; but for "àquele" and "às".
    if (sequence == "\xC3\xA0") {
      const auto follows = [&](std::string_view text) { return bytes.compare(at + length, text.size(), text) == 0; };
      if (!follows(" ") && !follows("quele") && !follows("quela") && !follows("quilo") && !follows("s "))
        sequence += ' ';
    }
    return sequence;
  });
}

// What Java and CESU-8 write otherwise: NUL as C0 80, characters above U+FFFF as two surrogates.
std::string standard_utf8(const std::string& bytes) {
  std::string out;
  out.reserve(bytes.size());
  for (std::size_t at = 0; at < bytes.size();) {
    const auto byte = [&](std::size_t k) -> char32_t {
      return at + k < bytes.size() ? static_cast<unsigned char>(bytes[at + k]) : 0u;
    };
    if (byte(0) == 0xC0 && byte(1) == 0x80) {
      out += '\0';
      at += 2;
    } else if (byte(0) == 0xED && byte(1) >> 4 == 0xA && byte(2) >> 6 == 2 && byte(3) == 0xED && byte(4) >> 4 == 0xB &&
               byte(5) >> 6 == 2) {
      append_utf8(out,
                  0x10000 + ((byte(1) & 0xF) << 16 | (byte(2) & 0x3F) << 10 | (byte(4) & 0xF) << 6 | (byte(5) & 0x3F)));
      at += 6;
    } else {
      out += bytes[at++];
    }
  }
  return out;
}

std::u32string fix_rounds(std::u32string text, int rounds);

// Repairs each run of what would be UTF-8, for text of several encodings.
std::u32string fix_pieces(std::u32string_view text, int rounds) {
  const auto in = [&](std::size_t at, unsigned set) {
    return at < text.size() && in_set(kCodeSets[kind_of(text[at])], set);
  };
  const auto sequence = [&](std::size_t at) -> std::size_t {
    constexpr unsigned kFirst[] = {kUtf8FirstOf2, kUtf8FirstOf3, kUtf8FirstOf4};
    for (std::size_t length = 2; length <= 4; ++length) {
      std::size_t k = 1;
      while (k < length && in(at + k, kUtf8Continuation)) ++k;
      if (k == length && in(at, kFirst[length - 2])) return length;
    }
    return 0;
  };
  std::u32string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = at;
    if (at == 0 || !in(at - 1, kUtf8ContinuationStrict))
      while (const std::size_t length = sequence(end)) end += length;
    if (end == at) {
      out += text[at++];
      continue;
    }
    const std::u32string piece(text.substr(at, end - at));
    out += piece.size() < text.size() && is_bad(piece) ? fix_rounds(piece, rounds - 1) : piece;
    at = end;
  }
  return out;
}

std::u32string fix_once(const std::u32string& text, int rounds) {
  if (is_ascii(text) || !is_bad(text)) return text;
  for (const Encoding& encoding : kEncodings) {
    std::optional<std::string> bytes = encode(text, encoding);
    if (!bytes) continue;
    const auto has = [&](std::string_view any) { return bytes->find_first_of(any) != std::string::npos; };
    if (encoding.spaces_a0 && has(" ")) bytes = restore_a0(*bytes);
    if (encoding.sloppy && has("\x1A?"))
      bytes = replaced(kLossyMatcher, *bytes, [](std::size_t, std::size_t) { return "\xEF\xBF\xBD"; });
    const std::string standard = standard_utf8(*bytes);
    if (utf8_error(standard) == std::string_view::npos) return decode_utf8(standard);
  }
  std::u32string fixed = fix_pieces(text, rounds);
  if (fixed == text) std::transform(fixed.begin(), fixed.end(), fixed.begin(), windows_1252);
  return fixed;
}

std::u32string fix_rounds(std::u32string text, int rounds) {
  for (; rounds > 0; --rounds) {
    std::u32string fixed = fix_once(text, rounds);
    if (fixed == text) break;
    text = std::move(fixed);
  }
  return text;
}

}  // namespace

std::u32string fix_encoding(std::u32string text) { return fix_rounds(std::move(text), kRounds); }

}  // namespace daug::text
