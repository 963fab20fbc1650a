// What the page says of the encoders: whether maps help them, what they retrieve, and their curves and calibration.

#include <string>
#include <utility>
#include <vector>

#include "pipeline/evaluation/paired_tests.h"
#include "report_charts.h"
#include "report_page.h"

namespace daug {

namespace {

std::vector<std::string> findings_of(const RunData& data, std::size_t row) {
  std::vector<std::string> names;
  for (std::size_t f = 0; f < data.findings(); ++f)
    if (data.study(row).labels[f] == LabelState::kPositive) names.push_back(data.cohort.findings[f]);
  if (names.empty()) names.push_back("none");
  return names;
}

}  // namespace

void add_encoders(ReportPage& report) {
  report.page.section("Do the maps help an encoder?");
  std::vector<std::string> paper;
  for (const auto& arm : report.run.paper_arms()) paper.push_back(arm.name);
  std::vector<std::pair<std::string, std::string>> columns = {{"classification.auroc_macro", "macro AUROC"},
                                                              {"classification.auprc_macro", "macro AP"},
                                                              {"retrieval.p_at_5", "P@5"},
                                                              {"retrieval.map_at_10", "mAP@10"},
                                                              {"retrieval.wmap_at_10", "wmAP@10"}};
  if (report.data.cohort.has_reports) columns.emplace_back("retrieval.report_to_image.p_at_5", "report to image P@5");
  for (const auto& split : report.splits())
    report.table("The four arms of the paper, " + split + ": {image, image + maps} x {image-text, hybrid loss}." +
                     report.text_note(),
                 paper, columns, split, {report.evidence_arm()});
  std::vector<std::string> others = {"chance", "metadata_logistic", "pca_logistic", "noise_aware_classifier"};
  for (const auto& name : report.arm_names()) others.push_back(name);
  for (const auto& split : report.splits())
    report.table("All arms and baselines, " + split + ". Noise channels are the control that should gain nothing." +
                     report.text_note(),
                 others,
                 {{"classification.auroc_macro", "macro AUROC"},
                  {"classification.auroc_weighted", "weighted AUROC"},
                  {"classification.ece", "calibration error"},
                  {"retrieval.p_at_1", "P@1"},
                  {"retrieval.p_at_5", "P@5"},
                  {"retrieval.p_at_10", "P@10"}},
                 split);
  IntervalPlot plot;
  plot.title = report.noted("Macro AUROC, test, 95 % patient bootstrap");
  plot.axis.label = "macro AUROC";
  plot.reference = 0.5;
  for (const auto& arm : others)
    if (const Figure* f = report.figure("classification.auroc_macro", arm); f && f->low)
      plot.rows.push_back({arm, f->value, *f->low, f->high.value_or(f->value), arm == report.evidence_arm()});
  if (!plot.rows.empty()) report.page.intervals(plot);
  const Table tests = tests_table(
      "Paired tests of the arms on the same test images: difference with its paired patient-bootstrap interval, p of "
      "a swap test by patient, and p by Holm's correction for all comparisons of the figure." +
          report.text_note(),
      report.figures, /*of_findings=*/false);
  if (!tests.rows.empty()) report.page.table(tests);
}

void add_retrieval(ReportPage& report) {
  const RunData& data = report.data;
  if (!report.details.contains("retrieval_examples")) return;
  report.page.section("Retrieval");
  std::vector<std::string> arms = {"chance"};
  for (const auto& name : report.arm_names()) arms.push_back(name);
  const auto at_10 = [&](const std::string& prefix, const std::string& direction) {
    report.table(direction +
                     ", the first ten, test: means over queries, then over findings (wmAP: over all pairs of the two). "
                     "AP is divided by min(10, relevant), AP' as in published code by the relevant among the ten." +
                     report.text_note(),
                 arms,
                 {{prefix + "p_at_10", "P@10"},
                  {prefix + "recall_at_10", "R@10"},
                  {prefix + "ndcg_at_10", "nDCG@10"},
                  {prefix + "map_at_10", "mAP@10"},
                  {prefix + "map_reference_at_10", "mAP'@10"},
                  {prefix + "wmap_reference_at_10", "wmAP'@10"}},
                 "test", {report.evidence_arm()});
  };
  at_10("retrieval.", "Image to image");
  at_10("retrieval.report_to_image.", "Report to image");
  std::vector<RetrievalRow> rows;
  for (const auto& example : report.details["retrieval_examples"]) {
    const auto query = report.row_of(example.at("query"));
    RetrievalRow row;
    row.query = report.plain(data.images.image(query), data.study(query).id);
    row.findings = findings_of(data, query);
    for (const auto& hit : example.at("hits")) {
      const auto found = report.row_of(hit);
      row.hits.push_back({report.plain(data.images.image(found), data.study(found).id), findings_of(data, found)});
    }
    rows.push_back(std::move(row));
  }
  report.page.retrieval("The first queries of the test split and what the arm '" + report.evidence_arm() +
                            "' finds among its training and the validation images; shared findings are marked." +
                            report.text_note(),
                        rows);
}

void add_curves(ReportPage& report) {
  report.page.section("Curves and subgroups");
  const std::vector<std::string> arms = {"image", report.evidence_arm(), "image+noise", "pca_logistic"};
  report.page.charts(curve_charts(report.details, arms, report.noted("all findings pooled")));
  Table subgroups = subgroups_table(report.details, report.evidence_arm());
  subgroups.caption += report.text_note();
  if (!subgroups.rows.empty()) report.page.table(subgroups);
  Table by_finding;
  by_finding.caption = "AUROC by finding, test, with intervals." + report.text_note();
  by_finding.header = {"finding"};
  for (const auto& arm : arms) by_finding.header.push_back(arm);
  for (const auto& finding : report.data.cohort.findings) {
    std::vector<std::string> cells = {finding};
    for (const auto& arm : arms) {
      const Figure* of_finding = report.figure("classification.auroc[" + finding + "]", arm);
      cells.push_back(of_finding ? with_interval(of_finding) : "-");
    }
    by_finding.rows.push_back(cells);
  }
  report.page.table(by_finding);
  const Table tests = tests_table(
      "AUROC by finding of the arm with maps less that of the image alone: DeLong's test on the same test images, "
      "for patients with several, and p by Holm's correction for all findings." +
          report.text_note(),
      report.figures, /*of_findings=*/true);
  if (!tests.rows.empty()) report.page.table(tests);
}

void add_calibration(ReportPage& report) {
  std::vector<std::string> arms = {"noise_aware_classifier", "pca_logistic", "metadata_logistic"};
  for (const auto& name : report.arm_names()) arms.push_back(name);
  Table table = calibration_table(report.figures, arms);
  if (table.rows.empty()) return;
  table.caption += report.text_note();
  report.page.section("Calibration");
  report.page.paragraph(
      "A probability means what it says where, of all labels it is given to, that share is positive: on the dotted "
      "line. The temperature was fitted to the validation images, never to test images; it changes no ranking.");
  auto charts = calibration_charts(report.details, report.figures,
                                   {"image", report.evidence_arm(), "image+noise", "pca_logistic"});
  for (LineChart& chart : charts) chart.title = report.noted(chart.title);
  report.page.charts(charts);
  report.page.table(table);
  if (const std::string text = untempered_text(report.details); !text.empty()) report.page.paragraph(text);
}

}  // namespace daug
