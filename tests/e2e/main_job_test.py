#!/usr/bin/env python3
"""The whole purpose, end to end: data, job, events, adapter, alias, answers, metrics, files."""

import json
import os
import pty
import subprocess
import unittest

import harness


def questions(count):
    lines = (harness.DEMO_DATA / "sql_eval.jsonl").read_text().splitlines()[:count]
    return [json.loads(line) for line in lines]


class MainJobTest(harness.LoradTest):
    STEPS = 24

    def answers(self, server, *flags):
        path = self.write_jsonl("questions.jsonl", questions(6))
        return server.json_lines("generate", f"--jsonl={path}", "--temperature=0", "--max_tokens=32", *flags)

    def completion_logprob(self, server, *flags):
        """Mean log-probability of the expected answers."""
        total = count = 0
        for row in questions(4):
            prompt = server.json("tokenize", f"--text={row['prompt']}")["ids"]
            whole = server.json("tokenize", f"--text={row['prompt']}{row['completion']}")["ids"]
            logprobs = server.json("score", f"--ids={json.dumps(whole)}", *flags)["logprobs"]
            self.assertEqual(len(logprobs), len(whole))
            self.assertIsNone(logprobs[0])
            total += sum(logprobs[len(prompt):])
            count += len(whole) - len(prompt)
        return total / count

    def submit(self, server):
        return server.json_lines(
            "job", "submit", "--name=sql", "--train=sql", f"--eval={harness.DEMO_DATA / 'sql_eval.jsonl'}",
            "--wait", f"--max_steps={self.STEPS}", "--learning_rate=2e-3", "--warmup_steps=4", "--r=8",
            "--lora_alpha=16", "--micro_batch_size=4", "--packing=false", "--max_seq_length=96",
            f"--eval_steps={self.STEPS // 2}", f"--save_steps={self.STEPS // 2}", "--seed=7")

    def check_events(self, events):
        self.assertSeqWithoutGap(events)
        self.assertSucceeded(events)
        kinds = {event["event"] for event in events}
        self.assertLessEqual({"state_change", "dataset_report", "start", "step", "eval", "checkpoint",
                              "adapter_published"}, kinds)
        steps = [event for event in events if event["event"] == "step"]
        self.assertEqual([step["step"] for step in steps], list(range(1, self.STEPS + 1)))
        for step in steps:
            for key in ("loss", "grad_norm", "learning_rate"):
                self.assertIsInstance(step[key], (int, float), key)
                self.assertNotIsInstance(step[key], bool)
        # The losses of single batches scatter by some tenths of a nat; thirds of the run differ by
        # more than one (the base has never seen this form of question).
        third = self.STEPS // 3
        first = sum(step["loss"] for step in steps[:third]) / third
        last = sum(step["loss"] for step in steps[-third:]) / third
        self.assertLess(last, 0.8 * first)
        return steps

    def check_metrics(self, server):
        status, text = server.get("/metrics")
        self.assertEqual(status, 200)
        lint = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True)
        self.assertEqual((lint.returncode, lint.stdout + lint.stderr), (0, ""))
        samples = server.metrics()
        self.assertEqual(samples["lorad_training_steps_total"], self.STEPS)
        self.assertGreater(samples["lorad_training_loss"], 0)
        finished = sum(v for k, v in samples.items()
                       if k.startswith("lorad_jobs_finished_total") and 'result="succeeded"' in k)
        self.assertEqual(finished, 1)
        for path in ("/healthz", "/readyz"):
            self.assertEqual(server.get(path)[0], 200, path)

    def check_files(self, server, version):
        """Out and in again is the same version, and answers the same."""
        out = self.dir / "exported"
        server.run("adapter", "export", version["ref"], out)
        self.assertEqual({"adapter_config.json", "adapter_model.safetensors"},
                         {path.name for path in out.iterdir()} - {"README.md"})
        again = server.json("adapter", "import", "again", out)
        self.assertEqual(again["adapter"]["sha256"], version["sha256"])
        self.assertEqual(again["adapter"]["version"], version["version"])
        self.assertFalse(server.json("adapter", "import", "again", out)["created"])
        self.assertEqual(self.answers(server, "--adapter=again"), self.answers(server, "--adapter=sql"))
        server.run("adapter", "export", version["ref"], out, code=6)  # not over another directory

    def check_watching(self, server, job_id, events):
        """A late watcher sees the same events; a pipe gets lines, a terminal a bar."""
        self.assertEqual(server.json_lines("job", "watch", job_id), events)
        self.assertEqual(server.json_lines("job", "watch", job_id, "--after_seq=5"), events[5:])
        plain = server.run("job", "watch", job_id).out
        self.assertIn(f"step {self.STEPS}/{self.STEPS}  loss ", plain)
        self.assertNotIn("\r", plain)
        self.assertNotIn("\x1b", plain)
        screen = self.on_a_terminal(server, "job", "watch", job_id)
        self.assertIn("\r\x1b[K[", screen)
        self.assertIn("100%", screen)

    def on_a_terminal(self, server, *words):
        leader, follower = pty.openpty()
        process = subprocess.Popen([harness.LORACTL, f"--server={server.grpc}", *words], stdout=follower,
                                   env=harness.environment())
        os.close(follower)
        data = b""
        while True:
            try:
                piece = os.read(leader, 65536)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            data += piece
        os.close(leader)
        self.assertEqual(process.wait(60), 0)
        return data.decode()

    def test_main_job(self):
        server = self.lorad(harness.DEMO)
        info = server.json("info")
        self.assertTrue(info["model"]["has_tokenizer"])
        self.assertEqual(info["grpc_address"], server.grpc)

        put = server.json("dataset", "put", "sql", harness.DEMO_DATA / "sql_train.jsonl")
        self.assertTrue(put["created"])
        self.assertEqual(put["dataset"]["report"]["samples"], 2000)
        self.assertFalse(server.json("dataset", "put", "sql", harness.DEMO_DATA / "sql_train.jsonl")["created"])
        self.assertEqual(server.json("dataset", "get", "sql"), put["dataset"])

        base = self.answers(server)
        base_logprob = self.completion_logprob(server)
        events = self.submit(server)
        self.check_events(events)
        published = next(e for e in events if e["event"] == "adapter_published")["adapter_published"]
        job = server.json("job", "get", events[0]["job_id"])
        self.assertEqual(job["result"]["adapter"], published["adapter"])
        self.assertEqual(job["spec"]["training"]["r"], 8)
        self.assertEqual(job["last_seq"], len(events))
        self.assertGreaterEqual(len(server.json_lines("job", "checkpoints", job["job_id"])), 1)

        version = server.json("adapter", "get", "sql")
        self.assertEqual((version["ref"], version["sha256"]), (published["adapter"], published["sha256"]))
        server.run("adapter", "alias", "assistant", "sql", "--expect=")
        self.assertEqual(server.json("adapter", "get", "assistant")["ref"], version["ref"])
        adapted = self.answers(server, "--adapter=assistant")
        self.assertEqual(adapted, self.answers(server, f"--adapter={version['ref']}"))
        self.assertNotEqual(adapted, base)
        self.assertEqual(self.answers(server), base)  # the base is as it was
        self.assertGreater(self.completion_logprob(server, "--adapter=assistant"), base_logprob + 0.5)

        self.check_metrics(server)
        self.check_watching(server, job["job_id"], events)
        self.check_files(server, version)
        server.run("adapter", "rm", version["ref"], code=6)  # an alias points at it
        server.run("adapter", "unload", version["ref"])
        self.assertEqual(self.answers(server, "--adapter=assistant"), adapted)  # loaded again by itself
        self.assertEqual(server.terminate(), 0, server.log())


if __name__ == "__main__":
    unittest.main(verbosity=2)
