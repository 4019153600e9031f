#include "engine/ops/cuda/linear_group.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "engine/core/check.h"
#include "engine/core/status_macros.h"
#include "engine/device/cuda/cuda_error.h"

namespace lorad::cuda {
namespace {

constexpr int64_t kElementBytes = sizeof(BFloat16);
constexpr int64_t kPartAlign = 128;  // elements: parts of the scratch begin on 256 bytes
static_assert(kMaxDequantizeWeights == kMaxLoraTerms);

bool IsDense(const WeightView& weight) { return weight.spec.format == QuantFormat::kNone; }

// Room for any pass of the batch's segments.
int64_t MaxColumns(absl::Span<const GroupTerm> terms, const TermBatch& batch) {
  int64_t columns = 0;
  for (const GroupTerm& term : terms.subspan(batch.first, batch.count)) {
    int64_t widest = 0;
    for (const LoraSegment& segment : term.lora) widest = std::max(widest, segment.a.shape[0]);
    columns += widest;
  }
  return RoundUp(columns, kRankAlign);
}

// The pass that a segment over these rows joins.
LoraPass& PassOver(const LoraSegment& segment, bool drops, std::vector<LoraPass>& passes) {
  for (LoraPass& pass : passes) {
    if (!drops && pass.dropout == nullptr && pass.row_begin == segment.row_begin &&
        pass.row_end == segment.row_end) {
      return pass;
    }
  }
  passes.emplace_back();
  passes.back().row_begin = segment.row_begin;
  passes.back().row_end = segment.row_end;
  return passes.back();
}

}  // namespace

int64_t ChunkRows(const WeightView& weight, const LinearLimits& limits) {
  const int64_t in = weight.in_features, out = weight.out_features;
  const int64_t fit = limits.weight_bytes / (WeightStride(in) * kElementBytes);
  if (fit >= out) return out;
  const int64_t block = int64_t{weight.spec.block} * kNestedBlock;
  // Rows of whole nested blocks, and of whole strips.
  const int64_t align = std::lcm(block / std::gcd(in, block), weight.tiled ? int64_t{16} : 1);
  return std::min(std::max(fit / align * align, align), out);
}

PackedWeight PackedRows(const WeightView& weight, int64_t begin, int64_t end, int64_t row_offset) {
  PackedWeight packed = ToPackedWeight(weight, row_offset);
  packed.rows = end - begin;
  if (begin == 0) return packed;
  const int64_t element = begin * weight.in_features, block = element / weight.spec.block;
  packed.codes = static_cast<const uint8_t*>(packed.codes) + element * packed.bits / 8;
  if (packed.scales_u8 == nullptr) {
    packed.scales += block;
    return packed;
  }
  packed.scales_u8 += block;
  packed.nested_scales += block / kNestedBlock;
  return packed;
}

std::vector<TermBatch> MakeBatches(absl::Span<const GroupTerm> terms, const LinearLimits& limits) {
  std::vector<TermBatch> batches;
  for (size_t i = 0; i < terms.size(); ++i) {
    const WeightView& weight = *terms[i].weight;
    const int64_t out = weight.out_features, chunk = ChunkRows(weight, limits);
    const int64_t row_bytes = WeightStride(weight.in_features) * kElementBytes;
    const bool dense = IsDense(weight);
    if (!batches.empty()) {
      TermBatch& batch = batches.back();
      const bool fits = dense || (batch.rows + out) * row_bytes <= limits.weight_bytes;
      if (batch.dense == dense && batch.count < size_t{kMaxDequantizeWeights} && fits) {
        ++batch.count;
        batch.rows += out;
        batch.chunk_rows = batch.rows;
        continue;
      }
    }
    batches.push_back(
        {.first = i, .count = 1, .rows = out, .chunk_rows = dense ? out : chunk, .dense = dense});
  }
  return batches;
}

BatchScratch LayOut(absl::Span<const GroupTerm> terms, const TermBatch& batch, int64_t num_tokens) {
  const int64_t stride = WeightStride(terms[batch.first].weight->in_features);
  const int64_t columns = MaxColumns(terms, batch);
  const auto group = terms.subspan(batch.first, batch.count);
  const bool drops =
      std::any_of(group.begin(), group.end(), [](const auto& t) { return t.drops(); });
  BatchScratch scratch;
  scratch.a = batch.dense ? 0 : batch.chunk_rows * stride;
  scratch.b = RoundUp(scratch.a + columns * stride, kPartAlign);
  scratch.s = RoundUp(scratch.b + batch.rows * columns, kPartAlign);
  scratch.dropped = RoundUp(scratch.s + num_tokens * columns, kPartAlign);
  scratch.end = scratch.dropped + (drops ? num_tokens * stride : 0);
  if (batch.whole()) {
    scratch.end = std::max(scratch.end, (batch.rows + columns) * (stride + columns));
  }
  return scratch;
}

int64_t GroupWorkspaceBytes(absl::Span<const GroupTerm> terms, int64_t num_tokens,
                            const LinearLimits& limits) {
  int64_t elements = 0;
  for (const TermBatch& batch : MakeBatches(terms, limits)) {
    elements = std::max(elements, LayOut(terms, batch, num_tokens).end);
  }
  return elements * kElementBytes;
}

DropoutMask LoraPass::mask() const {
  return {.probability = dropout->probability,
          .seed = dropout->seed,
          .step = dropout->step,
          .module = dropout->module,
          .token_keys = dropout->token_keys.as<uint64_t>() + row_begin};
}

std::vector<LoraPass> MakePasses(absl::Span<const GroupTerm> terms, const TermBatch& batch) {
  std::vector<LoraPass> passes;
  int64_t row = 0;
  for (size_t i = batch.first; i < batch.first + batch.count; ++i) {
    for (const LoraSegment& segment : terms[i].lora) {
      const int64_t rank = segment.a.shape[0];
      if (segment.row_begin == segment.row_end || rank == 0) continue;
      LoraPass& pass = PassOver(segment, terms[i].drops(), passes);
      pass.parts.push_back({&segment, i, row, pass.columns});
      pass.columns += rank;
      if (terms[i].drops()) pass.dropout = terms[i].dropout;
    }
    row += terms[i].weight->out_features;
  }
  for (LoraPass& pass : passes) pass.columns = RoundUp(pass.columns, kRankAlign);
  return passes;
}

const LoraPass* OnlyPass(const std::vector<LoraPass>& passes, const TermBatch& batch,
                         int64_t num_tokens) {
  const bool fits = batch.whole() && passes.size() == 1 && passes[0].dropout == nullptr &&
                    passes[0].rows() == num_tokens;
  return fits ? &passes[0] : nullptr;
}

absl::Status WriteOperands(const LoraPass& pass, absl::Span<const GroupTerm> terms,
                           const TermBatch& batch, BFloat16* a, int64_t a_stride, BFloat16* b,
                           int64_t b_stride, cudaStream_t stream) {
  std::array<LoraOperand, kMaxLoraTerms> operands;
  LORAD_CHECK(pass.parts.size() <= operands.size());
  for (size_t i = 0; i < pass.parts.size(); ++i) {
    const LoraPass::Part& part = pass.parts[i];
    const LoraSegment& segment = *part.segment;
    operands[i] = {.a = segment.a.data,
                   .a_stride = segment.a.stride(),
                   .b = segment.b.data,
                   .b_stride = segment.b.stride(),
                   .scaling = segment.scaling,
                   .rank = segment.a.shape[0],
                   .rows = segment.b.shape[0],
                   .column = part.column,
                   .row = part.row,
                   .is_fp32 = segment.a.dtype == DType::kF32};
  }
  return ToStatus(LaunchLoraOperands(operands.data(), static_cast<int>(pass.parts.size()),
                                     terms[batch.first].weight->in_features, batch.rows,
                                     pass.columns, a, a_stride, b, b_stride, stream),
                  "LoRA operands");
}

absl::Status Write(const FusedMatrix& fused, const LoraPass& pass,
                   absl::Span<const GroupTerm> terms, const TermBatch& batch, cudaStream_t stream) {
  RETURN_IF_ERROR(DecodeBatch(terms, batch, fused.w, fused.stride, stream));
  return WriteOperands(pass, terms, batch, fused.a, fused.stride, fused.b, fused.stride, stream);
}

absl::Status SaveXa(const LoraPass& pass, const BFloat16* s, int64_t s_stride,
                    cudaStream_t stream) {
  std::array<XaColumns, kMaxLoraTerms> columns;
  LORAD_CHECK(pass.parts.size() <= columns.size());
  for (size_t i = 0; i < pass.parts.size(); ++i) {
    const TensorView& xa = pass.parts[i].segment->xa;
    columns[i] = {xa.as<BFloat16>(), xa.stride(), xa.shape[1], pass.parts[i].column};
  }
  return ToStatus(LaunchSaveXa(columns.data(), static_cast<int>(pass.parts.size()), s, s_stride,
                               pass.rows(), stream),
                  "LoRA activations");
}

absl::Status DecodeBatch(absl::Span<const GroupTerm> terms, const TermBatch& batch, BFloat16* out,
                         int64_t stride, cudaStream_t stream) {
  std::array<PackedWeight, kMaxDequantizeWeights> weights;
  LORAD_CHECK(batch.whole() && batch.count <= weights.size());
  int64_t row = 0;
  for (size_t i = 0; i < batch.count; ++i) {
    weights[i] = ToPackedWeight(*terms[batch.first + i].weight, row);
    row += weights[i].rows;
  }
  return ToStatus(
      LaunchDequantize(weights.data(), static_cast<int>(batch.count), out, stride, stream),
      "dequantize");
}

std::vector<OutputRun> AdjacentRuns(absl::Span<const ConstTensorView> views) {
  std::vector<OutputRun> runs;
  int64_t first = 0;
  for (const ConstTensorView& view : views) {
    auto* data = const_cast<BFloat16*>(view.as<BFloat16>());
    const int64_t size = view.shape[1];
    const bool adjacent = !runs.empty() && data == runs.back().data + runs.back().size &&
                          view.stride() == runs.back().stride;
    if (adjacent) {
      runs.back().size += size;
    } else {
      runs.push_back({data, view.stride(), first, size});
    }
    first += size;
  }
  return runs;
}

absl::Status ForEachPiece(absl::Span<const GroupTerm> terms, const TermBatch& batch,
                          absl::Span<const ConstTensorView> views, BFloat16* workspace,
                          cudaStream_t stream, PieceProduct product) {
  if (batch.dense) {
    for (size_t i = 0; i < batch.count; ++i) {
      const ConstTensorView& dense = terms[batch.first + i].weight->dense;
      RETURN_IF_ERROR(
          product(dense.as<BFloat16>(), dense.stride(), AdjacentRuns(views.subspan(i, 1)).front()));
    }
    return absl::OkStatus();
  }
  const int64_t stride = WeightStride(terms[batch.first].weight->in_features);
  const std::vector<OutputRun> runs = AdjacentRuns(views);
  if (batch.whole()) {
    RETURN_IF_ERROR(DecodeBatch(terms, batch, workspace, stride, stream));
    for (const OutputRun& run : runs) {
      RETURN_IF_ERROR(product(workspace + run.first * stride, stride, run));
    }
    return absl::OkStatus();
  }
  for (int64_t begin = 0; begin < batch.rows; begin += batch.chunk_rows) {
    const int64_t end = std::min(begin + batch.chunk_rows, batch.rows);
    const PackedWeight part = PackedRows(*terms[batch.first].weight, begin, end, 0);
    RETURN_IF_ERROR(ToStatus(LaunchDequantize(&part, 1, workspace, stride, stream), "dequantize"));
    RETURN_IF_ERROR(
        product(workspace, stride, {runs[0].data + begin, runs[0].stride, begin, end - begin}));
  }
  return absl::OkStatus();
}

}  // namespace lorad::cuda
