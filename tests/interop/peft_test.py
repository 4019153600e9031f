"""Adapters between lorad and the real PEFT, and numbers against the real transformers.

Run by the Python of tests/interop/make_venv.sh (LORAD_INTEROP_PYTHON); skipped where the packages are
not installed.
"""
import pathlib
import random
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import harness  # noqa: E402

try:
    import reference
    import transformers
    from safetensors.torch import load_file
except ImportError as error:
    # ctest counts the line below as a skipped test.
    print(f"SKIPPED: {error}; tests/interop/make_venv.sh DIR installs the packages")
    print("OK (skipped=1)")
    sys.exit(0)

MODELS = ["llama-gqa", "llama-tied-sharded", "qwen2-bias"]
TOLERANCE = 1e-3  # nats


def model_dir(name):
    return harness.ROOT / "tests" / "golden" / name


class InteropTest(harness.LoradTest):
    largest_difference = 0.0

    @classmethod
    def tearDownClass(cls):
        print(f"largest difference of a log-probability: {cls.largest_difference:.1e} nats")

    def compare(self, server, model, adapter, sequences):
        """Every log-probability of lorad against the reference; returns those of lorad."""
        words = [f"--adapter={adapter}"] if adapter else []
        all_scores = []
        for ids in sequences:
            scores = server.json("score", f"--ids={ids}", *words)["logprobs"]
            self.assertIsNone(scores[0])
            expected = reference.logprobs(model, ids)
            self.assertEqual(len(scores), len(expected) + 1)
            for position, (got, want) in enumerate(zip(scores[1:], expected), 1):
                InteropTest.largest_difference = max(InteropTest.largest_difference, abs(got - want))
                self.assertAlmostEqual(got, want, delta=TOLERANCE, msg=f"position {position}")
            all_scores += scores[1:]
        return all_scores

    def assert_adapter_matters(self, base, adapted):
        largest = max(abs(a - b) for a, b in zip(base, adapted))
        self.assertGreater(largest, 10 * TOLERANCE, "the adapter changes nothing: the comparison proves nothing")

    def test_peft_reads_what_lorad_trained(self):
        generator = random.Random(1)
        for name, targets in zip(MODELS, ["all-linear", "q_proj,v_proj", "k_proj,o_proj,up_proj"]):
            with self.subTest(model=name):
                vocab = reference.vocab_size(model_dir(name))
                rows = [{"input_ids": ids, "labels": ids} for ids in
                        ([generator.randrange(3, vocab) for _ in range(32)] for _ in range(8))]
                train = self.write_jsonl(f"{name}.jsonl", rows)
                server = self.lorad(model_dir(name), f"trained-{name}")
                server.json_lines("job", "submit", "--name=tuned", f"--train={train}", "--r=4", "--lora_alpha=8",
                                  f"--target_modules={targets}", "--learning_rate=0.01", "--max_steps=8", "--wait")
                out = self.dir / f"tuned-{name}"
                server.run("adapter", "export", "tuned", out)
                sequences = reference.sequences(vocab, 3, 40, seed=7)
                base = self.compare(server, reference.load_base(model_dir(name)), None, sequences)
                adapted = self.compare(server, reference.load_adapter(model_dir(name), out), "tuned", sequences)
                self.assert_adapter_matters(base, adapted)
                self.assertEqual(server.terminate(), 0)

    def test_lorad_reads_what_peft_wrote(self):
        for name, rslora in zip(MODELS, [False, True, True]):
            with self.subTest(model=name):
                made = self.dir / f"peft-{name}"
                reference.make_adapter(model_dir(name), made, r=6, lora_alpha=12, use_rslora=rslora, seed=3,
                                       target_modules=["q_proj", "v_proj", "gate_proj", "down_proj"])
                server = self.lorad(model_dir(name), f"imported-{name}")
                server.json("adapter", "import", "from-peft", made)
                sequences = reference.sequences(reference.vocab_size(model_dir(name)), 3, 40, seed=11)
                base = self.compare(server, reference.load_base(model_dir(name)), None, sequences)
                adapted = self.compare(server, reference.load_adapter(model_dir(name), made), "from-peft", sequences)
                self.assert_adapter_matters(base, adapted)

                out = self.dir / f"back-{name}"
                server.run("adapter", "export", "from-peft", out)
                before = load_file(made / "adapter_model.safetensors")
                after = load_file(out / "adapter_model.safetensors")
                self.assertEqual(sorted(before), sorted(after))
                for tensor in before:
                    self.assertTrue((before[tensor].float() == after[tensor]).all(), tensor)
                self.assertEqual(server.terminate(), 0)

    def test_demo_model_and_tokenizer_match_transformers(self):
        server = self.lorad(harness.DEMO)
        tokenizer = transformers.AutoTokenizer.from_pretrained(harness.DEMO)
        text = "Question: Show the orders made by Lucia Suzuki.\nSQL: SELECT order_no FROM orders WHERE n = 'é';"
        ids = server.json("tokenize", f"--text={text}")["ids"]
        self.assertEqual(ids, tokenizer(text)["input_ids"])
        self.compare(server, reference.load_base(harness.DEMO), None, [ids])


if __name__ == "__main__":
    unittest.main()
