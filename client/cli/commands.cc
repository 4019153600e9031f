#include "client/cli/commands.h"

namespace lorad::client::cli {

const std::vector<Command>& AllCommands() {
  static const auto* const commands = new std::vector<Command>{
      InfoCommand(),
      HealthCommand(),
      DatasetPutCommand(),
      DatasetValidateCommand(),
      DatasetLsCommand(),
      DatasetGetCommand(),
      DatasetRmCommand(),
      JobSubmitCommand(),
      JobLsCommand(),
      JobGetCommand(),
      JobWatchCommand(),
      JobCancelCommand(),
      JobCheckpointsCommand(),
      AdapterImportCommand(),
      AdapterExportCommand(),
      AdapterLsCommand(),
      AdapterGetCommand(),
      AdapterRmCommand(),
      AdapterAliasCommand(),
      AdapterAliasesCommand(),
      AdapterLoadCommand(),
      AdapterUnloadCommand(),
      GenerateCommand(),
      ScoreCommand(),
      TokenizeCommand(),
      DetokenizeCommand(),
      TopCommand(),
      PlanMemoryCommand(),
      PlanCheckpointingCommand(),
      PlanFlopsCommand(),
      PlanScalingCommand(),
  };
  return *commands;
}

}  // namespace lorad::client::cli
