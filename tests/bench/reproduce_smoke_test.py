#!/usr/bin/env python3
"""reproduce_lora for a few steps: the cells that a table promises are trained, at the ranks that they name, and
training lowers the loss. What the tables say is in results/reproduce_lora.md."""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BENCH = pathlib.Path(os.environ.get("LORAD_BENCH_DIR", ROOT / "build" / "cpu" / "bench"))
TABLE = ROOT / "tests" / "bench" / "reproduce_table.py"
# Sides of the demo base's linears: hidden 256, 2 key-value heads of 64, MLP 704; 8 layers.
SIDES = {"q": (256, 256), "k": (128, 256), "v": (128, 256), "o": (256, 256),
         "gate": (704, 256), "up": (704, 256), "down": (256, 704)}


def lora_parameters(rank, names):
    return 8 * sum((rank or min(SIDES[name])) * sum(SIDES[name]) for name in names)


def run(*flags):
    process = subprocess.run([BENCH / "reproduce_lora", "--seeds=0", "--eval_rows=8", *flags], capture_output=True,
                             text=True, timeout=100)
    return process.returncode, [json.loads(line) for line in process.stdout.splitlines()], process.stderr


class ReproduceTest(unittest.TestCase):
    def lines(self, *flags):
        code, lines, error = run(*flags)
        self.assertEqual(code, 0, f"{lines}\n{error}")
        return lines

    def assert_trained(self, line, names):
        rank = 0 if line["rank"] == "full" else line["rank"]
        self.assertEqual(line["trainable_parameters"], lora_parameters(rank, names), line)
        self.assertEqual(line["adapted_modules"], 8 * len(names))
        self.assertGreater(line["eval_tokens"], 0)
        self.assertTrue(0 < line["eval_loss"] < 20, line)

    def test_ranks_by_weight_type(self):
        lines = self.lines("--table=rank", "--steps=2", "--ranks=1,64", "--weights=k,all")
        self.assertEqual([(line["weights"], line["rank"], line["steps"], line["base"]) for line in lines],
                         [(weights, rank, 2, "nf4") for weights in ("k", "all") for rank in (1, 64)])
        for line in lines:
            self.assert_trained(line, ["k"] if line["weights"] == "k" else ["q", "k", "v", "o"])

    def test_full_rank_beside_lora(self):
        lines = self.lines("--table=full_rank", "--task=tickets", "--steps=2", "--batch=2")
        self.assertEqual([(line["method"], line["base"], line["rank"]) for line in lines],
                         [("qlora", "nf4", 16), ("lora", "none", 16), ("full_rank", "none", "full")])
        for line in lines:
            self.assert_trained(line, list(SIDES))
        self.assertNotEqual(lines[0]["eval_loss"], lines[1]["eval_loss"])  # another base

    def test_training_lowers_the_loss(self):
        one, = self.lines("--table=rank", "--steps=1", "--ranks=8", "--weights=all", "--learning_rates=1e-9")
        more, = self.lines("--table=rank", "--steps=12", "--ranks=8", "--weights=all")
        self.assertLess(more["eval_loss"], 0.8 * one["eval_loss"])

    def test_the_output_file_gets_the_lines(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "lines.jsonl"
            lines = self.lines("--table=rank", "--steps=1", "--ranks=1,2", "--weights=q", f"--output={path}")
            self.assertEqual([json.loads(line) for line in path.read_text().splitlines()], lines)

    def test_the_table_has_the_means(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "lines.jsonl"
            lines = self.lines("--table=rank", "--steps=1", "--ranks=1,2", "--weights=q", "--seeds=0,1",
                               f"--output={path}")
            self.lines("--table=full_rank", "--steps=1", "--methods=lora", f"--output={path}")
            text = subprocess.run(["python3", TABLE, path], capture_output=True, text=True, check=True).stdout
        losses = [line["eval_loss"] for line in lines if line["rank"] == 2]
        self.assertEqual(len(losses), 2)
        self.assertIn("| weights | rank 1 | rank 2 |", text)
        self.assertIn(f"{sum(losses) / 2:.4f} ({min(losses):.4f} to {max(losses):.4f}) |", text)
        self.assertIn("| lora | none | 16 | 598,016 | ", text)

    def test_a_run_that_fails_says_why(self):
        code, lines, _ = run("--table=rank", "--steps=1", "--ranks=129,1", "--weights=v")
        self.assertEqual(code, 1)
        self.assertIn("at most 128", lines[0]["error"])
        self.assertNotIn("error", lines[1])

    def test_arguments_that_are_not_understood(self):
        for flag, words in (("--table=x", "known are full_rank, rank"), ("--task=x", "sql, tickets"),
                            ("--weights=x", "all, k, q, v"), ("--methods=x", "full_rank, lora, qlora"),
                            ("--steps=0", "at least 1"), ("--ranks=0", "at least 1"), ("--eval_rows=-1", "from 0"),
                            ("--num_threads=-1", "from 0"), ("--speed=1", "known are")):
            code, lines, error = run("--table=rank", flag)
            self.assertEqual((code, lines), (1, []))
            self.assertIn(words, error)


if __name__ == "__main__":
    unittest.main()
