#include "daug/pipeline/figures.h"

#include <cmath>

#include "daug/core/error.h"
#include "daug/io/file.h"
#include "io/json.h"

namespace daug {

namespace {
nlohmann::json number_or_null(const std::optional<double>& value) {
  return value && std::isfinite(*value) ? nlohmann::json(*value) : nlohmann::json(nullptr);
}
constexpr const char* kRead = "daug::read_metrics";
constexpr std::uint64_t kMostBytes = 1 << 28;

/// A member that is a number, or null for one that is not defined.
std::optional<double> optional_number(const nlohmann::json& figure, const char* key, const std::string& where) {
  if (detail::member_of(figure, key, kRead, where).is_null()) return std::nullopt;
  return detail::member_as<double>(figure, key, kRead, where);
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
  const auto file = detail::parse_json(read_text_file(path, kMostBytes), kRead, path);
  const auto version = detail::member_as<std::int64_t>(file, "version", kRead, path);
  if (version != kMetricsVersion)
    fail(ErrorCode::kUnsupported, kRead, path, detail::concat("version ", kMetricsVersion), version);
  if (fingerprint) *fingerprint = detail::member_as<std::string>(file, "fingerprint", kRead, path);
  const auto& list = detail::member_of(file, "figures", kRead, path);
  if (!list.is_array()) fail(ErrorCode::kFormat, kRead, path + ": figures", "a list", list.type_name());
  std::vector<Figure> figures;
  for (const auto& item : list) {
    const std::string where = detail::concat(path, ": figures[", figures.size(), "]");
    const auto text = [&](const char* key) { return detail::member_as<std::string>(item, key, kRead, where); };
    figures.push_back({text("name"), text("arm"), text("split"),
                       optional_number(item, "value", where).value_or(std::nan("")),
                       optional_number(item, "low", where), optional_number(item, "high", where),
                       detail::member_as<std::int64_t>(item, "n", kRead, where), text("definition")});
  }
  return figures;
}

const Figure* find_figure(const std::vector<Figure>& figures, const std::string& name, const std::string& arm,
                          const std::string& split) {
  for (const auto& figure : figures)
    if (figure.name == name && figure.arm == arm && figure.split == split) return &figure;
  return nullptr;
}

}  // namespace daug
