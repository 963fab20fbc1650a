#include "daug/encoder/report_text.h"

#include <cstddef>

#include "daug/core/error.h"
#include "daug/encoder/prompts.h"

namespace daug {
namespace {

enum class Section { kFindings, kImpression, kDropped };

struct Heading {
  std::string_view name;
  Section section;
};

// A name that begins with another one stands before it.
constexpr Heading kHeadings[] = {
    {"FINDINGS AND IMPRESSION", Section::kImpression},
    {"FINDINGS", Section::kFindings},
    {"FINDING", Section::kFindings},
    {"IMPRESSIONS", Section::kImpression},
    {"IMPRESSION", Section::kImpression},
    {"CONCLUSIONS", Section::kImpression},
    {"CONCLUSION", Section::kImpression},
    {"EXAMINATION", Section::kDropped},
    {"EXAM", Section::kDropped},
    {"INDICATIONS", Section::kDropped},
    {"INDICATION", Section::kDropped},
    {"CLINICAL HISTORY", Section::kDropped},
    {"CLINICAL INFORMATION", Section::kDropped},
    {"HISTORY", Section::kDropped},
    {"REASON FOR EXAMINATION", Section::kDropped},
    {"REASON FOR EXAM", Section::kDropped},
    {"TECHNIQUE", Section::kDropped},
    {"COMPARISONS", Section::kDropped},
    {"COMPARISON", Section::kDropped},
    {"RECOMMENDATIONS", Section::kDropped},
    {"RECOMMENDATION", Section::kDropped},
    {"NOTIFICATION", Section::kDropped},
};

bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

// The heading at the start of `text` and the length up to and with its colon; null when there is none.
const Heading* heading_at(std::string_view text, bool any_case, std::size_t& length) {
  for (const Heading& heading : kHeadings) {
    std::size_t i = 0;
    while (i < heading.name.size() && i < text.size() && (any_case ? upper(text[i]) : text[i]) == heading.name[i]) ++i;
    if (i < heading.name.size()) continue;
    while (i < text.size() && (text[i] == ' ' || text[i] == '\t')) ++i;
    if (i == text.size() || text[i] != ':') continue;
    length = i + 1;
    return &heading;
  }
  return nullptr;
}

// Appends with white space collapsed and none at the ends.
void append_collapsed(std::string& out, std::string_view text) {
  bool space = !out.empty();
  for (char c : text) {
    if (is_blank(c)) {
      space = !out.empty();
      continue;
    }
    if (space) out += ' ';
    space = false;
    out += c;
  }
}

// "a", "a and b", "a, b and c"
std::string join(const std::vector<std::string>& items, std::string_view last) {
  std::string text;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) text += i + 1 == items.size() ? " " + std::string(last) + " " : ", ";
    text += items[i];
  }
  return text;
}

}  // namespace

std::string ReportSections::text() const {
  if (findings.empty() || impression.empty()) return findings + impression;
  return findings + " " + impression;
}

ReportSections split_sections(std::string_view report) {
  ReportSections sections;
  bool described = false;  // a findings or impression heading was seen
  Section section = Section::kDropped;
  std::size_t begin = 0;
  const auto close = [&](std::size_t end) {
    if (section == Section::kDropped) return;
    described = true;
    append_collapsed(section == Section::kFindings ? sections.findings : sections.impression,
                     report.substr(begin, end - begin));
  };
  bool line_start = true;
  for (std::size_t i = 0; i < report.size();) {
    const bool word_start = i == 0 || is_blank(report[i - 1]);
    std::size_t length = 0;
    const Heading* heading = word_start ? heading_at(report.substr(i), line_start, length) : nullptr;
    if (heading) {
      close(i);
      section = heading->section;
      i += length;
      begin = i;
      line_start = false;
      continue;
    }
    if (report[i] == '\n' || report[i] == '\r') {
      line_start = true;
    } else if (!is_blank(report[i])) {
      line_start = false;
    }
    ++i;
  }
  close(report.size());
  if (!described) append_collapsed(sections.findings, report);
  return sections;
}

StudyText label_derived_text(const std::vector<std::string>& findings, const std::vector<LabelState>& states,
                             bool mention_negatives) {
  if (findings.size() != states.size())
    fail(ErrorCode::kMismatch, "label_derived_text", "states", detail::concat(findings.size(), " states"),
         states.size());
  std::vector<std::string> positive, uncertain, negative;
  bool nothing_found = false;
  for (std::size_t f = 0; f < findings.size(); ++f) {
    if (is_no_finding(findings[f])) {
      nothing_found = nothing_found || states[f] == LabelState::kPositive;
    } else if (states[f] == LabelState::kPositive) {
      positive.push_back(finding_phrase(findings[f]));
    } else if (states[f] == LabelState::kUncertain) {
      uncertain.push_back(finding_phrase(findings[f]));
    } else if (states[f] == LabelState::kNegative) {
      negative.push_back(finding_phrase(findings[f]));
    }
  }
  StudyText study{"", true};
  const auto add = [&](const std::string& sentence) { study.text += (study.text.empty() ? "" : " ") + sentence; };
  if (!positive.empty()) add("There is " + join(positive, "and") + ".");
  if (!uncertain.empty()) add("Possible " + join(uncertain, "or") + ".");
  if (study.text.empty() && (nothing_found || !negative.empty())) add("No abnormality.");
  if (!negative.empty() && mention_negatives) add("No " + join(negative, "or") + ".");
  return study;
}

}  // namespace daug
