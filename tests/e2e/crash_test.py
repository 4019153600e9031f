#!/usr/bin/env python3
"""kill -9 during training: what was acknowledged is there, and the job ends with the same adapter."""

import time
import unittest

import harness

STEPS = 300
SAVE_STEPS = 20


class CrashTest(harness.LoradTest):
    def setUp(self):
        super().setUp()
        self.data = self.write_jsonl("train.jsonl", harness.token_rows(96))
        self.eval = self.write_jsonl("eval.jsonl", harness.token_rows(8, length=20))

    def submit_words(self):
        return ["job", "submit", "--name=tuned", "--train=train", "--eval=eval", f"--max_steps={STEPS}",
                f"--save_steps={SAVE_STEPS}", "--eval_steps=50", "--micro_batch_size=4", "--r=4",
                "--lora_dropout=0.1", "--learning_rate=1e-3", "--lr_scheduler_type=cosine", "--warmup_ratio=0.1",
                "--gradient_accumulation_steps=2", "--packing=false", "--seed=11", "--output=json"]

    def put_data(self, server):
        server.run("dataset", "put", "train", self.data)
        server.run("dataset", "put", "eval", self.eval)

    def reference(self):
        """The adapter of a run that nothing interrupts."""
        server = self.lorad(name="reference")
        self.put_data(server)
        events = server.run(*self.submit_words(), "--wait").lines
        self.assertSucceeded(events)
        server.terminate()
        return next(e for e in events if e["event"] == "adapter_published")["adapter_published"]["sha256"]

    def check_kept(self, server, kept):
        for name, dataset in kept["datasets"].items():
            self.assertEqual(server.json("dataset", "get", name), dataset)
        adapter = server.json("adapter", "get", "live")
        self.assertEqual((adapter["ref"], adapter["sha256"]), kept["adapter"])

    def test_a_job_survives_kills_and_ends_with_the_same_adapter(self):
        expected = self.reference()
        server = self.lorad()
        self.put_data(server)
        imported = server.json("adapter", "import", "kept", harness.GOLDEN / "adapter_init")["adapter"]
        server.run("adapter", "alias", "live", imported["ref"])
        kept = {
            "datasets": {name: server.json("dataset", "get", name) for name in ("train", "eval")},
            "adapter": (imported["ref"], imported["sha256"]),
        }
        # One loractl waits through all of it: it reconnects after its last event.
        waiting = harness.LineReader(server.popen(*self.submit_words(), "--wait"))
        # Before the first checkpoint; between two; right after one; late.
        for kill_at in (SAVE_STEPS // 2, 3 * SAVE_STEPS + 7, 8 * SAVE_STEPS, STEPS - SAVE_STEPS + 3):
            self.wait_for(f"step {kill_at}", lambda: waiting.last_step() >= kill_at, timeout=120)
            server.kill()
            seen = list(waiting.events)
            server.start()
            self.check_kept(server, kept)
            job_id = seen[0]["job_id"]
            stored = self.stored_events(server, job_id, len(seen))
            self.assertEqual(stored[:len(seen)], seen, "an event that was sent has changed or is gone")
        code, err = waiting.finish()
        self.assertEqual(code, 0, err + server.log())
        self.check_run(waiting.events, expected)
        job = server.json("job", "get", job_id)
        self.assertEqual(job["attempts"], 5)
        self.assertEqual(job["result"]["sha256"], expected)
        self.assertEqual(server.json_lines("job", "watch", job_id), waiting.events)
        self.assertEqual(server.terminate(), 0)

    def stored_events(self, server, job_id, count):
        """At least `count` events as the restarted server has them."""
        reader = harness.LineReader(server.popen("job", "watch", job_id, "--output=json"))
        self.wait_for("the stored events", lambda: len(reader.events) >= count)
        return reader.stop()

    def check_run(self, events, expected):
        self.assertSeqWithoutGap(events)
        self.assertSucceeded(events)
        published = [e for e in events if e["event"] == "adapter_published"]
        self.assertEqual([e["adapter_published"]["sha256"] for e in published], [expected])
        starts = [event["start"]["resumed_from_step"] for event in events if event["event"] == "start"]
        print("attempts began after steps", starts)
        self.assertEqual(len(starts), 5)
        self.assertEqual(starts[0], 0)
        self.assertEqual(starts[1], 0)  # killed before the first checkpoint
        self.assertGreater(starts[2], 0)
        self.check_resumes(events)

    def check_resumes(self, events):
        """Each attempt begins at the newest checkpoint that was reported, and repeats the same losses."""
        checkpoint, losses = 0, {}
        for event in events:
            if event["event"] == "checkpoint":
                checkpoint = event["checkpoint"]["step"]
            elif event["event"] == "start":
                # One whose event was not stored yet may be newer.
                self.assertGreaterEqual(event["start"]["resumed_from_step"], checkpoint)
            elif event["event"] == "step":
                known = losses.setdefault(event["step"], event["loss"])
                self.assertEqual(event["loss"], known, f"step {event['step']} differs after a resume")
        self.assertEqual(sorted(losses), list(range(1, STEPS + 1)))

    def test_a_job_acknowledged_a_moment_before_the_crash_runs(self):
        server = self.lorad()
        self.put_data(server)
        submit = self.submit_words() + ["--request_id=the-one"]
        job_id = server.run(*submit).object["job_id"]
        server.kill()
        server.start()
        self.assertEqual([job["job_id"] for job in server.json_lines("job", "ls")], [job_id])
        self.assertEqual(server.run(*submit).object["job_id"], job_id)  # a retry finds it
        server.run("job", "cancel", job_id)
        self.assertEqual(server.run("job", "watch", job_id, code=1).code, 1)

    def test_it_starts_again_after_kills_at_any_time(self):
        """Without looking at what it does: while it loads, validates, trains, writes."""
        server = self.lorad()
        self.put_data(server)
        job_id = server.run(*self.submit_words()).object["job_id"]
        for i in range(6):
            time.sleep(0.05 + 0.13 * i)
            server.kill()
            server.start()
            events = self.stored_events(server, job_id, 1)
            self.assertSeqWithoutGap(events)
        server.run("job", "cancel", job_id)


if __name__ == "__main__":
    unittest.main(verbosity=2)
