#include "client/cli/commands.h"
#include "client/cli/inputs.h"
#include "client/cli/json.h"
#include "client/cli/session.h"
#include "client/inference.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

const InputKinds& TokenizeInputs() {
  static const auto* const kinds =
      new InputKinds{.text = "text",
                     .ids = false,
                     .options = {{"add_special_tokens", OptionType::kBool, "",
                                  "put the tokenizer's special tokens around the text", "true"}}};
  return *kinds;
}

absl::StatusOr<int> RunTokenize(Session& session, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const auto inputs, ReadInputs(arguments, TokenizeInputs()));
  InferenceClient client(session.connection());
  for (const Input& input : inputs) {
    v1::TokenizeRequest request;
    request.set_text(input.text);
    if (arguments.Has("add_special_tokens")) {
      request.set_add_special_tokens(arguments.Bool("add_special_tokens"));
    }
    const auto reply = client.Tokenize(request);
    if (!reply.ok()) return AtInput(input, reply.status());
    if (session.json()) {
      session.PrintJson(*reply);
    } else {
      session.out() << nlohmann::json(reply->ids()).dump() << "\n";
    }
  }
  return 0;
}

std::vector<Option> TokenizeOptions() {
  std::vector<Option> options = InputOptions(TokenizeInputs());
  options.push_back(TokenizeInputs().options[0]);
  return options;
}

}  // namespace

Command TokenizeCommand() {
  return {.path = "tokenize",
          .summary = "Turns text into token ids",
          .options = TokenizeOptions(),
          .examples = {{"loractl tokenize --text='Hello' --add_special_tokens=false", ""},
                       {"loractl tokenize --jsonl=texts.jsonl --output=json", "{\"ids\":[...]}"}},
          .run = RunTokenize};
}

}  // namespace lorad::client::cli
