// A file of prompts through GenerateBatch.
#ifndef LORAD_CLIENT_CLI_GENERATE_BATCHES_H_
#define LORAD_CLIENT_CLI_GENERATE_BATCHES_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/cli/inputs.h"
#include "client/cli/session.h"
#include "client/inference.h"

namespace lorad::client::cli {

// Sends `requests`, one for each input, in as few batches as the contract allows, one after the
// other, and prints what `lines_of` makes of their answers in the order of the inputs, each as soon
// as it can be. The first error in that order ends it: what still runs is cancelled and the error,
// which names the input, is returned.
absl::Status GenerateInBatches(
    Session& session, const std::vector<Input>& inputs,
    const std::vector<v1::GenerateRequest>& requests,
    const std::function<std::string(const std::vector<Generation>&)>& lines_of);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_GENERATE_BATCHES_H_
