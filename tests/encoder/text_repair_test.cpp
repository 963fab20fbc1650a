#include <string>

#include "daug/encoder/tokenizer.h"
#include "support/catch.h"

namespace {

daug::Tokenizer like_open_clip() {
  return daug::Tokenizer(daug::BpeVocabulary::from_merges({}),
                         {daug::TextCleaning::kOpenClip, daug::TextPadding::kZero});
}

}  // namespace

TEST_CASE("text is repaired as ftfy repairs it", "[tokenizer]") {
  // What Python made of each text: html.unescape(html.unescape(ftfy.fix_text(text))), white space collapsed, lower
  // case, as open_clip 3.3.0 cleans; ftfy 6.3.1.
  struct Case {
    const char *text, *cleaned;
  };
  // clang-format off
  const Case cases[] = {
      {"schÃ¶n", "schön"},
      {"patientâ€™s", "patient's"},
      {"The patientâ€™s heart is normal â€“ no effusion.", "the patient's heart is normal – no effusion."},
      {"â€œnormalâ€\xC2\x9D", "\"normal\""},
      {"Ã©panchement pleural", "épanchement pleural"},
      {"sÃ³", "só"},
      {"voilÃ le travail", "voilà le travail"},
      {"Ã la base droite", "à la base droite"},
      {"fÃªte Ã  NoÃ«l", "fête à noël"},
      {"Ã s vezes", "às vezes"},
      {"10Â°C", "10°c"},
      {"5Â mm", "5â mm"},
      {"Â© 2020", "© 2020"},
      {"â‰¥ 5 mm", "≥ 5 mm"},
      {"5 Âµm", "5 µm"},
      {"Â½ dose", "½ dose"},
      {"Ã\xC2\x9C" "bersicht", "übersicht"},
      {"â€¢ Edema", "• edema"},
      {"â€¦ stable", "… stable"},
      {"dÃ©jÃ\xC2\xA0 vu", "déjà vu"},
      {"FranÃ§ois", "françois"},
      {"naÃ¯ve", "naïve"},
      {"Ð¿Ð½ÐµÐ²Ð¼Ð¾Ð½Ð¸Ñ\xC2\x8F", "пневмония"},
      {"РїРЅРµРІРјРѕРЅРёСЏ", "пневмония"},
      {"ÎºÎ±ÏÎ´Î¹Î¬", "καïδιά"},
      {"è‚º", "肺"},
      {"æ—¥æœ¬", "日本"},
      {"ðŸ˜€", "😀"},
      {"ÃƒÂ©tude", "étude"},
      {"schÃƒÆ’Ã‚Â¶n", "schön"},
      {"itâ€™s Ã©tude — ok “x” 日", "it's étude — ok \"x\" 日"},
      {"na√Øve", "naïve"},
      {"caf├⌐", "café"},
      {"Lâ€™Ã©tude", "l'étude"},
      {"cafÃ© and café", "café and café"},
      {"â€œ like this â€�", "\" like this �"},
      {"â€œ like this â€?", "\" like this �"},
      {"Ã�berblick", "�berblick"},
      {"aÃ€Â©b", "a˩b"},
      {"clear\xC2\x96no", "clear–no"},
      {"\xC2\x93x\xC2\x94", "\"x\""},
      {"\xC2\x85", "…"},
      {"\xC2\x81\xC2\x8D", "\xC2\x81\xC2\x8D"},
      {"ÅÃ³dÅº", "åódź"},
      {"Å¡koda", "škoda"},
      {"Ä\xC2\x8D" "esky", "česky"},
      {"PÃ©rez &amp; Ã‘u", "pérez & ñu"},
      {"Café", "café"},
      {"naïve façon", "naïve façon"},
      {"50 € × 3²", "50 € × 3²"},
      {"œuvre", "œuvre"},
      {"Ünï", "ünï"},
      {"Ã", "ã"},
      {"Â", "â"},
      {"©®™", "©®™"},
      {"«e»", "«e»"},
      {"à la", "à la"},
      {"Señor Ünal", "señor ünal"},
      {"ÂŁ", "âł"},
      {"¿Qué?", "¿qué?"},
      {"“quoted” — it’s", "\"quoted\" — it's"},
      {"�", "�"},
      {"a�b", "a�b"},
      {"ﬀ ŉ", "ff 'n"},
      {"ｶﾅ", "カナ"},
      {"ﾊﾞﾝｸﾞ", "バング"},
      {"Ｕﾀｰﾝ", "uターン"},
      {"ﾡ", "\xE1\x84\x80"},
      {"￦ ￩", "₩ ←"},
      {"￣", "\xCC\x84"},
      {"ＣＴ　１２３！", "ct 123!"},
      {"\x1B[31mred\x1B[0m", "red"},
      {"\x1B[1;31mbold\x1B[m text", "bold text"},
      {"\x1B[31", "[31"},
      {"\x1B", ""},
      {"&EACUTE;", "é"},
      {"P&EACUTE;REZ", "pérez"},
      {"&SZLIG;", "ss"},
      {"&NTILDE; &nTILDE;", "ñ &ntilde;"},
      {"&ATILDE;&SUP3;", "ó"},
      {"&checkmark; &HilbertSpace;", "✓ ℋ"},
      {"&ngE;", "≧\xCC\xB8"},
      {"&NotEqualTilde;", "≂\xCC\xB8"},
      {"&LT;b&GT;", "<b>"},
      {"&COPYX;", "©x;"},
      {"&NBSP;x", "x"},
      {"&Atilde;&copy;", "é"},
      {"&amp;amp;eacute;", "é"},
      {"&#xC3;&#xA9;", "é"},
      {"&hellip;", "…"},
      {"&CounterClockwiseContourIntegral;", "∳"},
      {"&#0000000000000000000000000065;", "a"},
      {"a <b> &EACUTE; &eacute;\n&EACUTE;", "a <b> &eacute; é &eacute;"},
      {"&EACUTE;\n<b> &EACUTE;", "é <b> &eacute;"},
      {"&lt;b&gt; &amp;amp;", "<b> &"},
      {"Ã©\n<b>Ã©</b>\n&amp;Ã©", "é <b>é</b> &é"},
      {"í\xC2\xA0½í¸\xC2\x80", "😀"},
      {"aÀ\xC2\x80" "b Ã©", "ab é"},
      {"x\r\ny\xE2\x80\xA8z", "x y z"},
      {"\xEF\xBB\xBFschÃ¶n", "schön"},
      {"Γ©panchement pleural gauche β€” stable", "γ©panchement pleural gauche β€\" stable"},
      {"zvД›tЕЎenГ© srdce, bez vГЅpotku", "zvд›tеўenг© srdce, bez vгѕpotku"},
      {"zvÄ›tĹˇenĂ© srdce, bez vĂ˝potku", "zvětšené srdce, bez výpotku"},
      {"pĹ\xC2\x82yn w opĹ\xC2\x82ucnej", "płyn w opłucnej"},
      {"p┼éyn w op┼éucnej", "płyn w opłucnej"},
      {"О\xC2\xA0О»ОµП…ПЃО№П„О№ОєО® ПѓП…О»О»ОїОіО®", "о о»оµп…пѓо№п\"о№оєо® пѓп…о»о»оїоіо®"},
      {"Ξ\xC2\xA0Ξ»ΞµΟ…Ο\xC2\x81ΞΉΟ„ΞΉΞΊΞ® ΟƒΟ…Ξ»Ξ»ΞΏΞ³Ξ®", "πλευριτική συλλογή"},
      {"РїР»РµРІСЂР°Р»СЊРЅС‹Р№ РІС‹РїРѕС‚ СЃРїСЂР°РІР°", "плевральный выпот справа"},
      {"–ø–ª–µ–≤—Ä–∞–ª—å–Ω—ã–π –≤—ã–ø–æ—Ç —Å–ø—Ä–∞–≤–∞", "–ø–ª–µ–≤—ä–∞–ª—å–ω—ã–π –≤—ã–ø–æ—ç —å–ø—ä–∞–≤–∞"},
      {"╨┐╨╗╨╡╨▓╤Ç╨░╨╗╤î╨╜╤ï╨╣ ╨▓╤ï╨┐╨╛╤é ╤ü╨┐╤Ç╨░╨▓╨░", "плевральный выпот справа"},
      {"akciÄŸer Ã¶demi, kalp bÃ¼yÃ¼mÃ¼ÅŸ", "akciğer ödemi, kalp büyümüş"},
      {"Å¡Ä·idrums pleirÄ\xC2\x81", "šķidrums pleirā"},
      {"ĹĄÄˇidrums pleirÄ\xC2\x81", "ťġidrums pleirā"},
      {"â‰¥ 5 mm, â€œstableâ€\xC2\x9D â€“ 38 Â°C", "≥ 5 mm, \"stable\" – 38 °c"},
      {"‚â• 5 mm, ‚Äústable‚Äù ‚Äì 38 ¬∞C", "≥ 5 mm, \"stable\" – 38 °c"},
      {"GrГ¶Гџe ВЅ Вµm В± 2", "grг¶гџe вѕ вµm в± 2"},
      {"GrΓ¶Γ\xC2\x9F" "e Β½ Βµm Β± 2", "größe ½ µm ± 2"},
      {"naĆÆve Å“uvreā€¦", "naïve œuvre…"},
  };
  // clang-format on
  const daug::Tokenizer tokenizer = like_open_clip();
  for (const auto& [text, cleaned] : cases) {
    INFO(text);
    CHECK(tokenizer.clean(text) == cleaned);
  }
}

TEST_CASE("a capital sigma that ends a word is lowered as each original lowers it", "[tokenizer]") {
  // By Python 3.11's str.lower; tokenizers' Lowercase, of transformers, looks at no other character.
  struct Case {
    std::string text, cleaned;
  };
  const Case cases[] = {
      {"ΑΣ", "ας"},
      {"ΣΑΣ ΟΔΥΣΣΕΑΣ", "σας οδυσσεας"},
      {"ΠΝΕΥΜΟΝΙΑΣ: ΟΞΕΙΑ", "πνευμονιας: οξεια"},
      {"ΣΣ", "σς"},
      {"Σ", "σ"},
      {"Α Σ", "α σ"},
      {"ΑΣ\nΒ", "ας β"},
      {"ΑΣ1", "ας1"},
      {"1Σ", "1σ"},
      {"日Σ", "日σ"},
      {"aΣ-b", "aς-b"},
      // What case ignores is looked past: full stops, apostrophes, accents, soft hyphens.
      {"ΑΣ.", "ας."},
      {"ΑΣ.Β", "ασ.β"},
      {"Α.Σ", "α.ς"},
      {"ΑΣ'", "ας'"},
      {"ΑΣ'Β", "ασ'β"},
      {"ΑΣ\u0301", "ας\u0301"},
      {"ΑΣ\u0301Β", "ασ\u0301β"},
      {"Α\u00ADΣ", "α\u00ADς"},
      // So are modifier letters, cased though they are; an ordinal is a cased letter like others.
      {"A\u02B0Σ", "a\u02B0ς"},
      {"\u02B0Σ", "\u02B0σ"},
      {"\u00AAΣ", "\u00AAς"},
      // Two characters in lower case, and none in lower case at all.
      {"\u0130Σ", "i\u0307ς"},
      {"\U0001D400Σ", "\U0001D400ς"},
  };
  const daug::Tokenizer open_clip = like_open_clip(), transformers(daug::BpeVocabulary::from_merges({}));
  for (const auto& [text, cleaned] : cases) {
    INFO(text);
    CHECK(open_clip.clean(text) == cleaned);
    std::string alike = cleaned;
    const std::string final_sigma = "ς";
    for (auto at = alike.find(final_sigma); at != std::string::npos; at = alike.find(final_sigma))
      alike.replace(at, final_sigma.size(), "σ");
    CHECK(transformers.clean(text) == alike);
  }
  CHECK(open_clip.tokenize("ΟΔΟΣ") == open_clip.tokenize("οδος"));
  CHECK(transformers.tokenize("ΟΔΟΣ") == transformers.tokenize("οδοσ"));
  // Much to look past between many sigmas stays linear work.
  std::string text = "Α";
  while (text.size() < 500'000) text += std::string(50, '.') + "Σ";
  CHECK(open_clip.encode(text, 16).length == 16);
}

TEST_CASE("text that was misread again and again is repaired as often", "[tokenizer]") {
  // Each reading of UTF-8 as Latin-1 makes every byte beyond ASCII a character of its own.
  const auto misread = [](const std::string& bytes) {
    std::string text;
    for (const char byte : bytes) {
      const auto value = static_cast<unsigned char>(byte);
      if (value < 0x80) {
        text += byte;
      } else {
        text += static_cast<char>(0xC0 | value >> 6);
        text += static_cast<char>(0x80 | (value & 0x3F));
      }
    }
    return text;
  };
  // clang-format on
  const daug::Tokenizer tokenizer = like_open_clip();
  std::string text = "épanchement à droite, 5 µm";
  for (int times = 0; times < 5; ++times) {
    INFO(times << " times");
    CHECK(tokenizer.clean(text) == "épanchement à droite, 5 µm");
    text = misread(text);
  }
}

TEST_CASE("repairing long texts is linear work", "[tokenizer]") {
  const daug::Tokenizer tokenizer = like_open_clip();
  // Repaired as a whole, in pieces, not at all, and on many lines.
  for (const std::string& part : {std::string("Ã©"), std::string("Ã© 日"), std::string("é©"), std::string("Ã©\n")}) {
    std::string text;
    while (text.size() < 500'000) text += part;
    INFO(part);
    CHECK(tokenizer.encode(text, 16).length == 16);
  }
}
