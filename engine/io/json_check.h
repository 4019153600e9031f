// Checking JSON while it is read, before any of it is kept. Internal to engine/io: pulls in all of
// nlohmann-json.
#ifndef LORAD_ENGINE_IO_JSON_CHECK_H_
#define LORAD_ENGINE_IO_JSON_CHECK_H_

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace lorad {

// Accepts every value; derive and override what matters. A callback that refuses returns Fail()
// with text that is valid UTF-8 on one line (ClippedText).
class JsonHandler : public nlohmann::json::json_sax_t {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool parse_error(std::size_t position, const std::string& last_token,
                   const nlohmann::detail::exception& exception) override;

  const std::string& error() const { return error_; }
  bool has_position() const { return has_position_; }
  size_t position() const { return position_; }

 protected:
  bool Fail(std::string error) {
    error_ = std::move(error);
    return false;
  }

 private:
  std::string error_;
  bool has_position_ = false;
  size_t position_ = 0;
};

// Feeds `text` to `handler`. kInvalidArgument "<where>: <what> at line L, column C" for what the
// handler or the parser refuses, NUL bytes and a BOM.
absl::Status CheckJson(std::string_view text, std::string_view where, JsonHandler* handler);

// "line 3, column 7" of the byte at `offset`; both from 1, columns in bytes.
std::string JsonPosition(std::string_view text, size_t offset);

// The start of `text`, about 120 bytes, with control characters and invalid bytes as \xHH: valid
// UTF-8 on one line, for error messages.
std::string ClippedText(std::string_view text);

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_JSON_CHECK_H_
