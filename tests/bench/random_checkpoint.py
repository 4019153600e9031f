#!/usr/bin/env python3
"""Writes a Hugging Face directory of random weights, to measure the daemon at a real model's shape.

  random_checkpoint.py --shape=llama-3.2-1b DIR          config.json and model.safetensors
  random_checkpoint.py --rows=256 --tokens=2048 FILE    rows of random ids to train on, JSONL

Weights are of one size, +-[2^-7, 2^-6), and repeat every 64 MiB: enough to move and to multiply.
There is no tokenizer.
"""
import argparse
import json
import os
import pathlib
import random
import struct

SHAPES = {
    "tiny": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, vocab_size=256, tie_word_embeddings=True),
    "llama-3.2-1b": dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                        num_attention_heads=32, num_key_value_heads=8, vocab_size=128256,
                        tie_word_embeddings=True),
    "llama-3-8b": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                      num_attention_heads=32, num_key_value_heads=8, vocab_size=128256,
                      tie_word_embeddings=False),
}
BLOCK = 64 << 20
ONE = b"\x80\x3f"  # 1.0 in bf16


def tensors(shape):
    """Names and shapes of a Llama checkpoint."""
    hidden, ffn, vocab = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    kv = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    yield "model.embed_tokens.weight", [vocab, hidden]
    for i in range(shape["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", [hidden]
        for name, out in ("q", hidden), ("k", kv), ("v", kv), ("o", hidden):
            yield f"{layer}self_attn.{name}_proj.weight", [out, hidden]
        yield layer + "post_attention_layernorm.weight", [hidden]
        for name, out, columns in ("gate", ffn, hidden), ("up", ffn, hidden), ("down", hidden, ffn):
            yield f"{layer}mlp.{name}_proj.weight", [out, columns]
    yield "model.norm.weight", [hidden]
    if not shape["tie_word_embeddings"]:
        yield "lm_head.weight", [vocab, hidden]


def random_block(seed):
    source = random.Random(seed)
    block = bytearray(BLOCK)
    block[0::2] = source.randbytes(BLOCK // 2)
    signs = bytes(0x3C if i < 128 else 0xBC for i in range(256))
    block[1::2] = source.randbytes(BLOCK // 2).translate(signs)
    return bytes(block)


def write_checkpoint(shape, directory, seed):
    directory.mkdir(parents=True, exist_ok=True)
    config = dict(shape, model_type="llama", architectures=["LlamaForCausalLM"], hidden_act="silu",
                  max_position_embeddings=8192, rms_norm_eps=1e-5, rope_theta=500000.0,
                  torch_dtype="bfloat16", eos_token_id=0, bos_token_id=0)
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    header, offset = {}, 0
    for name, dims in tensors(shape):
        size = 2
        for dim in dims:
            size *= dim
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = random_block(seed)
    with open(directory / "model.safetensors", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for entry in header.values():
            left = entry["data_offsets"][1] - entry["data_offsets"][0]
            if len(entry["shape"]) == 1:
                out.write(ONE * (left // 2))
                continue
            while left > 0:
                left -= out.write(block[:left])


def write_rows(path, rows, tokens, vocab, seed):
    source = random.Random(seed)
    with open(path, "w") as out:
        for _ in range(rows):
            ids = [source.randrange(1, vocab) for _ in range(tokens)]
            out.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES))
    parser.add_argument("--rows", type=int)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocab", type=int, default=128256)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("path", type=pathlib.Path)
    args = parser.parse_args()
    if (args.shape is None) == (args.rows is None):
        parser.error("give --shape and a directory, or --rows and a file")
    if args.shape is not None:
        write_checkpoint(SHAPES[args.shape], args.path, args.seed)
    else:
        write_rows(args.path, args.rows, args.tokens, args.vocab, args.seed)


if __name__ == "__main__":
    main()
