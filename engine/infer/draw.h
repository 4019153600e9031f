// What a forward pass is to give for the last token of a sequence, and what it gave.
#ifndef LORAD_ENGINE_INFER_DRAW_H_
#define LORAD_ENGINE_INFER_DRAW_H_

#include "absl/types/span.h"
#include "engine/infer/request.h"
#include "engine/ops/sample_params.h"

namespace lorad {

// Tokens are drawn where the logits are. Only what needs the sequence's history, penalties, or
// changes single logits takes its row of logits to the host.
struct DrawRequest {
  bool logits = false;  // the row of logits, and no token
  DrawParams params;    // how to draw the token, unless `logits`
};

struct DrawResult {
  // The token, unless logits were asked for; id -1 where these are not numbers. logprob and top as
  // params.top asked.
  TokenLogprob token;
  // [vocab], where asked for; the runner's, valid until its next call.
  absl::Span<const float> logits;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_DRAW_H_
