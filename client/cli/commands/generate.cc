#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/constraint.h"
#include "client/cli/generate_batches.h"
#include "client/cli/in_order.h"
#include "client/cli/inputs.h"
#include "client/cli/json.h"
#include "client/cli/session.h"
#include "client/inference.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

InputKinds MakeGenerateInputs() {
  InputKinds kinds{
      .text = "prompt",
      .options = {
          {"adapter", OptionType::kText, "ADAPTER", "name, name@version or alias",
           "the base model"},
          {"max_tokens", OptionType::kInt, "N", "most new tokens", "what the context has left"},
          {"temperature", OptionType::kDouble, "X", "0: always the likeliest token", "1"},
          {"top_k", OptionType::kInt, "N", "draw among the N likeliest; 0: all", "0"},
          {"top_p", OptionType::kDouble, "X", "draw among the likeliest of this probability", "1"},
          {"min_p", OptionType::kDouble, "X", "drop tokens below X times the likeliest", "0"},
          {"repetition_penalty", OptionType::kDouble, "X",
           "above 1: seen tokens become less likely", "1"},
          {"presence_penalty", OptionType::kDouble, "X", "[-2, 2], once per generated token", "0"},
          {"frequency_penalty", OptionType::kDouble, "X", "[-2, 2], per occurrence", "0"},
          {"n", OptionType::kInt, "N", "so many answers to each prompt, at most 16", "1"},
          {"seed", OptionType::kUint, "N", "the same seed and request give the same answer",
           "random"},
          {"stop", OptionType::kText, "TEXT", "end before this text", "", {}, true},
          {"stop_ids", OptionType::kText, "'[1,2]'", "end on these ids too", ""},
          {"ignore_eos", OptionType::kBool, "", "go on after an end-of-sequence id", "false"},
          {"priority", OptionType::kInt, "N", "[-100, 100], a larger one goes first", "0"},
          {"logprobs", OptionType::kInt, "N",
           "with --details: log-probabilities, and of the N likeliest", "none"},
          {"add_special_tokens", OptionType::kBool, "",
           "put the tokenizer's special tokens around a prompt", "true"},
      }};
  for (const Option& option : ConstraintOptions()) {
    kinds.options.push_back(option);
    kinds.line_keys.push_back(option.name);
  }
  return kinds;
}

const InputKinds& GenerateInputs() {
  static const auto* const kinds = new InputKinds(MakeGenerateInputs());
  return *kinds;
}

absl::StatusOr<v1::GenerateRequest> SharedRequest(const Arguments& arguments) {
  v1::GenerateRequest request;
  request.set_max_tokens(arguments.Int32("max_tokens"));
  if (arguments.Has("temperature")) request.set_temperature(arguments.Double("temperature"));
  request.set_top_k(arguments.Int32("top_k"));
  if (arguments.Has("top_p")) request.set_top_p(arguments.Double("top_p"));
  request.set_min_p(arguments.Double("min_p"));
  if (arguments.Has("repetition_penalty")) {
    request.set_repetition_penalty(arguments.Double("repetition_penalty"));
  }
  request.set_presence_penalty(arguments.Double("presence_penalty"));
  request.set_frequency_penalty(arguments.Double("frequency_penalty"));
  request.set_n(arguments.Int32("n"));
  if (arguments.Has("seed")) request.set_seed(arguments.Uint("seed"));
  for (const std::string& stop : arguments.List("stop")) request.add_stop(stop);
  if (arguments.Has("stop_ids")) {
    ASSIGN_OR_RETURN(const auto ids, ParseIds(arguments.Text("stop_ids"), "--stop_ids"));
    request.mutable_stop_ids()->Add(ids.begin(), ids.end());
  }
  request.set_ignore_eos(arguments.Bool("ignore_eos"));
  request.set_priority(arguments.Int32("priority"));
  if (arguments.Has("logprobs")) request.set_logprobs(arguments.Int32("logprobs"));
  if (arguments.Has("add_special_tokens")) {
    request.set_add_special_tokens(arguments.Bool("add_special_tokens"));
  }
  request.set_adapter(arguments.Text("adapter"));
  RETURN_IF_ERROR(SetConstraint(arguments, &request));
  return request;
}

absl::StatusOr<v1::GenerateRequest> RequestFor(const Input& input, v1::GenerateRequest request) {
  if (input.ids) {
    request.mutable_prompt_ids()->mutable_ids()->Add(input.ids->begin(), input.ids->end());
  } else {
    request.set_prompt(input.text);
  }
  if (input.adapter) request.set_adapter(*input.adapter);
  RETURN_IF_ERROR(SetConstraint(input, &request));
  return request;
}

absl::StatusOr<std::vector<v1::GenerateRequest>> RequestsFor(const std::vector<Input>& inputs,
                                                             const v1::GenerateRequest& shared) {
  std::vector<v1::GenerateRequest> requests;
  for (const Input& input : inputs) {
    ASSIGN_OR_RETURN(requests.emplace_back(), RequestFor(input, shared));
  }
  return requests;
}

// The stable form of scripts; `details` adds what is not part of the answer.
std::string GenerationLine(const Generation& generation, bool details, int index = -1) {
  nlohmann::ordered_json line;
  if (index >= 0) line["index"] = index;
  line["ids"] = generation.ids;
  line["text"] = generation.text;
  line["finish_reason"] =
      generation.finish.finish_reason() == v1::FINISH_REASON_LENGTH ? "length" : "stop";
  if (!details) return JsonLine(line);
  line["adapter"] = generation.adapter;
  line["usage"] = ToJson(generation.finish.usage());
  for (const v1::TokenLogprob& token : generation.logprobs) {
    line["logprobs"].push_back(ToJson(token));
  }
  return JsonLine(line);
}

// With several answers to a prompt, each line says which one it is.
std::string GenerationLines(const std::vector<Generation>& generations, bool details) {
  if (generations.size() == 1) return GenerationLine(generations[0], details);
  std::vector<std::string> lines;
  for (size_t i = 0; i < generations.size(); ++i) {
    lines.push_back(GenerationLine(generations[i], details, static_cast<int>(i)));
  }
  return absl::StrJoin(lines, "\n");
}

std::string AnswerText(const Generation& generation) {
  if (!generation.text.empty() || generation.ids.empty()) return generation.text;
  return nlohmann::json(generation.ids).dump();  // no tokenizer
}

std::string AnswerTexts(const std::vector<Generation>& generations) {
  return absl::StrJoin(generations, "\n", [](std::string* out, const Generation& generation) {
    absl::StrAppend(out, AnswerText(generation));
  });
}

// One prompt on a terminal or pipe: the text appears as it comes.
absl::Status StreamText(Session& session, const v1::GenerateRequest& request) {
  bool text = false;
  ASSIGN_OR_RETURN(const Generation generation,
                   InferenceClient(session.connection())
                       .Generate(request, [&](const v1::GenerateResponse& delta) {
                         text = text || !delta.text().empty();
                         session.out() << delta.text() << std::flush;
                         return session.out().good();
                       }));
  if (!text) session.out() << AnswerText(generation);
  session.out() << "\n";
  return absl::OkStatus();
}

absl::StatusOr<int> RunGenerate(Session& session, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const auto inputs, ReadInputs(arguments, GenerateInputs()));
  ASSIGN_OR_RETURN(const v1::GenerateRequest shared, SharedRequest(arguments));
  const bool details = arguments.Bool("details");
  ASSIGN_OR_RETURN(const auto requests, RequestsFor(inputs, shared));
  if (!session.json() && inputs.size() == 1 && shared.n() <= 1) {
    RETURN_IF_ERROR(StreamText(session, requests[0]));
    return 0;
  }
  const auto lines_of = [&](const std::vector<Generation>& generations) {
    return session.json() ? GenerationLines(generations, details) : AnswerTexts(generations);
  };
  if (arguments.Has("jsonl") && !arguments.Has("parallel")) {
    RETURN_IF_ERROR(GenerateInBatches(session, inputs, requests, lines_of));
    return 0;
  }
  InferenceClient client(session.connection());
  RETURN_IF_ERROR(RunInOrder(
      inputs.size(), std::max<int64_t>(1, arguments.Int("parallel", 1)),
      [&](size_t i) -> absl::StatusOr<std::string> {
        const auto generations = client.GenerateSamples(requests[i]);
        if (!generations.ok()) return AtInput(inputs[i], generations.status());
        return lines_of(*generations);
      },
      [&](const std::string& answer) { session.out() << answer << std::endl; },
      [&] { session.connection()->CancelAll(); }));
  return 0;
}

std::vector<Option> GenerateOptions() {
  std::vector<Option> options = InputOptions(GenerateInputs());
  const auto& more = GenerateInputs().options;
  options.insert(options.end(), more.begin(), more.end());
  options.push_back({"parallel", OptionType::kInt, "N",
                     "with --jsonl: so many Generate calls at once, instead of GenerateBatch",
                     "as many as the server can run"});
  options.push_back({"details", OptionType::kBool, "",
                     "with --output=json: also adapter, usage and log-probabilities", "false"});
  return options;
}

}  // namespace

Command GenerateCommand() {
  return {
      .path = "generate",
      .summary = "Continues a prompt with the base model or an adapter",
      .options = GenerateOptions(),
      .examples = {{"loractl generate --adapter=tickets --prompt='My card was declined' "
                    "--temperature=0 --max_tokens=64",
                    ""},
                   {"loractl generate --jsonl=eval.jsonl --temperature=0 --output=json",
                    "{\"ids\":[...],\"text\":\"...\",\"finish_reason\":\"stop\"} for each line"},
                   {"loractl generate --prompt='Once upon a time' --n=4 --seed=1 --output=json",
                    "{\"index\":0,\"ids\":[...],...} and three more"},
                   {"loractl generate --prompt='Ticket: ...' --json_schema=ticket.schema.json",
                    "JSON that satisfies the schema"},
                   {"loractl generate --ids='[1,2,3]' --max_tokens=8 --ignore_eos", ""}},
      .run = RunGenerate};
}

}  // namespace lorad::client::cli
