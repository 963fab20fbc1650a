#include "unicode.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <optional>
#include <unordered_map>

namespace daug::text {
namespace {

struct CodeRange {
  std::uint32_t first, last;
};
struct LowerRun {
  std::uint32_t first, last, stride;
  std::int32_t delta;
};
struct CaseRange {
  std::uint32_t first, last;
  bool cased;  // otherwise case-ignorable
};
struct CombiningRange {
  std::uint32_t first, last;
  std::uint8_t combining_class;
};
struct Decomposition {
  char32_t composed, first, second;  // second is 0 for a singleton
  bool composes;                     // normalisation form C puts it together again
};
struct Entity {
  std::string_view name;
  char32_t code;
  char16_t second;  // 0 for one character
  bool bare;        // valid without a semicolon
};
struct UpperCase {
  char16_t code;
  char16_t upper[3];  // 0 behind the last
};

#include "unicode_tables.inc"

constexpr char32_t kReplacement = 0xFFFD;
constexpr char32_t kCapitalSigma = 0x3A3, kSigma = 0x3C3, kFinalSigma = 0x3C2;
constexpr char32_t kFirstDecomposed = 0xC0;
constexpr char32_t kFirstCombining = 0x300;  // text below it is already in form C, and joins nothing before it

// Hangul syllables are composed by arithmetic (Unicode Standard, section 3.12).
constexpr char32_t kSyllable = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kTrail = 0x11A7;
constexpr char32_t kVowels = 21, kTrails = 28, kLeads = 19, kSyllables = kLeads * kVowels * kTrails;

int combining_class(char32_t code) {
  if (code < kFirstCombining) return 0;
  const CombiningRange* range = find_range(kCombining, code);
  return range ? range->combining_class : 0;
}

void append_decomposed(char32_t code, std::u32string& out) {
  if (code < kFirstDecomposed) {
    out += code;
    return;
  }
  if (code >= kSyllable && code < kSyllable + kSyllables) {
    const char32_t index = code - kSyllable;
    out += kLead + index / (kVowels * kTrails);
    out += kVowel + index / kTrails % kVowels;
    if (index % kTrails) out += kTrail + index % kTrails;
    return;
  }
  const auto* entry =
      std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), code,
                       [](const Decomposition& candidate, char32_t value) { return candidate.composed < value; });
  if (entry == std::end(kDecompositions) || entry->composed != code) {
    out += code;
    return;
  }
  append_decomposed(entry->first, out);
  if (entry->second) out += entry->second;  // second parts never decompose further
}

std::optional<char32_t> compose(char32_t first, char32_t second) {
  if (first >= kLead && first < kLead + kLeads && second >= kVowel && second < kVowel + kVowels)
    return kSyllable + ((first - kLead) * kVowels + (second - kVowel)) * kTrails;
  if (first >= kSyllable && first < kSyllable + kSyllables && (first - kSyllable) % kTrails == 0 && second > kTrail &&
      second < kTrail + kTrails)
    return first + (second - kTrail);
  static const auto pairs = [] {
    std::unordered_map<std::uint64_t, char32_t> map;
    for (const Decomposition& entry : kDecompositions)
      if (entry.composes) map[std::uint64_t{entry.first} << 32 | entry.second] = entry.composed;
    return map;
  }();
  const auto found = pairs.find(std::uint64_t{first} << 32 | second);
  return found == pairs.end() ? std::nullopt : std::optional<char32_t>(found->second);
}

// Whether the capital sigma at `at` ends a word: behind a cased character and before none, ignorable ones aside.
bool is_final_sigma(std::u32string_view text, std::size_t at) {
  const CaseRange* range = nullptr;
  std::size_t before = at;
  do {
    range = before > 0 ? find_range(kCases, text[--before]) : nullptr;
  } while (range && !range->cased);
  if (!range) return false;
  do {
    range = ++at < text.size() ? find_range(kCases, text[at]) : nullptr;
  } while (range && !range->cased);
  return !range;
}

const Entity* find_entity(std::string_view name) {
  const auto* entry =
      std::lower_bound(std::begin(kEntities), std::end(kEntities), name,
                       [](const Entity& candidate, std::string_view value) { return candidate.name < value; });
  return entry != std::end(kEntities) && entry->name == name ? entry : nullptr;
}

// The longest prefix of a name that is valid without a semicolon, as browsers read it; null when none is.
const Entity* find_bare_prefix(std::string_view name) {
  for (; name.size() >= 2; name.remove_suffix(1))
    if (const Entity* entity = find_entity(name); entity && entity->bare) return entity;
  return nullptr;
}

void append_entity(const Entity& entity, std::u32string& out) {
  out += entity.code;
  if (entity.second) out += entity.second;
}

void append_upper(char32_t code, std::u32string& out) {
  if (code < 0x80) {
    out += code >= 'a' && code <= 'z' ? code - 0x20 : code;
    return;
  }
  const auto* entry = std::find_if(std::begin(kUpper), std::end(kUpper),
                                   [&](const UpperCase& candidate) { return candidate.code == code; });
  if (entry == std::end(kUpper)) {
    out += code;
    return;
  }
  for (const char16_t upper : entry->upper)
    if (upper) out += upper;
}

// A name in capitals, when it means nothing by itself. False when it is none.
bool append_capital_entity(std::string_view name, std::u32string& out) {
  std::string lower(name);
  for (char& letter : lower) {
    if (letter >= 'a') return false;
    if (letter >= 'A') letter = static_cast<char>(letter | 0x20);
  }
  const Entity* entity = find_entity(lower);
  if (!entity || find_bare_prefix(name)) return false;
  append_upper(entity->code, out);
  if (entity->second) append_upper(entity->second, out);
  return true;
}

bool is_noncharacter_or_control(char32_t code) {
  return (code >= 0x1 && code <= 0x8) || code == 0xB || (code >= 0xE && code <= 0x1F) ||
         (code >= 0x7F && code <= 0x9F) || (code >= 0xFDD0 && code <= 0xFDEF) || (code & 0xFFFE) == 0xFFFE;
}

// Reads the reference that follows the '&' at text[0]. Returns the number of code points it spans, 0 when it is none.
std::size_t unescape_reference(std::u32string_view text, bool require_semicolon, std::u32string& out) {
  constexpr std::size_t kLongestName = 24;  // that ftfy reads
  const auto at = [&](std::size_t i) { return i < text.size() ? text[i] : U'\0'; };
  const auto digit = [](char32_t code, bool hex) -> int {
    if (code >= '0' && code <= '9') return static_cast<int>(code - '0');
    if (hex && (code | 0x20) >= 'a' && (code | 0x20) <= 'f') return static_cast<int>((code | 0x20) - 'a' + 10);
    return -1;
  };
  if (at(1) == '#') {
    const bool hex = (at(2) | 0x20) == 'x';
    const std::size_t begin = hex ? 3 : 2;
    std::size_t end = begin;
    char32_t code = 0;
    for (; end < text.size() && digit(text[end], hex) >= 0; ++end)
      code = std::min<char32_t>(code * (hex ? 16 : 10) + static_cast<char32_t>(digit(text[end], hex)), 0x110000);
    if (end == begin || (require_semicolon && (at(end) != ';' || end - 2 > kLongestName))) return 0;
    const char32_t repaired = windows_1252(code);
    if (code == 0 || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) {
      out += kReplacement;
    } else if (repaired != code) {
      out += repaired;
    } else if (!is_noncharacter_or_control(code)) {
      out += code;
    }
    return end + (at(end) == ';');
  }
  std::string name;  // table names are ASCII letters and digits, at most 31 of them
  std::size_t end = 1;
  while (end < text.size() && name.size() < 32 && text[end] < 0x80 &&
         (digit(text[end], false) >= 0 || ((text[end] | 0x20) >= 'a' && (text[end] | 0x20) <= 'z')))
    name += static_cast<char>(text[end++]);
  if (require_semicolon && name.size() > kLongestName) return 0;
  if (at(end) == ';') {
    if (const Entity* entity = find_entity(name)) {
      append_entity(*entity, out);
      return end + 1;
    }
    if (require_semicolon && append_capital_entity(name, out)) return end + 1;
  }
  const Entity* prefix = require_semicolon ? nullptr : find_bare_prefix(name);
  if (!prefix) return 0;
  append_entity(*prefix, out);
  return 1 + prefix->name.size();
}

}  // namespace

std::u32string decode_utf8(std::string_view bytes) {
  std::u32string codes;
  codes.reserve(bytes.size());
  for (std::size_t i = 0; i < bytes.size();) {
    const auto byte = static_cast<unsigned char>(bytes[i]);
    const std::size_t length = byte < 0x80 ? 1 : byte >> 5 == 6 ? 2 : byte >> 4 == 14 ? 3 : byte >> 3 == 30 ? 4 : 0;
    char32_t code = length < 2 ? byte : byte & (0x7Fu >> length);
    bool valid = length != 0 && length <= bytes.size() - i;
    for (std::size_t k = 1; valid && k < length; ++k) {
      const auto next = static_cast<unsigned char>(bytes[i + k]);
      valid = next >> 6 == 2;
      code = code << 6 | (next & 0x3F);
    }
    constexpr std::array<char32_t, 5> kSmallest{0, 0, 0x80, 0x800, 0x10000};  // shorter forms exist below these
    valid = valid && code >= kSmallest[length] && code <= 0x10FFFF && !(code >= 0xD800 && code <= 0xDFFF);
    codes += valid ? code : kReplacement;
    i += valid ? length : 1;
  }
  return codes;
}

void append_utf8(std::string& bytes, char32_t code) {
  const auto put = [&](char32_t value) { bytes += static_cast<char>(value); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

std::string encode_utf8(std::u32string_view codes) {
  std::string bytes;
  bytes.reserve(codes.size());
  for (char32_t code : codes) append_utf8(bytes, code);
  return bytes;
}

bool is_ascii(std::u32string_view text) {
  return std::all_of(text.begin(), text.end(), [](char32_t code) { return code < 0x80; });
}

bool is_letter(char32_t code) {
  if (code < 0x80) return (code | 0x20) >= 'a' && (code | 0x20) <= 'z';
  return find_range(kLetters, code) != nullptr;
}

bool is_number(char32_t code) {
  if (code < 0x80) return code >= '0' && code <= '9';
  return find_range(kNumbers, code) != nullptr;
}

bool is_space(char32_t code) {
  return code == ' ' || (code >= '\t' && code <= '\r') || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F ||
         code == 0x3000;
}

std::u32string to_lower(std::u32string_view text, bool final_sigma) {
  std::u32string lower;
  lower.reserve(text.size());
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char32_t code = text[at];
    if (code < 0x80) {
      lower += code >= 'A' && code <= 'Z' ? code + 0x20 : code;
    } else if (code == 0x130) {
      lower += U"i\u0307";
    } else if (final_sigma && code == kCapitalSigma) {
      lower += is_final_sigma(text, at) ? kFinalSigma : kSigma;
    } else {
      const LowerRun* run = find_range(kLower, code);
      const bool changes = run && (code - run->first) % run->stride == 0;
      lower += changes ? static_cast<char32_t>(static_cast<std::int64_t>(code) + run->delta) : code;
    }
  }
  return lower;
}

std::u32string normalize_nfc(std::u32string text) {
  if (std::all_of(text.begin(), text.end(), [](char32_t code) { return code < kFirstCombining; })) return text;
  std::u32string decomposed;
  decomposed.reserve(text.size());
  for (char32_t code : text) append_decomposed(code, decomposed);

  // Canonical order: marks between two starters are sorted by class, stably.
  for (auto first = decomposed.begin(); first != decomposed.end();) {
    if (combining_class(*first) == 0) {
      ++first;
      continue;
    }
    const auto last = std::find_if(first, decomposed.end(), [](char32_t code) { return combining_class(code) == 0; });
    std::stable_sort(first, last, [](char32_t a, char32_t b) { return combining_class(a) < combining_class(b); });
    first = last;
  }

  // Composition: each character joins the last starter unless one of the same or a higher class stands between.
  std::u32string composed;
  composed.reserve(decomposed.size());
  std::optional<std::size_t> starter;
  int previous_class = 0;
  for (char32_t code : decomposed) {
    const int own_class = combining_class(code);
    const bool adjacent = starter && *starter + 1 == composed.size();
    if (starter && code >= kFirstCombining && (adjacent || previous_class < own_class)) {
      if (const auto joined = compose(composed[*starter], code)) {
        composed[*starter] = *joined;
        continue;
      }
    }
    if (own_class == 0) starter = composed.size();
    previous_class = own_class;
    composed += code;
  }
  return composed;
}

std::u32string html_unescape(std::u32string_view text, bool require_semicolon) {
  if (text.find(U'&') == std::u32string_view::npos) return std::u32string(text);
  std::u32string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const std::size_t used = text[0] == '&' ? unescape_reference(text, require_semicolon, out) : 0;
    if (used == 0) out += text[0];
    text.remove_prefix(std::max<std::size_t>(used, 1));
  }
  return out;
}

char32_t standard_width(char32_t code) {
  constexpr char32_t kFirst = 0xFF5F;  // the table's
  if (code == 0x3000) return U' ';
  if (code >= 0xFF01 && code < kFirst) return code - 0xFEE0;
  const bool listed = code >= kFirst && code < kFirst + std::size(kWidths) && kWidths[code - kFirst];
  return listed ? kWidths[code - kFirst] : code;
}

char32_t windows_1252(char32_t code) {
  constexpr std::array<char16_t, 32> kTable{0x20AC, 0x81,   0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021,
                                            0x02C6, 0x2030, 0x0160, 0x2039, 0x0152, 0x8D,   0x017D, 0x8F,
                                            0x90,   0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014,
                                            0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0x9D,   0x017E, 0x0178};
  return code >= 0x80 && code <= 0x9F ? kTable[code - 0x80] : code;
}

}  // namespace daug::text
