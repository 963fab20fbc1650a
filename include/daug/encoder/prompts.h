#pragma once
/// @file
/// Class prompts: sentences that name a finding, or its absence, for zero-shot classification and the hybrid loss.

#include <array>
#include <string>
#include <string_view>
#include <vector>

namespace daug {

/// Wording of a pair of prompts. `f` stands for the finding's phrase.
enum class PromptStyle {
  kReference,   ///< "A chest-xray image of f." / "A chest-xray image with no f." (after the reference method)
  kRadiograph,  ///< "Chest radiograph showing f." / "Chest radiograph without f."
  kEvidence,    ///< "Findings consistent with f." / "No evidence of f."
  kTerse,       ///< "f." / "No f."
};

/// All styles, for prompt ensembles.
inline constexpr std::array<PromptStyle, 4> kPromptStyles = {PromptStyle::kReference, PromptStyle::kRadiograph,
                                                             PromptStyle::kEvidence, PromptStyle::kTerse};

/// Two prompts a finding, in the order of the findings.
struct ClassPrompts {
  std::vector<std::string> positive;  ///< [K] "the finding is there": all that the `bce` form of the loss needs
  std::vector<std::string> negative;  ///< [K] "the finding is not there"

  /// [2K]: negative 0, positive 0, negative 1, ... : the `paired` form, where index 1 of each pair is the finding.
  /// Throws kInvalidArgument unless there are as many of either.
  std::vector<std::string> paired() const;
};

/// The words for a column name: lower case, underscores to spaces, "Pleural Other" as "other pleural abnormality".
std::string finding_phrase(std::string_view finding);

/// True for "No Finding", "No_Findings", "Normal" in any case: a label whose *positive* state means absence.
bool is_no_finding(std::string_view finding);

/// Prompts of each finding. A no-finding label swaps the sense: its positive prompt says that nothing is there.
/// Throws kInvalidArgument for an empty name and an unknown style.
ClassPrompts class_prompts(const std::vector<std::string>& findings, PromptStyle style = PromptStyle::kReference);

/// class_prompts in every style of kPromptStyles, for averaging their embeddings.
std::vector<ClassPrompts> class_prompt_ensemble(const std::vector<std::string>& findings);

}  // namespace daug
