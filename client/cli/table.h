// A table of text with aligned columns.
#ifndef LORAD_CLIENT_CLI_TABLE_H_
#define LORAD_CLIENT_CLI_TABLE_H_

#include <string>
#include <vector>

namespace lorad::client::cli {

// Columns are as wide as their widest cell; columns whose cells are all numbers are aligned right.
// Empty cells show as "-". Control characters become "?", so that a name cannot drive the terminal.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : header_(std::move(header)) {}

  // REQUIRES: as many cells as the header has.
  void Row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

  // Header and rows, each with a newline; the header alone when there are no rows.
  std::string Text() const;

 private:
  std::vector<std::string> header_;
  std::vector<std::vector<std::string>> rows_;
};

// "key  value" lines with the values in one column.
std::string KeyValues(const std::vector<std::pair<std::string, std::string>>& pairs);

// `text` without control characters (newlines and escapes among them), each replaced by "?".
std::string Printable(const std::string& text);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_TABLE_H_
