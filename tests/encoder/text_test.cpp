#include <cctype>
#include <cstddef>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/encoder/prompts.h"
#include "daug/encoder/report_text.h"
#include "support/catch.h"
#include "support/caught.h"

using daug::LabelState;
using daug::split_sections;

TEST_CASE("each style names the finding and its absence", "[prompts]") {
  const std::vector<std::string> findings = {"Pleural_Effusion", "No_Finding", "Pleural Other"};
  const auto reference = daug::class_prompts(findings);
  CHECK(reference.positive[0] == "A chest-xray image of pleural effusion.");
  CHECK(reference.negative[0] == "A chest-xray image with no pleural effusion.");
  CHECK(reference.positive[1] == "A healthy chest-xray image with no findings.");
  CHECK(reference.negative[1] == "An unhealthy chest-xray image showing abnormalities.");
  CHECK(reference.positive[2] == "A chest-xray image of other pleural abnormality.");
  const auto terse = daug::class_prompts(findings, daug::PromptStyle::kTerse);
  CHECK(terse.positive[0] == "Pleural effusion.");
  CHECK(terse.negative[0] == "No pleural effusion.");
  CHECK(reference.paired() == std::vector<std::string>{reference.negative[0], reference.positive[0],
                                                       reference.negative[1], reference.positive[1],
                                                       reference.negative[2], reference.positive[2]});
  CHECK_THROWS_WITH((daug::ClassPrompts{{"One.", "Two."}, {"Not one."}}.paired()),
                    "ClassPrompts::paired: negative: expected 2 prompts, as many as positive ones, got 1");
  const auto ensemble = daug::class_prompt_ensemble(findings);
  REQUIRE(ensemble.size() == daug::kPromptStyles.size());
  for (const auto& prompts : ensemble)
    for (std::size_t k = 0; k < findings.size(); ++k) {
      CHECK(prompts.positive[k] != prompts.negative[k]);
      CHECK(prompts.positive[k].find('_') == std::string::npos);
      CHECK(prompts.positive[k].back() == '.');
    }
  const auto refused = [](const std::vector<std::string>& names, daug::PromptStyle style) {
    return daug::test::error_text(daug::ErrorCode::kInvalidArgument, [&] { daug::class_prompts(names, style); });
  };
  daug::test::contains(refused({"Edema", " _"}, daug::PromptStyle::kTerse), "class_prompts: findings");
  daug::test::contains(refused({"Edema"}, static_cast<daug::PromptStyle>(99)), "class_prompts: style");
}

TEST_CASE("every wording of fourteen findings says them, and denies them in its negative", "[prompts]") {
  const std::vector<std::pair<std::string, std::string>> findings = {
      {"No Finding", ""},
      {"Enlarged Cardiomediastinum", "enlarged cardiomediastinum"},
      {"Cardiomegaly", "cardiomegaly"},
      {"Lung_Opacity", "lung opacity"},
      {"Lung Lesion", "lung lesion"},
      {"Edema", "edema"},
      {"Consolidation", "consolidation"},
      {"Pneumonia", "pneumonia"},
      {"Atelectasis", "atelectasis"},
      {"Pneumothorax", "pneumothorax"},
      {"Pleural_Effusion", "pleural effusion"},
      {"Pleural Other", "other pleural abnormality"},
      {"Fracture", "fracture"},
      {"Support Devices", "support devices"},
  };
  std::vector<std::string> names;
  for (const auto& [name, words] : findings) names.push_back(name);
  const auto spoken = [](const std::string& sentence) {
    std::string text = " ";
    for (const char c : sentence) text += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return text;
  };
  const auto has = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  const auto denies = [&](const std::string& text, const std::string& words) {
    return has(text, " no " + words) || has(text, " without " + words) || has(text, " no evidence of " + words);
  };
  const auto ensemble = daug::class_prompt_ensemble(names);
  REQUIRE(ensemble.size() >= 2);
  for (std::size_t k = 0; k < findings.size(); ++k) {
    std::set<std::string> sentences;
    for (const auto& prompts : ensemble) {
      REQUIRE(prompts.positive.size() == findings.size());
      REQUIRE(prompts.negative.size() == findings.size());
      const std::string positive = spoken(prompts.positive[k]), negative = spoken(prompts.negative[k]);
      INFO(positive << " /" << negative);
      sentences.insert(positive);
      sentences.insert(negative);
      const std::string& words = findings[k].second;
      if (words.empty()) {  // the sense is swapped
        CHECK(has(negative, "abnormal"));
        CHECK_FALSE(denies(negative, ""));
        // What denies disease taken out, nothing that could be any is left.
        std::string rest = positive;
        bool denied = false;
        for (const std::string_view denial :
             {" healthy", " normal", " with no findings", " no evidence of an abnormality", " no abnormality"}) {
          const auto at = rest.find(denial);
          if (at == std::string::npos) continue;
          rest.erase(at, denial.size());
          denied = true;
        }
        CHECK(denied);
        for (const char* word : {"abnormal", "finding", "disease", "healthy", "showing", "consistent"})
          CHECK_FALSE(has(rest, word));
        for (const auto& [name, other] : findings) CHECK_FALSE((!other.empty() && has(rest, other)));
        continue;
      }
      CHECK(has(positive, words + "."));
      CHECK_FALSE(denies(positive, ""));
      CHECK(denies(negative, words + "."));
    }
    CHECK(sentences.size() == 2 * ensemble.size());
  }
}

TEST_CASE("no-finding labels are recognised in any spelling", "[prompts]") {
  for (const char* name : {"No Finding", "No_Finding", "no_findings", "NORMAL"}) CHECK(daug::is_no_finding(name));
  for (const char* name : {"Nodule", "Finding", "Abnormal"}) CHECK_FALSE(daug::is_no_finding(name));
}

TEST_CASE("sections are found by their headings", "[report_text]") {
  const auto sections = split_sections(
      "FINAL REPORT\n INDICATION: cough.\n\n FINDINGS:  The lungs are\n   clear. Ratio 1:2.\n\nImpression : Normal. "
      "\n");
  CHECK(sections.findings == "The lungs are clear. Ratio 1:2.");
  CHECK(sections.impression == "Normal.");
  CHECK(sections.text() == "The lungs are clear. Ratio 1:2. Normal.");

  SECTION("one line, upper case") {
    const auto line = split_sections("FINDINGS: Clear. IMPRESSION: 1. Normal. RECOMMENDATION: none");
    CHECK(line.findings == "Clear.");
    CHECK(line.impression == "1. Normal.");
  }
  SECTION("lower-case words with a colon in running text are no headings") {
    CHECK(split_sections("FINDINGS: Clear. Other findings: none.").findings == "Clear. Other findings: none.");
  }
  SECTION("repeated sections are joined") {
    CHECK(split_sections("IMPRESSION: A.\nFINDINGS: B.\nIMPRESSION: C.").impression == "A. C.");
  }
  SECTION("every heading, in capitals, with a capital behind a blank line, and on a line of its own") {
    const std::pair<const char*, char> headings[] = {{"FINDINGS", 'f'},
                                                     {"FINDING", 'f'},
                                                     {"IMPRESSION", 'i'},
                                                     {"IMPRESSIONS", 'i'},
                                                     {"FINAL IMPRESSION", 'i'},
                                                     {"CONCLUSION", 'i'},
                                                     {"CONCLUSIONS", 'i'},
                                                     {"INTERPRETATION", 'i'},
                                                     {"SUMMARY", 'i'},
                                                     {"FINDINGS AND IMPRESSION", 'b'},
                                                     {"FINDINGS & IMPRESSION", 'b'},
                                                     {"FINDINGS/IMPRESSION", 'b'},
                                                     {"IMPRESSION / FINDINGS", 'b'},
                                                     {"TECHNIQUE AND FINDINGS", 'f'},
                                                     {"IMPRESSION AND RECOMMENDATION(S)", 'i'},
                                                     {"EXAM", 'd'},
                                                     {"EXAMINATION", 'd'},
                                                     {"TYPE OF EXAMINATION", 'd'},
                                                     {"STUDY", 'd'},
                                                     {"PROCEDURE", 'd'},
                                                     {"VIEWS", 'd'},
                                                     {"TECHNIQUE", 'd'},
                                                     {"INDICATION", 'd'},
                                                     {"INDICATIONS", 'd'},
                                                     {"CLINICAL INDICATION", 'd'},
                                                     {"CLINICAL HISTORY", 'd'},
                                                     {"CLINICAL INFORMATION", 'd'},
                                                     {"HISTORY", 'd'},
                                                     {"PATIENT HISTORY", 'd'},
                                                     {"INDICATION/HISTORY", 'd'},
                                                     {"REASON FOR EXAM", 'd'},
                                                     {"REASON FOR EXAMINATION", 'd'},
                                                     {"REASON FOR THIS EXAMINATION", 'd'},
                                                     {"COMPARISON", 'd'},
                                                     {"COMPARISONS", 'd'},
                                                     {"COMPARISON EXAM", 'd'},
                                                     {"COMPARISON EXAMINATION", 'd'},
                                                     {"REFERENCE EXAM", 'd'},
                                                     {"NOTIFICATION", 'd'},
                                                     {"RECOMMENDATION", 'd'},
                                                     {"RECOMMENDATIONS", 'd'},
                                                     {"RECOMMENDATION(S)", 'd'},
                                                     {"WET READ", 'd'},
                                                     {"ADDENDUM", 'd'},
                                                     {"PRELIMINARY REPORT", 'd'},
                                                     {"FINAL REPORT", 'd'}};
    const std::set<std::string> short_names = {"STUDY", "PROCEDURE", "VIEWS", "SUMMARY"};
    for (const auto& [heading, kind] : headings) {
      INFO(heading);
      std::string small, mixed(heading);
      for (const char* c = heading; *c; ++c) small += static_cast<char>(std::tolower(static_cast<unsigned char>(*c)));
      mixed.replace(1, std::string::npos, small, 1, std::string::npos);
      for (const std::string& report :
           {"FINDINGS: First.\n" + std::string(heading) + ": second.", "FINDINGS: First.\n\n" + mixed + " : second.",
            "FINDINGS: First.\n " + std::string(heading) + " \nsecond."}) {
        INFO(report);
        const auto split = split_sections(report);
        CHECK(split.findings == (kind == 'f' || kind == 'b' ? "First. second." : "First."));
        CHECK(split.impression == (kind == 'i' || kind == 'b' ? "second." : ""));
        CHECK(split.text() == (kind == 'd' ? "First." : "First. second."));
      }
      const bool is_short = short_names.count(heading) > 0;
      // In capitals behind a word, and in small letters at the start of a line: what could be running text stays.
      CHECK(split_sections("FINDINGS: First " + std::string(heading) + ": second.").text() ==
            (is_short      ? "First " + std::string(heading) + ": second."
             : kind == 'd' ? "First"
                           : "First second."));
      CHECK(split_sections("FINDINGS: First\n" + small + ": second.").text() ==
            (is_short || kind == 'd' ? "First " + small + ": second." : "First second."));
      const std::string words = "First. " + small + " are none";  // without a colon it is no heading
      CHECK(split_sections("FINDINGS: " + words).findings == words);
    }
  }
  SECTION("text under a joined heading is both, and said once") {
    const auto only = split_sections("INDICATION: cough.\nFINDINGS/IMPRESSION: Clear.");
    CHECK(only.findings == "Clear.");
    CHECK(only.impression == "Clear.");
    CHECK(only.text() == "Clear.");
    const auto all = split_sections("IMPRESSION: I.\nFindings and impression: B.\nFINDINGS: F.");
    CHECK(all.findings == "F. B.");
    CHECK(all.impression == "B. I.");
    CHECK(all.text() == "F. B. I.");
    daug::ReportSections by_hand;
    by_hand.findings = "F.";
    by_hand.impression = "F.";
    CHECK(by_hand.text() == "F. F.");
    auto edited = split_sections("FINDINGS AND IMPRESSION: Clear.");
    edited.impression = "Normal heart.";
    CHECK(edited.text() == "Clear. Normal heart.");
    edited.impression = "No";  // shorter than what was shared
    CHECK(edited.text() == "Clear. No");
    edited = only;
    edited.findings = "Hazy.";
    CHECK(edited.text() == "Hazy. Clear.");
  }
  SECTION("a report with everything around its sections") {
    const auto whole = split_sections(
        "                 WET READ: ___ 9:04 PM\n  A wet word.\n ______\n                 FINAL REPORT\n"
        " EXAMINATION:  CHEST (PA AND LAT)\n\n INDICATION:  History: 40M with cough // infiltrate\n\n"
        " TECHNIQUE:  Two views.\n\n COMPARISON:  None.\n\n FINDINGS: \n \n The lungs are clear.\n\n"
        " IMPRESSION: \n \n Normal.\n\n RECOMMENDATION(S):  Follow up.\n\n NOTIFICATION:  Told at 9:04.\n\n"
        "                 ADDENDUM\n Told again.\n");
    CHECK(whole.findings == "The lungs are clear.");
    CHECK(whole.impression == "Normal.");
  }
  SECTION("a capital behind a full stop, in a report of one line") {
    const auto line =
        split_sections("Clinical indication: cough. Findings: Clear. Impression: Normal. Comparison: 2019.");
    CHECK(line.findings == "Clear.");
    CHECK(line.impression == "Normal. Comparison: 2019.");  // could be a sentence of it
  }
  SECTION("no text of findings or impression is lost to a heading that could be a sentence") {
    const auto kept = [](const std::string& heading, const std::string& text) {
      INFO(text);
      const auto split = split_sections(heading + text);
      CHECK(split.text() == text);
    };
    kept("FINDINGS: ", "Comparison: ___. The lungs are clear. Effusion.");
    kept("FINDINGS: ", "Lungs are clear. Study: limited by rotation. Heart is enlarged.");
    kept("FINDINGS: ", "Chest, PA and lateral. Views: Lungs clear.");
    kept("", "No pneumothorax. Procedure: line placed. Effusion.");
    kept("IMPRESSION: ", "1. Nodule. Recommendation: CT chest. 2. Cardiomegaly.");
    CHECK(split_sections("FINDINGS: \n \n Comparison: ___. Effusion.\n\n IMPRESSION: Worse.").text() ==
          "Comparison: ___. Effusion. Worse.");
    CHECK(split_sections("INDICATION: cough. Summary: Nodule. IMPRESSION: Worse.").text() == "Nodule. Worse.");
  }
  SECTION("nor to running text that is wrapped") {
    for (const std::string& word : std::vector<std::string>{"study", "Study", "view", "procedure", "exam"}) {
      INFO(word);
      for (const std::string& line_break : std::vector<std::string>{"\n ", "\r\n "}) {
        const auto split =
            split_sections("FINDINGS: Seen on this portable" + line_break + word + ": a new effusion.\nHeart is big.");
        CHECK(split.findings == "Seen on this portable " + word + ": a new effusion. Heart is big.");
      }
    }
  }
  SECTION("what follows the end of an impression is dropped, a code of its summary, too") {
    const auto whole = split_sections(
        "IMPRESSION: \n \n1. NO EDEMA. END OF IMPRESSION: \n \nSUMMARY:2-ABNORMAL\n \nI HAVE REVIEWED IT.\n");
    CHECK(whole.text() == "1. NO EDEMA.");
    CHECK(split_sections("IMPRESSION: A.\n\nEND OF REPORT\nSigned.\n\nFINDINGS: B.").text() == "B. A.");
  }
  SECTION("lines without a colon") {
    const auto lines = split_sections("History\ncough\n\nFindings\r\nLungs clear.\r\n\r\nIMPRESSION\nNormal.\n");
    CHECK(lines.findings == "Lungs clear.");
    CHECK(lines.impression == "Normal.");
    CHECK(split_sections("FINDINGS: No acute\nfindings\nare seen.").findings == "No acute findings are seen.");
    CHECK(split_sections("Findings").findings == "Findings");
  }
  SECTION("short names are also the ends of other headings") {
    CHECK(split_sections("FINDINGS: PA AND LATERAL VIEWS: Clear.").findings == "PA AND LATERAL VIEWS: Clear.");
    CHECK(split_sections("FINDINGS: Clear. VIEWS: 2. IMPRESSION: Normal.").text() == "Clear. VIEWS: 2. Normal.");
    CHECK(split_sections("FINDINGS: Clear.\nVIEWS: 2.\nIMPRESSION: Normal.").text() == "Clear. Normal.");
  }
  SECTION("text without headings is all findings") {
    CHECK(split_sections(" Heart size\n is normal. ").findings == "Heart size is normal.");
    CHECK(split_sections("HISTORY: cough").findings == "HISTORY: cough");
    CHECK(split_sections("HISTORY: x\n\nCOMPARISON: y.\n\n Lungs clear; effusion.\n\nIMPRESSION:\n").findings ==
          "HISTORY: x COMPARISON: y. Lungs clear; effusion. IMPRESSION:");
    CHECK(split_sections("").text().empty());
  }
}

TEST_CASE("labels become sentences, marked as such", "[report_text]") {
  const std::vector<std::string> findings = {"Edema", "Nodule", "Pleural_Effusion", "Device", "No_Finding"};
  constexpr auto kYes = LabelState::kPositive, kNo = LabelState::kNegative, kMaybe = LabelState::kUncertain,
                 kSilent = LabelState::kNotMentioned;
  const auto text = [&](const std::vector<LabelState>& states, bool negatives = true) {
    const auto study = daug::label_derived_text(findings, states, negatives);
    CHECK(study.label_derived);
    return study.text;
  };
  CHECK(text({kYes, kNo, kYes, kNo, kNo}) == "There is edema and pleural effusion. No nodule or device.");
  CHECK(text({kYes, kYes, kYes, kMaybe, kSilent}) == "There is edema, nodule and pleural effusion. Possible device.");
  CHECK(text({kNo, kNo, kSilent, kNo, kYes}) == "No abnormality. No edema, nodule or device.");
  CHECK(text({kNo, kNo, kSilent, kNo, kYes}, false) == "No abnormality.");
  CHECK(text({kSilent, kSilent, kSilent, kSilent, kYes}) == "No abnormality.");
  CHECK(text({kSilent, kSilent, kSilent, kSilent, kSilent}).empty());
  CHECK(text({kMaybe, kMaybe, kSilent, kSilent, kSilent}) == "Possible edema or nodule.");
  REQUIRE_THROWS_AS(daug::label_derived_text(findings, {kYes}), daug::Error);
}
