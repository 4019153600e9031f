#!/usr/bin/env python3
"""Writes the tokenizers that have no counterpart in the other reference data, and their cases.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install tokenizers==0.23.3
    /tmp/venv/bin/python tests/golden/make_tokenizers.py

Each folder gets a tokenizer.json and a cases.jsonl of {text, ids, ids_no_special, decoded}, as the
`tokenizers` package computes them. The same version gives the same files.
"""

import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

WORDS = (
    "the model reads a table of orders and writes the answer as JSON while we're waiting for it's "
    "result they've shown that I'll need more data don't you'd say so I'm sure the price was 1234 "
    "and 56.78 in 2024 select name from users where id = 42 def main return print hello world café "
    "naïve straße Ünïcödé привет мир 你好 世界 こんにちは 안녕하세요 مرحبا שלום 😀 👍🏽 — “quoted” …"
).split()

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "It's they've I'LL WE'RE don'T 'S ' s ''s",
    "long ſ: 'ſ 'K' \u212a",
    "  leading and trailing  ",
    "tabs\tand\nnewlines\r\n\r\n  indented\n\n\n",
    "a  b   c    d\u00a0e\u2003f\u3000g\u0085h\u180ei\u200bj\ufeffk",
    "numbers 1 12 123 1234 12345 ½ ² ٣٤ Ⅷ 一二三",
    "naïve café Ünïcödé ß straße ǅ İstanbul",
    "nai\u0308ve cafe\u0301 A\u030a \u212b \u1e9b\u0323 \ufb01 q\u0307\u0323",
    "\u0344 \u0958 \uac00\u11a8 \u1100\u1161\u11a8 \u0b47\u0b56",
    "你好，世界！这是一个测试。",
    "こんにちは、世界。カタカナ ｶﾀｶﾅ",
    "안녕하세요 세계",
    "مرحبا بالعالم שלום עולם",
    "😀👍🏽👨\u200d👩\u200d👧 🇩🇪 \U0001f9d1\u200d🚀",
    "nul \x00 and controls \x01\x1f\x7f\x80",
    "def f(x):\n    return {\"a\": [1, 2, 3]}  # comment\n",
    "SELECT * FROM t WHERE a >= 10 AND b != 'x';",
    "<|endoftext|>",
    "before<|endoftext|>after <|endoftext|> spaced",
    "<|im_start|>user\nhi<|im_end|>\n",
    "<|im_start|<|im_end|>|>",
    "x [MASK]  y [MASK]z  [MASK] ",
    "wordAB AB wordABword AB, _AB AB_ éAB AB\u0301",
    "Norm NORM norm Ñorm N\u0303orm",
    "<s> </s> <unk> <0x41> <0x0A>",
    "▁ already ▁▁ there",
    "\u2581",
    "mixed \u2028 line \u2029 separators",
    "a" * 300,
    "ab" * 100 + " " * 70 + "\n" * 40,
    "—–‐…“”‘’«»¿¡",
    "ゟヿ \U00010400 \U0001d400 \U00020000",
]


def corpus(rng):
    return [" ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 12))) for _ in range(3000)]


def random_texts(rng, count):
    pool = list("abcdeXYZ019 '.,<>|_-\n\r\t") + [
        "  ", "'s", "'LL", "é", "e\u0301", "\u0323\u0307", "ñ", "ß", "你", "好", "の", "한", "م", "ש",
        "😀", "👍🏽", "\u200d", "\u00a0", "\u3000", "▁", "²", "٣", "\x00", "\u0085", "the ", " model",
        "<|endoftext|>", "<|im_start|>", "[MASK]", "AB", "<0x41>", "Norm", "1234",
    ]
    return ["".join(rng.choice(pool) for _ in range(rng.randint(1, 40))) for _ in range(count)]


def bpe_trainer(vocab_size, specials, alphabet):
    return trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=specials, initial_alphabet=alphabet,
        show_progress=False)


def gpt2(lines):
    """GPT-2: its own split inside ByteLevel, no post-processing, an added token that is special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(
        lines, bpe_trainer(600, ["<|endoftext|>"], pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def qwen2(lines):
    """Qwen2: NFC, single digits, special tokens after the vocabulary, nothing added around."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(
        lines, bpe_trainer(600, [], pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return tokenizer


def metaspace(lines):
    """SentencePiece-style through Metaspace, with byte fallback; begin and end are added."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    tokenizer.decoder = decoders.Sequence([
        decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first", split=True)])
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    ascii_lines = [line for line in lines if line.isascii()] * 4
    tokenizer.train_from_iterator(ascii_lines, bpe_trainer(600, specials, []))
    document = json.loads(tokenizer.to_str())
    for token in document["added_tokens"]:  # as a converted file has it: bytes are ordinary tokens
        token["special"] = not token["content"].startswith("<0x")
    document["added_tokens"] = [t for t in document["added_tokens"] if t["special"]]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return tokenizer


def mixed(lines):
    """Every kind of added token, digit groups, punctuation split off, a prefix space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.Replace(Regex(r"\p{Mn}+"), "")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(",", "merged_with_previous"),
        pre_tokenizers.Split(Regex(r"[-_]"), "merged_with_next"),
        pre_tokenizers.Split(Regex(r"\n"), "removed"),
        pre_tokenizers.Split("'", "contiguous"),
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.ByteLevel(add_prefix_space=True),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        lines, bpe_trainer(500, ["<|endoftext|>"], pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_tokens([
        AddedToken("[MASK]", lstrip=True, rstrip=True, normalized=False),
        AddedToken("AB", single_word=True, normalized=False),
        AddedToken("Ñorm", normalized=True),
        AddedToken("a", single_word=True, normalized=True),
    ])
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", rstrip=True),
                                  AddedToken("<|im_end|>", lstrip=True)])
    return tokenizer


def write(name, tokenizer, texts):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(
        json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False) + "\n")
    with open(folder / "cases.jsonl", "w") as file:
        for text in texts:
            ids = tokenizer.encode(text).ids
            file.write(json.dumps({
                "text": text,
                "ids": ids,
                "ids_no_special": tokenizer.encode(text, add_special_tokens=False).ids,
                "decoded": tokenizer.decode(ids),
            }) + "\n")


def main():
    for name, make in [("tok-gpt2", gpt2), ("tok-qwen2", qwen2),
                       ("tok-metaspace", metaspace), ("tok-mixed", mixed)]:
        rng = random.Random(name)
        lines = corpus(rng)
        write(name, make(lines), TEXTS + lines[:40] + random_texts(rng, 200))


if __name__ == "__main__":
    main()
