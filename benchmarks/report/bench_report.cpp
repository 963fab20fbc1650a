// A page of the size of a run's report: 300 pictures with overlays, tables, charts.

#include <cmath>

#include "daug/image/png.h"
#include "daug/report/html_report.h"
#include "support/context.h"

namespace {

std::vector<std::uint8_t> picture(int size, double phase) {
  daug::GrayImage image = daug::GrayImage::filled(size, size);
  for (std::size_t i = 0; i < image.pixels.size(); ++i)
    image.pixels[i] = static_cast<float>(0.5 + 0.5 * std::sin(0.01 * static_cast<double>(i) + phase));
  return daug::encode_png(image);
}

void page(benchmark::State& state) {
  const std::vector<std::uint8_t> image = picture(128, 0), overlay = picture(128, 1);
  daug::ImageGrid grid;
  for (int row = 0; row < 50; ++row)
    grid.rows.push_back({"image", std::vector<daug::ReportImage>(6, {image, "map", "", overlay})});
  daug::Table table;
  table.header = {"arm", "value", "low", "high"};
  table.rows.assign(200, {"image", "0.7", "0.6", "0.8"});
  daug::LineChart chart;
  chart.title = "ROC";
  for (int s = 0; s < 4; ++s) {
    daug::Series series;
    series.name = "arm " + std::to_string(s);
    for (int i = 0; i <= 100; ++i) {
      series.x.push_back(0.01 * i);
      series.y.push_back(std::sqrt(0.01 * i));
    }
    chart.series.push_back(series);
  }
  std::size_t bytes = 0;
  for (auto _ : state) {
    daug::HtmlReport report("bench");
    report.section("Pictures").images(grid).section("Figures").table(table).charts({chart, chart});
    bytes = report.html().size();
  }
  state.counters["page_bytes"] = static_cast<double>(bytes);
}
BENCHMARK(page)->Unit(benchmark::kMillisecond);

}  // namespace

DAUG_BENCHMARK_MAIN()
