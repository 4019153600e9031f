// Hyperparameters on the command line: the fields of TrainingSpec, under their own names.
#ifndef LORAD_CLIENT_CLI_TRAINING_FLAGS_H_
#define LORAD_CLIENT_CLI_TRAINING_FLAGS_H_

#include <vector>

#include "absl/status/status.h"
#include "client/cli/arguments.h"
#include "client/cli/option.h"
#include "lorad/v1/training_spec.pb.h"

namespace lorad::client::cli {

// One option per field, in the order of the .proto; their types come from the fields.
const std::vector<Option>& TrainingOptions();

// Sets the fields whose options were given. Usage error: a number that does not fit the field.
// Ranges are the server's to check.
absl::Status SetTraining(const Arguments& arguments, v1::TrainingSpec& spec);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_TRAINING_FLAGS_H_
