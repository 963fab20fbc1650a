#include "daug/pipeline/run_config.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "daug/core/error.h"
#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "io/json.h"

namespace daug {

namespace {
constexpr int kConfigVersion = 1;
}  // namespace

void write_config(const std::string& path, const RunConfig& config) {
  RunConfig copy = config;
  nlohmann::ordered_json json = {{"version", kConfigVersion}, {"preset", config.preset}};
  for (const auto& setting : settings(copy))
    std::visit([&](const auto* value) { json["settings"][setting.name] = *value; }, setting.value);
  write_file_atomically(path, json.dump(1) + "\n");
}

RunConfig read_config(const std::string& path) {
  constexpr const char* kFunction = "daug::read_config";
  constexpr std::uint64_t kMostBytes = 1 << 20;
  RunConfig config;
  std::vector<Setting> known = settings(config);
  const auto json = detail::parse_json(read_text_file(path, kMostBytes), kFunction, path);
  const auto version = detail::member_as<std::int64_t>(json, "version", kFunction, path);
  if (version != kConfigVersion)
    fail(ErrorCode::kUnsupported, kFunction, path, detail::concat("version ", kConfigVersion), version);
  config.preset = detail::member_as<std::string>(json, "preset", kFunction, path);
  const auto& given = detail::member_of(json, "settings", kFunction, path);
  if (!given.is_object()) fail(ErrorCode::kFormat, kFunction, path + ": settings", "{name: value}", given.type_name());
  for (const auto& [name, value] : given.items()) {
    const auto setting =
        std::find_if(known.begin(), known.end(), [&, key = name](const Setting& one) { return one.name == key; });
    if (setting == known.end()) fail(ErrorCode::kFormat, kFunction, path, "known settings", name);
    const auto read = [&, &found = value](auto* target) {
      *target = detail::value_of<std::decay_t<decltype(*target)>>(found, kFunction, path + ": " + setting->name);
    };
    std::visit(read, setting->value);
  }
  config.validate();
  return config;
}

std::string settings_fingerprint(RunConfig config, const std::vector<std::string>& prefixes) {
  Fingerprint fingerprint;
  RunConfig plain;
  const std::vector<Setting> all = settings(config), defaults = settings(plain);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Setting& setting = all[i];
    if (setting.added_later && setting.text() == defaults[i].text()) continue;
    const auto begins = [&](const std::string& prefix) { return setting.name.rfind(prefix, 0) == 0; };
    const auto left_out = [&](const std::string& prefix) { return prefix[0] == '-' && begins(prefix.substr(1)); };
    if (std::any_of(prefixes.begin(), prefixes.end(), left_out)) continue;
    if (std::any_of(prefixes.begin(), prefixes.end(), begins)) fingerprint.add(setting.name, setting.text());
  }
  return fingerprint.hex();
}

}  // namespace daug
