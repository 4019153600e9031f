#!/usr/bin/env python3
"""Writes quant/reference.safetensors: how bitsandbytes encodes awkward blocks.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch safetensors bitsandbytes==0.50.2
    /tmp/venv/bin/python tests/golden/make_quantization.py

`<format>.<block>.<data>.input` is fp32; `<format>.<block>.<single|double>.<data>` is what bitsandbytes
made of it on the CPU: `packed`, `absmax` or `absmax_u8` with `nested_absmax` and `offset`, and
`dequant_bf16`.
Ragged tails are left out: bitsandbytes divides there instead of multiplying by the reciprocal, and
its CPU and CUDA versions differ. The same versions give the same files.
"""

import pathlib

import torch
from bitsandbytes import functional
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent


def inputs(block: int, book: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(20240601 + block)
    blocks = {32: 300, 64: 40, 1024: 3}[block]  # 300: more than one nested block
    normal = torch.randn(blocks, block, generator=generator) * 0.02
    spread = torch.rand(blocks, 1, generator=generator) * 3
    book = book.sort().values
    ties = ((book[1:].double() + book[:-1].double()) / 2).float()
    tied = torch.cat([ties, torch.nextafter(ties, torch.tensor(2.0)), book])
    tied = tied.repeat(block // tied.numel() + 1)[:block].clone()
    tied[0] = 1.0
    return {
        "normal": (normal * spread).to(torch.bfloat16).float(),
        # One block of zeros among others, then blocks of equal values of both signs.
        "zeros": torch.cat([torch.zeros(1, block), normal[:2], torch.full((1, block), -0.25)]),
        "all_zero": torch.zeros(4, block),
        # Absmax a power of two: y is the value itself, so that ties are hit exactly.
        "ties": torch.stack([tied, -tied, tied * 0.5, tied * 2.0]),
        "equal_scales": torch.sign(normal[:4]) * 0.125,
    }


def main() -> None:
    tensors = {}
    for quant_type in ("nf4", "fp4"):
        book = functional.get_4bit_type(quant_type, device="cpu")
        for block in (32, 64, 1024):
            for double in (False, True):
                for name, values in inputs(block, book).items():
                    packed, state = functional.quantize_4bit(
                        values.contiguous(), blocksize=block, compress_statistics=double,
                        quant_type=quant_type)
                    key = f"{quant_type}.{block}.{'double' if double else 'single'}.{name}"
                    tensors[f"{quant_type}.{block}.{name}.input"] = values.contiguous()
                    tensors[key + ".packed"] = packed.flatten().clone()
                    if double:
                        tensors[key + ".absmax_u8"] = state.absmax.clone()
                        tensors[key + ".nested_absmax"] = state.state2.absmax.clone()
                        tensors[key + ".offset"] = state.offset.reshape(1).clone()
                    else:
                        tensors[key + ".absmax"] = state.absmax.clone()
                    state.dtype = torch.bfloat16
                    decoded = functional.dequantize_4bit(packed, state)
                    tensors[key + ".dequant_bf16"] = decoded.flatten().clone()
    (HERE / "quant").mkdir(exist_ok=True)
    save_file(tensors, HERE / "quant" / "reference.safetensors")


if __name__ == "__main__":
    main()
