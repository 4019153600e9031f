// lorad, the daemon.
#include "engine/engine.h"
#include "server/daemon.h"

int main(int argc, char** argv) {
  return lorad::server::RunDaemon(
      argc, argv, {.create_engine = lorad::CreateEngine, .plan_memory = lorad::PlanEngineMemory});
}
