// lorad over the fake engine: what tests of the process itself start, kill and start again. Takes
// lorad's flags; LORAD_FAKE_STEP_US and LORAD_FAKE_TOKEN_US say how slow the engine is.
#include <cstdlib>
#include <memory>

#include "server/daemon.h"
#include "tests/support/fake_engine.h"

namespace {

int64_t FromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? 0 : std::atoll(value);
}

absl::StatusOr<std::unique_ptr<lorad::Engine>> MakeFake(const lorad::EngineConfig& config) {
  auto script = std::make_shared<lorad::FakeScript>();
  script->step_delay_us = FromEnvironment("LORAD_FAKE_STEP_US");
  script->token_delay_us = FromEnvironment("LORAD_FAKE_TOKEN_US");
  return std::make_unique<lorad::FakeEngine>(config, script);
}

}  // namespace

int main(int argc, char** argv) {
  return lorad::server::RunDaemon(
      argc, argv, {.create_engine = MakeFake, .plan_memory = [](const lorad::EngineConfig&) {
                     return std::array<int64_t, lorad::kNumMemoryTags>{1, 2, 3, 4, 5, 0};
                   }});
}
