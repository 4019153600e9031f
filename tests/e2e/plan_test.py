#!/usr/bin/env python3
"""Plans against a running daemon, and what a job then takes and forecasts."""

import unittest

import harness

BATCH, SEQ, ACCUMULATION = 4, 64, 2
EVALUATIONS = 8


class PlanTest(harness.LoradTest):
    def rows(self, count):
        """Full rows, so that micro-batches are as large as planned."""
        return [{"input_ids": [1 + (i * 7 + t * t + i * t) % 40 for t in range(SEQ)],
                 "labels": [1 + (i * 7 + t * t + i * t) % 40 for t in range(SEQ)]} for i in range(count)]

    def test_a_job_takes_what_was_planned_and_forecasts_its_loss(self):
        server = self.lorad()
        spec = [f"--batch={BATCH}", f"--seq={SEQ}", f"--accumulation={ACCUMULATION}", "--rank=8",
                "--activations=every_layer"]
        plan = server.json("plan", "memory", *spec)
        self.assertEqual((plan["spec"]["device"], plan["spec"]["precision"]), ("cpu", "nf4"))
        self.assertTrue(plan["fits"])
        self.assertGreater(plan["available_bytes"], plan["total_bytes"])
        weights = server.metrics()['lorad_memory_bytes{use="weights"}']

        train, evaluation = self.write_jsonl("train.jsonl", self.rows(64)), self.write_jsonl("eval.jsonl", self.rows(8))
        events = server.json_lines(
            "job", "submit", "--name=planned", f"--train={train}", f"--eval={evaluation}", "--wait", "--r=8",
            f"--micro_batch_size={BATCH}", f"--max_seq_length={SEQ}", "--learning_rate=5e-3",
            f"--gradient_accumulation_steps={ACCUMULATION}", "--activation_checkpointing=every_layer",
            f"--max_steps={5 * EVALUATIONS}", "--eval_steps=5")
        start = next(e["start"]["plan"] for e in events if e["event"] == "start")
        self.assertEqual(plan["total_bytes"], weights + start["peak_bytes"])
        self.assertEqual(plan["pinned_bytes"], start["pinned_bytes"])
        self.assertEqual(plan["trained_parameters"], start["trainable_parameters"])

        losses = [e["eval"]["loss"] for e in events if e["event"] == "eval"]
        self.assertGreaterEqual(len(losses), EVALUATIONS)
        forecasts = [e["forecast"] for e in events if e["event"] == "forecast"]
        self.assertTrue(forecasts)
        last = forecasts[-1]
        self.assertLessEqual(last["lower"], last["loss"])
        self.assertLessEqual(last["loss"], last["upper"])
        self.assertIn('lorad_job_forecast_eval_loss{bound="expected"}', server.metrics())

    def test_every_plan_answers_over_the_wire_as_without_a_server(self):
        server = self.lorad()
        points = harness.ROOT / "tests" / "golden" / "scaling" / "cerebras_gpt.csv"
        for words in (("memory", "--model=llama-65b", "--device=cuda", "--fit=48GB"),
                      ("checkpointing", "--model=llama-3-8b", "--device=cuda", "--batch=4"),
                      ("flops", "--model=llama-3-8b", "--batch=4", "--rate=6e14"),
                      ("scaling", f"--points={points}", "--draws=100")):
            remote = server.json("plan", *words)
            local = harness.run_locally("plan", *words, "--output=json").object
            self.assertEqual(remote, local, words)


if __name__ == "__main__":
    unittest.main()
