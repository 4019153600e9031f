"""The reference: transformers and PEFT on the CPU in fp32 over NF4-rounded weights.

What lorad computes is held against this: every linear of the decoder layers is replaced by its bf16
dequantised NF4 value (blocks of 64, double quantised), as QLoRA's forward pass sees it.
"""
import json
import pathlib

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model


NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0])


def dynamic_map():
    """bitsandbytes' signed dynamic map: 256 sorted values for the second quantisation."""
    values = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        for mean in ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent - 6)).tolist():
            values += [mean, -mean]
    return torch.tensor(sorted(values))


def nf4_round_trip(weight):
    """The bf16 values that NF4 with double quantisation decodes to (blocks of 64, then of 256).

    Written out, not called in bitsandbytes: its CPU encoder chooses other codes near the thresholds
    than its CUDA one, which recorded the reference data in tests/golden.
    """
    blocks = weight.flatten().float().view(-1, 64)
    absmax = blocks.abs().amax(dim=1)
    midpoints = ((NF4[1:].double() + NF4[:-1].double()) / 2).float()
    codes = torch.bucketize(blocks * (1.0 / absmax)[:, None], midpoints)
    offset = absmax.mean()
    padding = -absmax.numel() % 256
    nested = torch.nn.functional.pad(absmax - offset, (0, padding)).view(-1, 256)
    scale = nested.abs().amax(dim=1)
    table = dynamic_map()
    nearest = torch.bucketize(nested / scale[:, None], (table[1:] + table[:-1]) / 2)
    decoded = (table[nearest] * scale[:, None]).flatten()[: absmax.numel()] + offset
    return (NF4[codes] * decoded[:, None]).to(torch.bfloat16).view_as(weight)


def load_base(model_dir):
    """The model with NF4-rounded linears, in fp32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.bfloat16, attn_implementation="eager")
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.startswith("model.layers."):
            module.weight.data = nf4_round_trip(module.weight.data)
    return model.float().eval()


def load_adapter(model_dir, adapter_dir):
    """The base with a PEFT directory applied by PEFT itself."""
    return PeftModel.from_pretrained(load_base(model_dir), adapter_dir).eval()


def make_adapter(model_dir, adapter_dir, r, lora_alpha, target_modules, use_rslora, seed):
    """A PEFT adapter with random A and B, written by PEFT's save_pretrained."""
    torch.manual_seed(seed)
    model = get_peft_model(load_base(model_dir), LoraConfig(
        r=r, lora_alpha=lora_alpha, target_modules=target_modules, use_rslora=use_rslora,
        task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(adapter_dir)
    assert (pathlib.Path(adapter_dir) / "adapter_model.safetensors").exists()


def logprobs(model, ids):
    """ln p(ids[t] | ids[:t]) for t >= 1."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    scores = torch.log_softmax(logits, dim=-1)
    return [scores[t - 1, ids[t]].item() for t in range(1, len(ids))]


def sequences(vocab_size, count, length, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, vocab_size, (length,), generator=generator).tolist() for _ in range(count)]


def vocab_size(model_dir):
    return json.loads((pathlib.Path(model_dir) / "config.json").read_text())["vocab_size"]
