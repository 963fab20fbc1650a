#include "daug/pipeline/figures.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "daug/core/error.h"
#include "daug/io/file.h"

namespace daug {

namespace {
nlohmann::json number_or_null(const std::optional<double>& value) {
  return value && std::isfinite(*value) ? nlohmann::json(*value) : nlohmann::json(nullptr);
}
std::optional<double> optional_number(const nlohmann::json& value) {
  return value.is_number() ? std::optional<double>(value.get<double>()) : std::nullopt;
}
}  // namespace

void write_metrics(const std::string& path, const std::vector<Figure>& figures, const std::string& fingerprint) {
  nlohmann::ordered_json list = nlohmann::json::array();
  for (const auto& figure : figures)
    list.push_back(nlohmann::ordered_json{{"name", figure.name},
                                          {"arm", figure.arm},
                                          {"split", figure.split},
                                          {"value", number_or_null(figure.value)},
                                          {"low", number_or_null(figure.low)},
                                          {"high", number_or_null(figure.high)},
                                          {"n", figure.n},
                                          {"definition", figure.definition}});
  const nlohmann::ordered_json file = {{"version", kMetricsVersion}, {"fingerprint", fingerprint}, {"figures", list}};
  std::string text;
  try {
    text = file.dump(1);
  } catch (const nlohmann::json::type_error&) {
    fail(ErrorCode::kInvalidArgument, "daug::write_metrics", "figures", "texts in UTF-8", "other bytes");
  }
  write_file_atomically(path, text + "\n");
}

std::vector<Figure> read_metrics(const std::string& path, std::string* fingerprint) {
  constexpr const char* kFunction = "daug::read_metrics";
  try {
    const auto file = nlohmann::json::parse(read_text_file(path));
    if (file.at("version") != kMetricsVersion)
      fail(ErrorCode::kFormat, kFunction, path, detail::concat("version ", kMetricsVersion), file.at("version").dump());
    if (fingerprint) *fingerprint = file.at("fingerprint").get<std::string>();
    std::vector<Figure> figures;
    for (const auto& item : file.at("figures")) {
      const auto value = optional_number(item.at("value"));
      figures.push_back({item.at("name"), item.at("arm"), item.at("split"), value.value_or(std::nan("")),
                         optional_number(item.at("low")), optional_number(item.at("high")), item.at("n"),
                         item.at("definition")});
    }
    return figures;
  } catch (const nlohmann::json::exception& error) {
    fail(ErrorCode::kFormat, kFunction, path, "a metrics file", error.what());
  }
}

const Figure* find_figure(const std::vector<Figure>& figures, const std::string& name, const std::string& arm,
                          const std::string& split) {
  for (const auto& figure : figures)
    if (figure.name == name && figure.arm == arm && figure.split == split) return &figure;
  return nullptr;
}

}  // namespace daug
