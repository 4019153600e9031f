// Small tokenizer.json documents for the tokenizer's tests.
#ifndef LORAD_TESTS_UNIT_ENGINE_IO_TOKENIZER_FIXTURE_H_
#define LORAD_TESTS_UNIT_ENGINE_IO_TOKENIZER_FIXTURE_H_

#include <memory>
#include <string>
#include <utility>

#include "engine/io/tokenizer.h"
#include "engine/io/tokenizer/unicode.h"
#include "engine/io/utf8.h"
#include "nlohmann/json.hpp"

namespace lorad {

// Ids 0..255 are the bytes, in order; then "ab" 256, "abc" 257, "Ġab" 258; then "<s>" 259 and
// "</s>" 260, special. Pieces are cut by ByteLevel's own split.
inline nlohmann::json ByteLevelDocument() {
  using nlohmann::json;
  nlohmann::json vocab = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte) {
    std::string token;
    AppendUtf8(ByteLevelChar(static_cast<uint8_t>(byte)), &token);
    vocab[token] = byte;
  }
  vocab["ab"] = 256;
  vocab["abc"] = 257;
  vocab["Ġab"] = 258;
  const auto special = [](int id, const char* content) {
    return nlohmann::json{{"id", id},        {"content", content}, {"single_word", false},
                          {"lstrip", false}, {"rstrip", false},    {"normalized", false},
                          {"special", true}};
  };
  const nlohmann::json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", {special(259, "<s>"), special(260, "</s>")}},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"vocab", vocab},
            {"merges", json::array({json::array({"a", "b"}), json::array({"ab", "c"}),
                                    json::array({"Ġ", "ab"})})}}}};
}

// SentencePiece-style: "<unk>" 0, "<s>" 1, bytes "<0x00>".. 2..257, "▁" 258, "a" 259, "b" 260,
// "ab" 261, "▁ab" 262. Decodes through Replace, ByteFallback, Fuse and Strip, as Llama-2 does.
inline nlohmann::json ByteFallbackDocument() {
  static const char kHex[] = "0123456789ABCDEF";
  nlohmann::json vocab = {{"<unk>", 0}, {"<s>", 1},  {"▁", 258},  {"a", 259},
                          {"b", 260},   {"ab", 261}, {"▁ab", 262}};
  for (int byte = 0; byte < 256; ++byte)
    vocab[std::string("<0x") + kHex[byte / 16] + kHex[byte % 16] + ">"] = 2 + byte;
  nlohmann::json document = ByteLevelDocument();
  document["added_tokens"] = nlohmann::json::array();
  document["normalizer"] = nlohmann::json::parse(R"({"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})");
  document["pre_tokenizer"] = nullptr;
  document["decoder"] = nlohmann::json::parse(R"({"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})");
  document["model"] = {{"type", "BPE"},    {"unk_token", "<unk>"},
                       {"fuse_unk", true}, {"byte_fallback", true},
                       {"vocab", vocab},   {"merges", {"a b", "▁ ab"}}};
  return document;
}

inline absl::StatusOr<std::unique_ptr<const Tokenizer>> Make(const nlohmann::json& document,
                                                             const std::string& config = "") {
  return Tokenizer::FromJson(document.dump(), config, "test");
}

}  // namespace lorad

#endif  // LORAD_TESTS_UNIT_ENGINE_IO_TOKENIZER_FIXTURE_H_
