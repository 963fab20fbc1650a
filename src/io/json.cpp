#include "io/json.h"

namespace daug::detail {

template nlohmann::json parse_json<nlohmann::json>(std::string_view, const char*, const std::string&);
template nlohmann::ordered_json parse_json<nlohmann::ordered_json>(std::string_view, const char*, const std::string&);
template std::string shown<nlohmann::json>(const nlohmann::json&);
template std::string shown<nlohmann::ordered_json>(const nlohmann::ordered_json&);

}  // namespace daug::detail
