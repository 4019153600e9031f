// "Did you mean": the known word nearest to an unknown one.
#ifndef LORAD_CLIENT_CLI_SUGGEST_H_
#define LORAD_CLIENT_CLI_SUGGEST_H_

#include <string>
#include <string_view>
#include <vector>

namespace lorad::client::cli {

// Edits (insertion, deletion, substitution, swap of neighbours) that turn one word into the other.
int EditDistance(std::string_view a, std::string_view b);

// The known word with the fewest edits, or one that begins with `word`; empty when none is near: a
// third of the word's length, at least one edit.
std::string Nearest(std::string_view word, const std::vector<std::string>& known);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_SUGGEST_H_
