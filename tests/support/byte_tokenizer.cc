#include "tests/support/byte_tokenizer.h"

#include <cstdio>
#include <cstdlib>
#include <string>

#include "nlohmann/json.hpp"

namespace lorad {
namespace {

// The character that GPT-2's byte-level alphabet spells `byte` with: itself where it is printable
// in Latin-1, else the next of U+0100...
char32_t Spelling(int byte, int& next) {
  const bool printable =
      (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  return printable ? static_cast<char32_t>(byte) : static_cast<char32_t>(0x100 + next++);
}

std::string Utf8(char32_t c) {  // below U+0800
  if (c < 0x80) return std::string(1, static_cast<char>(c));
  return {static_cast<char>(0xc0 | (c >> 6)), static_cast<char>(0x80 | (c & 0x3f))};
}

}  // namespace

std::string ByteTokenizerJson() {
  nlohmann::json vocab = nlohmann::json::object();
  int next = 0;
  for (int byte = 0; byte < 256; ++byte) vocab[Utf8(Spelling(byte, next))] = byte;
  vocab["<|end|>"] = 256;
  const nlohmann::json byte_level = {{"type", "ByteLevel"},
                                     {"add_prefix_space", false},
                                     {"trim_offsets", true},
                                     {"use_regex", true}};
  const nlohmann::json json = {{"version", "1.0"},
                               {"truncation", nullptr},
                               {"padding", nullptr},
                               {"added_tokens",
                                {{{"id", 256},
                                  {"content", "<|end|>"},
                                  {"single_word", false},
                                  {"lstrip", false},
                                  {"rstrip", false},
                                  {"normalized", false},
                                  {"special", true}}}},
                               {"normalizer", nullptr},
                               {"pre_tokenizer", byte_level},
                               {"post_processor", nullptr},
                               {"decoder", byte_level},
                               {"model",
                                {{"type", "BPE"},
                                 {"dropout", nullptr},
                                 {"unk_token", nullptr},
                                 {"continuing_subword_prefix", nullptr},
                                 {"end_of_word_suffix", nullptr},
                                 {"fuse_unk", false},
                                 {"byte_fallback", false},
                                 {"vocab", vocab},
                                 {"merges", nlohmann::json::array()}}}};
  return json.dump();
}

std::unique_ptr<const Tokenizer> MakeByteTokenizer() {
  auto tokenizer = Tokenizer::FromJson(ByteTokenizerJson(), "", "byte tokenizer");
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "byte tokenizer: %s\n", tokenizer.status().ToString().c_str());
    std::abort();
  }
  return *std::move(tokenizer);
}

}  // namespace lorad
