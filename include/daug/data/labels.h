#pragma once
/// @file
/// Four-state labels and the explicit policy that turns them into training targets. Header-only.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "daug/core/error.h"

namespace daug {

/// What a report or a reader says about one finding of one study. Files encode the states 1 / 0 / -1 / blank.
enum class LabelState : std::int8_t {
  kPositive,      ///< 1: the finding is there
  kNegative,      ///< 0: it is not
  kUncertain,     ///< -1: it may be
  kNotMentioned,  ///< blank: nothing is said
};

/// All states, in the order of their enumerators.
inline constexpr std::array<LabelState, 4> kLabelStates = {LabelState::kPositive, LabelState::kNegative,
                                                           LabelState::kUncertain, LabelState::kNotMentioned};

/// The text a file holds for a state: "1", "0", "-1" or "".
inline std::string_view label_text(LabelState state) noexcept {
  constexpr std::array<std::string_view, 4> kTexts = {"1", "0", "-1", ""};
  return kTexts[static_cast<std::size_t>(state)];
}

/// Parses 1, 0, -1 (also as "1.0", "-1.00", " 1 ") or blank. Anything else throws kFormat; `where` names the file,
/// line and column in the message.
inline LabelState parse_label(std::string_view text, const std::string& where) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return LabelState::kNotMentioned;
  std::string_view trimmed = text.substr(first, text.find_last_not_of(" \t") - first + 1);
  if (trimmed.size() > 1 && trimmed.front() == '+') trimmed.remove_prefix(1);
  // Spreadsheets and pandas write integers with blanks among them as "1.0".
  const auto point = trimmed.find('.');
  const std::string_view whole = trimmed.substr(0, point);
  const bool integral =
      point == std::string_view::npos || trimmed.find_first_not_of('0', point + 1) == std::string_view::npos;
  if (integral && whole == "1") return LabelState::kPositive;
  if (integral && (whole == "0" || whole == "-0")) return LabelState::kNegative;
  if (integral && whole == "-1") return LabelState::kUncertain;
  fail(ErrorCode::kFormat, "parse_label", where, "a label (1, 0, -1 or blank)", "'" + std::string(text) + "'");
}

/// What a training target does with a state that is neither positive nor negative.
enum class StatePolicy {
  kZeros,   ///< counts as negative (the published choice)
  kOnes,    ///< counts as positive
  kIgnore,  ///< masked out of the loss
};

/// "zeros", "ones" or "ignore", as written in configurations.
inline std::string_view policy_text(StatePolicy policy) noexcept {
  constexpr std::array<std::string_view, 3> kTexts = {"zeros", "ones", "ignore"};
  return kTexts[static_cast<std::size_t>(policy)];
}

/// Inverse of policy_text; throws kInvalidArgument.
inline StatePolicy parse_policy(std::string_view text) {
  for (auto policy : {StatePolicy::kZeros, StatePolicy::kOnes, StatePolicy::kIgnore})
    if (text == policy_text(policy)) return policy;
  fail(ErrorCode::kInvalidArgument, "parse_policy", "policy", "zeros, ones or ignore", "'" + std::string(text) + "'");
}

/// A target in {0, 1} and a loss weight in {0, 1} (0: ignore).
struct LabelTarget {
  float target = 0;  ///< 0 or 1
  float mask = 1;    ///< weight in the loss, 0 or 1
};

/// Policy of one finding. The defaults are the published setting: uncertain and blank become 0.
struct LabelPolicy {
  StatePolicy uncertain = StatePolicy::kZeros;      ///< for -1
  StatePolicy not_mentioned = StatePolicy::kZeros;  ///< for blank

  /// Target and mask of a state; an ignored one has target 0 and mask 0.
  LabelTarget apply(LabelState state) const noexcept {
    if (state == LabelState::kPositive) return {1, 1};
    if (state == LabelState::kNegative) return {0, 1};
    const StatePolicy policy = state == LabelState::kUncertain ? uncertain : not_mentioned;
    if (policy == StatePolicy::kIgnore) return {0, 0};
    return {policy == StatePolicy::kOnes ? 1.0F : 0.0F, 1};
  }
};

/// Policies of all findings: a common one and exceptions by finding name.
struct LabelPolicies {
  LabelPolicy common;                             ///< findings without an exception
  std::map<std::string, LabelPolicy> by_finding;  ///< exceptions

  /// The policy of a finding: its exception, else the common one.
  const LabelPolicy& of(const std::string& finding) const {
    const auto found = by_finding.find(finding);
    return found == by_finding.end() ? common : found->second;
  }

  /// One line for a run's configuration: "*=zeros/zeros Edema=ones/ignore" (uncertain/not mentioned).
  std::string describe() const {
    const auto item = [](const std::string& name, const LabelPolicy& policy) {
      return detail::concat(name, "=", policy_text(policy.uncertain), "/", policy_text(policy.not_mentioned));
    };
    std::string text = item("*", common);
    for (const auto& [finding, policy] : by_finding) text += " " + item(finding, policy);
    return text;
  }

  /// Throws kNotFound when an exception names none of `findings`: a misspelt finding must not pass silently.
  void validate(const std::vector<std::string>& findings) const {
    for (const auto& exception : by_finding)
      if (std::find(findings.begin(), findings.end(), exception.first) == findings.end())
        fail(ErrorCode::kNotFound, "LabelPolicies", "by_finding", "a finding of the cohort",
             "'" + exception.first + "'");
  }
};

/// Targets and masks of many studies, row-major [studies, findings].
struct LabelTargets {
  std::size_t findings = 0;   ///< columns of both
  std::vector<float> target;  ///< 0 or 1
  std::vector<float> mask;    ///< 1, or 0 where the label is ignored
};

/// Applies policies to rows of label states. Throws kMismatch for a row that is not as long as `findings`, kNotFound as
/// LabelPolicies::validate.
inline LabelTargets make_targets(const std::vector<std::vector<LabelState>>& rows,
                                 const std::vector<std::string>& findings, const LabelPolicies& policies) {
  policies.validate(findings);
  LabelTargets targets;
  targets.findings = findings.size();
  for (const auto& row : rows) {
    if (row.size() != findings.size())
      fail(ErrorCode::kMismatch, "make_targets", "rows", detail::concat(findings.size(), " labels a row"), row.size());
    for (std::size_t f = 0; f < row.size(); ++f) {
      const LabelTarget value = policies.of(findings[f]).apply(row[f]);
      targets.target.push_back(value.target);
      targets.mask.push_back(value.mask);
    }
  }
  return targets;
}

/// The state of "No Finding" that follows from the findings: negative when one is positive, positive when all are
/// negative or not mentioned, uncertain otherwise. It is derived, never a finding of its own.
inline LabelState no_finding_state(const std::vector<LabelState>& labels) noexcept {
  LabelState state = LabelState::kPositive;
  for (LabelState label : labels) {
    if (label == LabelState::kPositive) return LabelState::kNegative;
    if (label == LabelState::kUncertain) state = LabelState::kUncertain;
  }
  return state;
}

/// Findings that share one heatmap.
struct FindingGroup {
  std::string name;                   ///< unique among the groups, not empty
  std::vector<std::string> findings;  ///< at least one
};

/// Heatmap groups in map order. They come from a cohort or a vocabulary file, never from code.
using FindingGroups = std::vector<FindingGroup>;

/// The default: one group a finding, of the same name.
inline FindingGroups one_group_per_finding(const std::vector<std::string>& findings) {
  FindingGroups groups;
  for (const auto& finding : findings) groups.push_back({finding, {finding}});
  return groups;
}

/// Checks that group names are unique and not empty and that every member is one of `findings`. Throws kNotFound
/// or kInvalidArgument naming group and member. A finding may be in several groups, or in none.
inline void validate_groups(const FindingGroups& groups, const std::vector<std::string>& findings) {
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const FindingGroup& group = groups[i];
    require(!group.name.empty(), "validate_groups", "name", "a group name", "an empty text");
    for (std::size_t j = 0; j < i; ++j)
      require(groups[j].name != group.name, "validate_groups", "name", "unique group names",
              "'" + group.name + "' twice");
    if (group.findings.empty())
      fail(ErrorCode::kInvalidArgument, "validate_groups", "group '" + group.name + "'", "at least one finding",
           "none");
    for (const auto& finding : group.findings)
      if (std::find(findings.begin(), findings.end(), finding) == findings.end())
        fail(ErrorCode::kNotFound, "validate_groups", "group '" + group.name + "'", "findings of the vocabulary",
             "'" + finding + "'");
  }
}

/// State of a group: positive when a member is, negative when all are, uncertain when a member is and none is positive,
/// otherwise not mentioned. `labels` [findings] are in the order of `findings`. Throws kNotFound for a member that is
/// none of them, kMismatch for another number of labels.
inline LabelState group_state(const FindingGroup& group, const std::vector<std::string>& findings,
                              const std::vector<LabelState>& labels) {
  if (labels.size() != findings.size())
    fail(ErrorCode::kMismatch, "group_state", "labels", detail::concat(findings.size(), " labels"), labels.size());
  std::array<std::size_t, 4> counts{};
  for (const auto& name : group.findings) {
    const auto found = std::find(findings.begin(), findings.end(), name);
    if (found == findings.end())
      fail(ErrorCode::kNotFound, "group_state", "group '" + group.name + "'", "findings of the vocabulary",
           "'" + name + "'");
    ++counts[static_cast<std::size_t>(labels[static_cast<std::size_t>(found - findings.begin())])];
  }
  const auto count = [&](LabelState state) { return counts[static_cast<std::size_t>(state)]; };
  if (count(LabelState::kPositive)) return LabelState::kPositive;
  if (count(LabelState::kNegative) == group.findings.size()) return LabelState::kNegative;
  if (count(LabelState::kUncertain)) return LabelState::kUncertain;
  return LabelState::kNotMentioned;
}

}  // namespace daug
