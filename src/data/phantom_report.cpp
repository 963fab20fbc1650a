#include "phantom_report.h"

#include <array>
#include <cctype>

namespace daug::phantom {
namespace {

using Choices = std::vector<std::string>;

/// How one finding is named, denied and hedged. {side} {size} {zone} {kind} are filled from the description and vanish
/// with their blank when they do not apply; {s} is the plural of several nodules.
struct Phrases {
  Choices present, absent, hedged;
};

const std::array<Phrases, kFindingCount>& phrases() {
  static const std::array<Phrases, kFindingCount> kPhrases = {{
      {{"{size} {side} {kind} pleural effusion", "there is {size} {side} {kind} effusion",
        "blunting of the {side} costophrenic angle with {size} {kind} effusion"},
       {"no pleural effusion", "the costophrenic angles are sharp", "no effusion is seen"},
       {"possible {side} pleural effusion", "{side} effusion cannot be excluded"}},
      {{"{size} cardiomegaly", "the heart is enlarged", "the cardiac silhouette is widened"},
       {"heart size is normal", "the cardiac silhouette is unremarkable", "no cardiomegaly"},
       {"heart size is at the upper limit of normal", "possible cardiomegaly"}},
      {{"{size} nodule{s} in the {side} {zone} lung", "{size} {side} {zone} nodule{s} seen",
        "{kind} {size} {side} nodule{s}"},
       {"no nodule is seen", "no lung nodule"},
       {"possible {side} nodule", "{side} nodular shadow that may be a vessel"}},
      {{"{side} {zone} {kind} consolidation", "{kind} airspace opacity in the {side} {zone} lung",
        "patchy {side} {zone} consolidation"},
       {"the lungs are clear of focal consolidation", "no airspace opacity", "no consolidation"},
       {"possible {side} consolidation", "{side} airspace opacity cannot be excluded"}},
      {{"{size} {side} {kind} pneumothorax", "there is {side} {kind} pneumothorax",
        "{side} pneumothorax with a visible pleural line"},
       {"no pneumothorax", "no pneumothorax is seen"},
       {"possible {side} pneumothorax", "{side} pneumothorax cannot be excluded"}},
      {{"{side} {kind} in place", "{side} {kind} is seen", "support device: {side} {kind}"},
       {"no lines or tubes", "no support device is seen"},
       {"possible support device", "a line may be a support device or lie outside the body"}},
  }};
  return kPhrases;
}

const Choices kNormal = {"the mediastinal contours are normal", "the bony thorax is intact",
                         "the lungs are well expanded", "the hila are unremarkable"};

const std::string& pick(const Choices& choices, RandomStream& random) {
  return choices[random.below(static_cast<std::uint32_t>(choices.size()))];
}

std::string fill(std::string text, const FindingDescription& words) {
  const std::array<std::pair<const char*, std::string>, 5> slots = {{{"{side}", words.side},
                                                                     {"{size}", words.size},
                                                                     {"{zone}", words.zone},
                                                                     {"{kind}", words.kind},
                                                                     {"{s}", words.kind == "multiple" ? "s" : ""}}};
  for (const auto& [slot, value] : slots) {
    const auto at = text.find(slot);
    if (at != std::string::npos) text.replace(at, std::string(slot).size(), value);
  }
  for (auto at = text.find("  "); at != std::string::npos; at = text.find("  ")) text.erase(at, 1);
  if (text.front() == ' ') text.erase(0, 1);
  return text;
}

std::string sentence(std::string text) {
  text.front() = static_cast<char>(std::toupper(static_cast<unsigned char>(text.front())));
  return text + ".";
}

}  // namespace

Report write_report(const PhantomOptions& options, const std::vector<LabelState>& truth,
                    const Descriptions& descriptions, RandomStream random) {
  Report report;
  Choices sentences;
  bool remarkable = false;
  for (std::size_t f = 0; f < truth.size(); ++f) {
    const bool present = truth[f] == LabelState::kPositive;
    const bool mentioned = random.uniform() < (present ? 1 - options.silent_present : options.mention_absent);
    const bool hedged = random.uniform() < options.hedge;
    if (!mentioned) {
      report.states.push_back(LabelState::kNotMentioned);
      continue;
    }
    const Phrases& choices = phrases()[f];
    remarkable = remarkable || present || hedged;
    sentences.push_back(fill(pick(hedged    ? choices.hedged
                                  : present ? choices.present
                                            : choices.absent,
                                  random),
                             descriptions[f]));
    report.states.push_back(hedged ? LabelState::kUncertain : truth[f]);
  }
  if (random.uniform() < 0.5 || sentences.empty()) sentences.push_back(pick(kNormal, random));
  random.shuffle(sentences.begin(), sentences.end());
  if (!remarkable && random.uniform() < 0.6) sentences.push_back("no acute cardiopulmonary process");
  for (const auto& text : sentences) report.text += (report.text.empty() ? "" : " ") + sentence(text);
  return report;
}

}  // namespace daug::phantom
