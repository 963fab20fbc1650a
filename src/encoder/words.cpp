#include "words.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

#include "mojibake.h"
#include "unicode.h"

namespace daug::text {
namespace {

// White space runs become one space; none is left at the ends. Python's str.split, which open_clip uses, also counts
// the separators U+001C to U+001F, but those are control characters and gone by then.
std::u32string collapse_spaces(std::u32string_view text) {
  std::u32string out;
  out.reserve(text.size());
  bool space = false;
  for (char32_t code : text) {
    if (is_space(code)) {
      space = true;
      continue;
    }
    if (space && !out.empty()) out += U' ';
    space = false;
    out += code;
  }
  return out;
}

std::u32string_view ligature(char32_t code) {
  switch (code) {
    case 0x132:
      return U"IJ";
    case 0x133:
      return U"ij";
    case 0x149:
      return U"'n";
    case 0x1C4:  // three cases of each digraph: all becomes lower case
    case 0x1C5:
    case 0x1C6:
      return U"d\u017E";
    case 0x1C7:
    case 0x1C8:
    case 0x1C9:
      return U"lj";
    case 0x1CA:
    case 0x1CB:
    case 0x1CC:
      return U"nj";
    case 0x1F1:
    case 0x1F2:
    case 0x1F3:
      return U"dz";
    case 0xFB00:
      return U"ff";
    case 0xFB01:
      return U"fi";
    case 0xFB02:
      return U"fl";
    case 0xFB03:
      return U"ffi";
    case 0xFB04:
      return U"ffl";
    case 0xFB05:
      return U"\u017Ft";
    case 0xFB06:
      return U"st";
    default:
      return {};
  }
}

bool is_removed_control(char32_t code) {
  return code < 0x9 || code == 0xB || (code >= 0xE && code < 0x20) || code == 0x7F ||
         (code >= 0x206A && code < 0x2070) || code == 0xFEFF || (code >= 0xFFF9 && code < 0xFFFD);
}

// Length of the terminal escape (ESC [ numbers letter) at `at`; 0 when none is there.
std::size_t terminal_escape(std::u32string_view text, std::size_t at) {
  if (text.substr(at, 2) != U"\x1B[") return 0;
  std::size_t end = at + 2;
  while (end < text.size() && (text[end] == U';' || (text[end] >= U'0' && text[end] <= U'9'))) ++end;
  const bool letter = end < text.size() && text[end] < 0x80 && is_letter(text[end]);
  return letter ? end + 1 - at : 0;
}

// The repairs of ftfy.fix_text that replace characters: Windows-1252, ligatures, widths, quotes, line breaks; then
// those that remove some: terminal escapes and control characters.
std::u32string repair_characters(std::u32string_view text) {
  std::u32string usual;
  usual.reserve(text.size());
  for (char32_t code : text) {
    code = standard_width(windows_1252(code));
    if (code == 0x2BC || (code >= 0x2018 && code <= 0x201B)) code = U'\'';
    if (code >= 0x201C && code <= 0x201F) code = U'"';
    if (code == U'\r' || code == 0x2028 || code == 0x2029) code = U'\n';
    const std::u32string_view letters = code == 0xFFE3 ? U" \u0304" : ligature(code);
    if (letters.empty()) {
      usual += code;
    } else {
      usual += letters;
    }
  }
  std::u32string kept;
  kept.reserve(usual.size());
  for (std::size_t at = 0; at < usual.size();) {
    const std::size_t escape = terminal_escape(usual, at);
    if (escape == 0 && !is_removed_control(usual[at])) kept += usual[at];
    at += std::max<std::size_t>(escape, 1);
  }
  return kept;
}

// What ftfy.fix_text (version 6.3.1, Robyn Speer, Apache-2.0) makes of a text: each line is repaired until nothing
// changes. References stay from the first line with a '<' on: it may be HTML. The depth is bounded here, so that a
// hostile text costs linear time.
std::u32string repair(std::u32string_view text) {
  constexpr int kDepth = 8;
  constexpr std::size_t kLongestLine = 1'000'000;  // ftfy cuts there
  std::u32string out;
  out.reserve(text.size());
  for (bool unescape = true; !text.empty();) {
    const std::size_t newline = std::min(text.find(U'\n'), text.size() - 1);
    std::u32string line(text.substr(0, std::min(newline + 1, kLongestLine)));
    text.remove_prefix(line.size());
    unescape = unescape && line.find(U'<') == std::u32string::npos;
    for (int round = 0; round < kDepth; ++round) {
      const std::u32string before = line;
      if (unescape) line = html_unescape(line, true);
      line = normalize_nfc(repair_characters(fix_encoding(std::move(line))));
      // Of plain ASCII only references are repaired again, the rest being gone.
      if (line == before || (is_ascii(line) && !(unescape && line.find(U'&') != std::u32string::npos))) break;
    }
    out += line;
  }
  return out;
}

std::u32string clean_codes(std::u32string text, TextCleaning cleaning) {
  if (cleaning == TextCleaning::kOpenClip) {
    text = html_unescape(html_unescape(repair(text), false), false);
  } else {
    text = normalize_nfc(std::move(text));
  }
  // Python's str.lower knows the final sigma; transformers' fast tokenizer lowers each character by itself.
  return to_lower(collapse_spaces(text), cleaning == TextCleaning::kOpenClip);
}

// Length of the contraction at the start of `text` ('s 't 're 've 'm 'll 'd), or 0.
std::size_t contraction(std::u32string_view text) {
  for (std::u32string_view ending : {U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"})
    if (text.substr(0, ending.size()) == ending) return ending.size();
  return 0;
}

// Splits cleaned text; false when the sink had enough.
bool split_cleaned(std::u32string_view text, const PieceSink& sink) {
  const auto other = [](char32_t code) { return !is_space(code) && !is_letter(code) && !is_number(code); };
  while (!text.empty()) {
    const char32_t first = text[0];
    std::size_t length = contraction(text);
    if (length == 0) {
      length = 1;
      if (is_letter(first)) {
        while (length < text.size() && is_letter(text[length])) ++length;
      } else if (other(first)) {
        while (length < text.size() && other(text[length])) ++length;
      }
    }
    if (!is_space(first) && !sink(PieceKind::kWord, encode_utf8(text.substr(0, length)))) return false;
    text.remove_prefix(length);
  }
  return true;
}

// What a byte is in a text that needs no repair: ASCII without control characters, references (&), special tokens (<).
enum class PlainKind : unsigned char { kNone, kSpace, kLetter, kDigit, kOther };

constexpr std::array<PlainKind, 256> kPlainKinds = [] {
  std::array<PlainKind, 256> kinds{};
  for (unsigned char byte = '!'; byte <= '~'; ++byte) kinds[byte] = PlainKind::kOther;
  for (unsigned char byte : {' ', '\t', '\n', '\r'}) kinds[byte] = PlainKind::kSpace;
  for (unsigned char byte = '0'; byte <= '9'; ++byte) kinds[byte] = PlainKind::kDigit;
  for (unsigned char byte = 'a'; byte <= 'z'; ++byte) kinds[byte] = kinds[byte - 0x20] = PlainKind::kLetter;
  kinds['&'] = kinds['<'] = PlainKind::kNone;
  return kinds;
}();

PlainKind plain_kind(char byte) { return kPlainKinds[static_cast<unsigned char>(byte)]; }

// Cleans and splits at once what both cleanings treat alike: nearly every report, at many times the speed.
void split_plain(std::string_view text, const PieceSink& sink) {
  std::string word;
  for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    const PlainKind kind = plain_kind(text[begin]);
    end = begin + 1;
    if (kind == PlainKind::kSpace) continue;
    const auto lower = [&](std::size_t i) { return i < text.size() ? text[i] | 0x20 : 0; };
    std::size_t contracted = 0;
    if (text[begin] == '\'') {
      const int first = lower(end), second = lower(end + 1);
      if (first == 's' || first == 't' || first == 'm' || first == 'd') contracted = 1;
      if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l'))
        contracted = 2;
    }
    end += contracted;
    if (contracted == 0 && kind != PlainKind::kDigit)
      while (end < text.size() && plain_kind(text[end]) == kind) ++end;
    word.assign(text.substr(begin, end - begin));
    for (char& byte : word)
      if (byte >= 'A' && byte <= 'Z') byte = static_cast<char>(byte | 0x20);
    if (!sink(PieceKind::kWord, word)) return;
  }
}

}  // namespace

std::u32string clean_text(std::string_view text, TextCleaning cleaning) {
  return clean_codes(decode_utf8(text), cleaning);
}

void split_words(std::string_view text, TextCleaning cleaning, const PieceSink& sink) {
  const auto plain_byte = [](char byte) { return plain_kind(byte) != PlainKind::kNone; };
  if (std::all_of(text.begin(), text.end(), plain_byte)) return split_plain(text, sink);
  // transformers looks for its special tokens in the raw text, open_clip in the cleaned one.
  const bool raw = cleaning == TextCleaning::kTransformers;
  const std::u32string start = raw ? U"<|startoftext|>" : U"<start_of_text>";
  const std::u32string end = raw ? U"<|endoftext|>" : U"<end_of_text>";
  const std::u32string codes = raw ? decode_utf8(text) : clean_text(text, cleaning);
  std::size_t begin = 0;
  std::size_t next_start = codes.find(start);
  std::size_t next_end = codes.find(end);
  for (;;) {
    const std::size_t next = std::min({next_start, next_end, codes.size()});
    const std::u32string plain = codes.substr(begin, next - begin);
    if (!split_cleaned(raw ? clean_codes(plain, cleaning) : plain, sink) || next == codes.size()) return;
    const bool is_start = next == next_start;
    if (!sink(is_start ? PieceKind::kStart : PieceKind::kEnd, {})) return;
    begin = next + (is_start ? start : end).size();
    (is_start ? next_start : next_end) = codes.find(is_start ? start : end, begin);
  }
}

const std::array<unsigned char, 256>& byte_order() {
  static const auto order = [] {
    std::array<unsigned char, 256> bytes{};
    std::iota(bytes.begin(), bytes.end(), static_cast<unsigned char>(0));
    std::stable_partition(bytes.begin(), bytes.end(), [](unsigned char byte) {
      return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    });
    return bytes;
  }();
  return order;
}

const std::array<std::string, 256>& byte_spellings() {
  static const auto spellings = [] {
    constexpr std::size_t kPrintable = 188;
    std::array<std::string, 256> table;
    for (std::size_t i = 0; i < 256; ++i) {
      const unsigned char byte = byte_order()[i];
      append_utf8(table[byte], i < kPrintable ? byte : static_cast<char32_t>(256 + i - kPrintable));
    }
    return table;
  }();
  return spellings;
}

}  // namespace daug::text
