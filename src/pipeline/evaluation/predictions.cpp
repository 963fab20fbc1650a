#include "predictions.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "daug/core/error.h"
#include "daug/io/safetensors.h"

namespace daug {

namespace {
constexpr const char* kFileFormat = "daug-predictions-1";
constexpr const char* kTables = "table/";
}  // namespace

const std::vector<double>& Predictions::table(const std::string& arm, const char* name) const {
  const auto found = tables.find(arm + "/" + name);
  if (found == tables.end()) fail(ErrorCode::kNotFound, "daug::Predictions", "arm", "one with predictions", arm);
  return found->second;
}

std::vector<std::string> Predictions::arms(const char* table) const {
  const std::string ending = std::string("/") + table;
  std::vector<std::string> found;
  for (const auto& [name, values] : tables)
    if (name.size() > ending.size() && name.compare(name.size() - ending.size(), ending.size(), ending) == 0)
      found.push_back(name.substr(0, name.size() - ending.size()));
  std::sort(found.begin(), found.end());  // the tables are sorted by arm and ending together
  return found;
}

void write_predictions(const std::string& path, const Predictions& predictions) {
  SafetensorsFile file;
  file.metadata = {{"format", kFileFormat},
                   {"fingerprint", predictions.fingerprint},
                   {"studies", predictions.studies},
                   {"findings", nlohmann::json(predictions.names).dump()}};
  const auto images = static_cast<std::int64_t>(predictions.images());
  const auto findings = static_cast<std::int64_t>(predictions.findings);
  file.tensors.emplace("rows", Array::from(predictions.rows, {images}));
  file.tensors.emplace("patients", Array::from(predictions.patients, {images}));
  for (const auto& [name, flags] :
       {std::pair<const char*, const std::vector<std::uint8_t>*>{"positive", &predictions.positive},
        {"known", &predictions.known}})
    file.tensors.emplace(name, Array{ElementType::kU8, {images, findings}, *flags});
  for (const auto& [name, values] : predictions.tables)
    file.tensors.emplace(kTables + name, Array::from(values, {images, findings}));
  write_safetensors(path, file);
}

Predictions read_predictions(const std::string& path) {
  constexpr const char* kFunction = "daug::read_predictions";
  const SafetensorsFile file = read_safetensors(path);
  const auto format = file.metadata.find("format");
  if (format == file.metadata.end() || format->second != kFileFormat)
    fail(ErrorCode::kFormat, kFunction, path, kFileFormat,
         format == file.metadata.end() ? "no format" : format->second);
  const auto array = [&](const char* name, ElementType type) -> const Array& {
    if (!file.contains(name) || file.at(name).type != type)
      fail(ErrorCode::kFormat, kFunction, path + ": " + name, element_name(type),
           file.contains(name) ? element_name(file.at(name).type) : "none");
    return file.at(name);
  };
  Predictions predictions;
  predictions.rows = array("rows", ElementType::kI64).to_int64();
  predictions.patients = array("patients", ElementType::kI64).to_int64();
  const auto text = [&](const char* key) {
    const auto found = file.metadata.find(key);
    return found == file.metadata.end() ? std::string() : found->second;
  };
  predictions.fingerprint = text("fingerprint");
  predictions.studies = text("studies");
  const std::vector<std::int64_t> shape = array("positive", ElementType::kU8).shape;
  const auto images = static_cast<std::int64_t>(predictions.rows.size());
  if (shape.size() != 2 || shape[0] != images || predictions.patients.size() != predictions.rows.size())
    fail(ErrorCode::kFormat, kFunction, path + ": positive", detail::concat(images, " rows, as there are images"),
         shape.empty() ? 0 : shape[0]);
  predictions.findings = static_cast<std::size_t>(shape[1]);
  try {
    if (const std::string names = text("findings"); !names.empty())
      nlohmann::json::parse(names).get_to(predictions.names);
  } catch (const nlohmann::json::exception& error) {
    fail(ErrorCode::kFormat, kFunction, path + ": findings", "a list of names", error.what());
  }
  if (!predictions.names.empty() && predictions.names.size() != predictions.findings)
    fail(ErrorCode::kFormat, kFunction, path + ": findings", detail::concat(predictions.findings, " names"),
         predictions.names.size());
  for (const auto& [name, flags] :
       {std::pair<const char*, std::vector<std::uint8_t>*>{"positive", &predictions.positive},
        {"known", &predictions.known}}) {
    const Array& found = array(name, ElementType::kU8);
    if (found.shape != shape)
      fail(ErrorCode::kFormat, kFunction, path + ": " + name, "the shape of positive", found.numel());
    *flags = found.data;
  }
  for (const auto& [name, table] : file.tensors) {
    if (name.rfind(kTables, 0) != 0) continue;
    if (table.shape != shape)
      fail(ErrorCode::kFormat, kFunction, path + ": " + name, "the shape of positive", table.numel());
    predictions.tables.emplace(name.substr(std::string(kTables).size()), table.to_double());
  }
  return predictions;
}

}  // namespace daug
