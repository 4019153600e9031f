#include "engine/device/memory.h"

namespace lorad {

const char* Name(MemoryTag tag) {
  switch (tag) {
    case MemoryTag::kWeights:
      return "weights";
    case MemoryTag::kKvCache:
      return "kv_cache";
    case MemoryTag::kAdapters:
      return "adapters";
    case MemoryTag::kTraining:
      return "training";
    case MemoryTag::kWorkspace:
      return "workspace";
    case MemoryTag::kPinned:
      return "pinned";
  }
  return "?";
}

}  // namespace lorad
