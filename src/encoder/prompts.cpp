#include "daug/encoder/prompts.h"

#include <algorithm>

#include "daug/core/error.h"

namespace daug {
namespace {

struct Wording {
  PromptStyle style;
  std::string_view positive_before, negative_before;    // the finding and a full stop follow
  std::string_view nothing_positive, nothing_negative;  // for a no-finding label
};

constexpr Wording kWordings[] = {
    {PromptStyle::kReference, "A chest-xray image of ", "A chest-xray image with no ",
     "A healthy chest-xray image with no findings.", "An unhealthy chest-xray image showing abnormalities."},
    {PromptStyle::kRadiograph, "Chest radiograph showing ", "Chest radiograph without ", "Normal chest radiograph.",
     "Abnormal chest radiograph."},
    {PromptStyle::kEvidence, "Findings consistent with ", "No evidence of ", "No evidence of an abnormality.",
     "Findings consistent with an abnormality."},
    {PromptStyle::kTerse, "", "No ", "No abnormality.", "Abnormality."},
};

std::string sentence(std::string_view before, const std::string& phrase) {
  std::string text = std::string(before) + phrase + ".";
  if (before.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 'a' + 'A');
  return text;
}

}  // namespace

std::vector<std::string> ClassPrompts::paired() const {
  require(negative.size() == positive.size(), "ClassPrompts::paired", "negative",
          detail::concat(positive.size(), " prompts, as many as positive ones"), negative.size());
  std::vector<std::string> all;
  for (std::size_t k = 0; k < positive.size(); ++k) {
    all.push_back(negative[k]);
    all.push_back(positive[k]);
  }
  return all;
}

std::string finding_phrase(std::string_view finding) {
  std::string phrase;
  for (char c : finding) {
    const bool space = c == '_' || c == ' ';
    if (space && (phrase.empty() || phrase.back() == ' ')) continue;
    phrase += space ? ' ' : c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  if (!phrase.empty() && phrase.back() == ' ') phrase.pop_back();
  constexpr std::string_view kOther = " other";
  if (phrase.size() > kOther.size() && phrase.compare(phrase.size() - kOther.size(), kOther.size(), kOther) == 0)
    return "other " + phrase.substr(0, phrase.size() - kOther.size()) + " abnormality";
  return phrase;
}

bool is_no_finding(std::string_view finding) {
  const std::string phrase = finding_phrase(finding);
  return phrase == "no finding" || phrase == "no findings" || phrase == "normal";
}

ClassPrompts class_prompts(const std::vector<std::string>& findings, PromptStyle style) {
  const Wording* found = std::find_if(std::begin(kWordings), std::end(kWordings),
                                      [&](const Wording& candidate) { return candidate.style == style; });
  require(found != std::end(kWordings), "class_prompts", "style", "a PromptStyle", static_cast<int>(style));
  const Wording& wording = *found;
  ClassPrompts prompts;
  for (const std::string& finding : findings) {
    const std::string phrase = finding_phrase(finding);
    require(!phrase.empty(), "class_prompts", "findings", "names that are not blank", "'" + finding + "'");
    const bool nothing = is_no_finding(finding);
    prompts.positive.push_back(nothing ? std::string(wording.nothing_positive)
                                       : sentence(wording.positive_before, phrase));
    prompts.negative.push_back(nothing ? std::string(wording.nothing_negative)
                                       : sentence(wording.negative_before, phrase));
  }
  return prompts;
}

std::vector<ClassPrompts> class_prompt_ensemble(const std::vector<std::string>& findings) {
  std::vector<ClassPrompts> ensemble;
  for (PromptStyle style : kPromptStyles) ensemble.push_back(class_prompts(findings, style));
  return ensemble;
}

}  // namespace daug
