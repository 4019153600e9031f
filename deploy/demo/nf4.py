"""NF4 round trip of the decoder's linear layers: what the weights become when they are served in 4 bits.

Codes, thresholds and rounding to bf16 as in QLoRA (Dettmers 2023) and bitsandbytes, blocks of 64 over
the flattened weight. The scales stay in fp32; double quantisation changes them by less than 1 %.
"""

import torch

CODES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
BLOCK = 64


def round_trip(weight):
    """Dequantised copy of a 2-D weight whose element count is a multiple of 64; same dtype and device."""
    codes = torch.tensor(CODES, dtype=torch.float32, device=weight.device)
    blocks = weight.detach().float().reshape(-1, BLOCK)
    absmax = blocks.abs().amax(dim=1, keepdim=True)
    nearest = torch.bucketize(blocks / absmax.clamp_min(1e-30), (codes[1:] + codes[:-1]) / 2)
    return (codes[nearest] * absmax).bfloat16().to(weight.dtype).reshape(weight.shape)


def quantise_linears(model):
    """Replaces every linear weight of the decoder layers by its round trip; head and norms stay."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ".layers." in name:
            module.weight.data.copy_(round_trip(module.weight))
    return model
