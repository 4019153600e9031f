#include "client/cli/commands.h"
#include "client/cli/inputs.h"
#include "client/cli/session.h"
#include "client/inference.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

const InputKinds& DetokenizeInputs() {
  static const auto* const kinds =
      new InputKinds{.options = {{"skip_special_tokens", OptionType::kBool, "",
                                  "leave special tokens out of the text", "false"}}};
  return *kinds;
}

absl::StatusOr<int> RunDetokenize(Session& session, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const auto inputs, ReadInputs(arguments, DetokenizeInputs()));
  InferenceClient client(session.connection());
  for (const Input& input : inputs) {
    v1::DetokenizeRequest request;
    request.mutable_ids()->Add(input.ids->begin(), input.ids->end());
    request.set_skip_special_tokens(arguments.Bool("skip_special_tokens"));
    const auto reply = client.Detokenize(request);
    if (!reply.ok()) return AtInput(input, reply.status());
    if (session.json()) {
      session.PrintJson(*reply);
    } else {
      session.out() << reply->text() << "\n";
    }
  }
  return 0;
}

std::vector<Option> DetokenizeOptions() {
  std::vector<Option> options = InputOptions(DetokenizeInputs());
  options.push_back(DetokenizeInputs().options[0]);
  return options;
}

}  // namespace

Command DetokenizeCommand() {
  return {
      .path = "detokenize",
      .summary = "Turns token ids into text",
      .options = DetokenizeOptions(),
      .examples = {{"loractl detokenize --ids='[1,2,3]'", ""},
                   {"loractl detokenize --jsonl=ids.jsonl --output=json", "{\"text\":\"...\"}"}},
      .run = RunDetokenize};
}

}  // namespace lorad::client::cli
