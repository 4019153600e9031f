#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/in_order.h"
#include "client/cli/inputs.h"
#include "client/cli/json.h"
#include "client/cli/session.h"
#include "client/inference.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

const InputKinds& ScoreInputs() {
  static const auto* const kinds =
      new InputKinds{.text = "text",
                     .options = {
                         {"adapter", OptionType::kText, "ADAPTER", "name, name@version or alias",
                          "the base model"},
                         {"add_special_tokens", OptionType::kBool, "",
                          "put the tokenizer's special tokens around a text", "true"},
                     }};
  return *kinds;
}

v1::ScoreRequest ScoreRequestFor(const Input& input, const Arguments& arguments) {
  v1::ScoreRequest request;
  if (input.ids) {
    request.mutable_ids()->mutable_ids()->Add(input.ids->begin(), input.ids->end());
  } else {
    request.set_text(input.text);
  }
  request.set_adapter(input.adapter.value_or(arguments.Text("adapter")));
  if (arguments.Has("add_special_tokens")) {
    request.set_add_special_tokens(arguments.Bool("add_special_tokens"));
  }
  return request;
}

// The stable form of scripts: position t given 0..t-1, so null for the first token. Printed with as
// few digits as give the same 32-bit number again.
std::string ScoreLine(const v1::ScoreResponse& reply) {
  nlohmann::ordered_json logprobs = {nullptr};
  const nlohmann::ordered_json json = ToJson(reply);
  for (const nlohmann::ordered_json& value : json["logprobs"]) {
    logprobs.push_back(value.is_number() ? value : nlohmann::ordered_json(nullptr));
  }
  nlohmann::ordered_json line;
  line["logprobs"] = std::move(logprobs);
  return JsonLine(line);
}

std::string ScoreText(const v1::ScoreResponse& reply) {
  double sum = 0;
  for (const float logprob : reply.logprobs()) sum += logprob;
  std::string text = absl::StrCat(reply.ids_size(), " tokens  sum ", FormatSignificant(sum));
  if (reply.logprobs_size() > 0) {
    absl::StrAppend(&text, "  perplexity ",
                    FormatSignificant(std::exp(-sum / reply.logprobs_size())));
  }
  return text;
}

absl::StatusOr<int> RunScore(Session& session, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const auto inputs, ReadInputs(arguments, ScoreInputs()));
  InferenceClient client(session.connection());
  RETURN_IF_ERROR(RunInOrder(
      inputs.size(), std::max<int64_t>(1, arguments.Int("parallel", 16)),
      [&](size_t i) -> absl::StatusOr<std::string> {
        const auto reply = client.Score(ScoreRequestFor(inputs[i], arguments));
        if (!reply.ok()) return AtInput(inputs[i], reply.status());
        return session.json() ? ScoreLine(*reply) : ScoreText(*reply);
      },
      [&](const std::string& answer) { session.out() << answer << std::endl; },
      [&] { session.connection()->CancelAll(); }));
  return 0;
}

std::vector<Option> ScoreOptions() {
  std::vector<Option> options = InputOptions(ScoreInputs());
  const auto& more = ScoreInputs().options;
  options.insert(options.end(), more.begin(), more.end());
  options.push_back({"parallel", OptionType::kInt, "N", "requests at once, with --jsonl", "16"});
  return options;
}

}  // namespace

Command ScoreCommand() {
  return {.path = "score",
          .summary = "Gives the log-probability of each token of a text",
          .options = ScoreOptions(),
          .examples = {{"loractl score --text='SELECT name FROM users' --adapter=sql", ""},
                       {"loractl score --ids='[1,2,3]' --output=json",
                        "{\"logprobs\":[null,-1.2,-0.4]}"}},
          .run = RunScore};
}

}  // namespace lorad::client::cli
