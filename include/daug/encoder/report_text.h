#pragma once
/// @file
/// Text of a study: sections of a written report, or sentences made from labels where there is no report.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "daug/data/labels.h"

namespace daug {

/// The parts of a report that describe the image. White space is collapsed.
struct ReportSections {
  std::string findings;    ///< what is seen; may be empty
  std::string impression;  ///< what it means; may be empty
  /// Bytes of text under headings of both ("FINDINGS AND IMPRESSION:"), which ends the one and begins the other.
  std::size_t shared = 0;

  /// Findings and impression, one space between: what the text encoder reads. What they share is said once, as long
  /// as `findings` ends with the first `shared` bytes of `impression`.
  std::string text() const;
};

/// Finds sections by their headings: "FINDINGS:", "IMPRESSION:", also "CONCLUSION:", "INTERPRETATION:" or "SUMMARY:".
///
/// A heading ends with a colon, in any case at the start of a line, with a capital behind a full stop or another
/// heading, in capitals anywhere; or it has, from a capital on, a line for itself with another one below. Names joined
/// by "and", "/", "&", "+" or a comma are one heading: text under "FINDINGS/IMPRESSION:" is findings and impression,
/// that under "IMPRESSION AND RECOMMENDATIONS:" is impression. Other known headings end a section and their text is
/// dropped: addendum, comparison, end of impression or report (with the summary behind it), examination, history,
/// indication, notification, preliminary and final report, procedure, reason for the examination, recommendation,
/// study, technique, views, wet read. Rather than lose text of findings or impression, such a heading ends them only
/// in a surer form (docs/text.md): "FINDINGS: Clear. Comparison: none. Effusion." is findings to the end. Text before
/// the first heading is dropped; a section that occurs twice is joined. A report without text under a findings or
/// impression heading is all findings.
ReportSections split_sections(std::string_view report);

/// Text and where it came from; figures that need real reports leave label-derived text out.
struct StudyText {
  std::string text;            ///< may be empty
  bool label_derived = false;  ///< true: written by label_derived_text, not by a reader
};

/// Sentences for labels: "There is cardiomegaly and effusion. Possible nodule. No edema or pneumothorax."
///
/// Findings keep their order; positive, uncertain, negative in that order, so that truncation loses negatives first.
/// "No abnormality." comes first when no finding is positive or uncertain and one is negative or a no-finding label
/// is positive. Findings not mentioned stay out; with nothing to say the text is empty (treat it as missing). Always
/// marked label-derived. Without `mention_negatives` the sentence of negative findings is left out. Throws kMismatch
/// when the two lists differ in length.
StudyText label_derived_text(const std::vector<std::string>& findings, const std::vector<LabelState>& states,
                             bool mention_negatives = true);

}  // namespace daug
