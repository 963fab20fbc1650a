#pragma once
// Cleaning and splitting shared by the tokenizer and its trainer.

#include <array>
#include <functional>
#include <string>
#include <string_view>

#include "daug/encoder/tokenizer.h"

namespace daug::text {

/// Repairs, normalises and lower-cases; white space collapses to single spaces, none at the ends.
std::u32string clean_text(std::string_view text, TextCleaning cleaning);

/// What splitting finds, in order.
enum class PieceKind { kWord, kStart, kEnd };
/// Called with each piece (UTF-8 for kWord, empty otherwise); returning false ends the splitting.
using PieceSink = std::function<bool(PieceKind kind, std::string_view word)>;

/// Cleans and splits a text into CLIP's words and the special tokens spelled out in it.
void split_words(std::string_view text, TextCleaning cleaning, const PieceSink& sink);

/// GPT-2's byte-to-unicode table: the printable character (UTF-8) that stands for each byte.
const std::array<std::string, 256>& byte_spellings();
/// Bytes in the order in which CLIP numbers them: the printable ones first.
const std::array<unsigned char, 256>& byte_order();

inline constexpr std::string_view kEndOfWord = "</w>";
inline constexpr std::string_view kStartToken = "<|startoftext|>";
inline constexpr std::string_view kEndToken = "<|endoftext|>";

}  // namespace daug::text
