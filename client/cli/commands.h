// All commands of loractl, one file each in commands/.
#ifndef LORAD_CLIENT_CLI_COMMANDS_H_
#define LORAD_CLIENT_CLI_COMMANDS_H_

#include <vector>

#include "client/cli/command.h"

namespace lorad::client::cli {

// In the order of the overview.
const std::vector<Command>& AllCommands();

Command InfoCommand();
Command HealthCommand();
Command DatasetPutCommand();
Command DatasetValidateCommand();
Command DatasetLsCommand();
Command DatasetGetCommand();
Command DatasetRmCommand();
Command JobSubmitCommand();
Command JobLsCommand();
Command JobGetCommand();
Command JobWatchCommand();
Command JobCancelCommand();
Command JobCheckpointsCommand();
Command AdapterImportCommand();
Command AdapterExportCommand();
Command AdapterLsCommand();
Command AdapterGetCommand();
Command AdapterRmCommand();
Command AdapterAliasCommand();
Command AdapterAliasesCommand();
Command AdapterLoadCommand();
Command AdapterUnloadCommand();
Command GenerateCommand();
Command ScoreCommand();
Command TokenizeCommand();
Command DetokenizeCommand();
Command TopCommand();
Command PlanMemoryCommand();
Command PlanCheckpointingCommand();
Command PlanFlopsCommand();
Command PlanScalingCommand();

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_COMMANDS_H_
