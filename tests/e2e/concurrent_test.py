#!/usr/bin/env python3
"""Sixteen streams on two adapters and the base while a job trains, and while an alias is swapped."""

import json
import threading
import time
import unittest

import harness

STREAMS = 16
SWAPS = 50
TOKENS = 96


class ConcurrentTest(harness.LoradTest):
    def setUp(self):
        super().setUp()
        self.server = self.lorad()
        self.one = self.server.json("adapter", "import", "one", harness.GOLDEN / "adapter_init")["adapter"]["ref"]
        self.two = self.server.json("adapter", "import", "two", harness.GOLDEN / "adapter_step8")["adapter"]["ref"]

    def generate(self, name, requests, parallel, *flags):
        """`parallel` Generate calls at a time; None: one GenerateBatch."""
        path = self.write_jsonl(name, requests)
        how = [] if parallel is None else [f"--parallel={parallel}"]
        return self.server.json_lines("generate", f"--jsonl={path}", *how, "--temperature=0",
                                      f"--max_tokens={TOKENS}", "--ignore_eos=true", *flags)

    def start_job(self):
        """A job that outlasts the test; returns its id once it trains."""
        data = self.write_jsonl("train.jsonl", harness.token_rows(64))
        job = self.server.json("job", "submit", "--name=background", f"--train={data}", "--max_steps=1000000",
                               "--micro_batch_size=2", "--packing=false", "--r=4", "--save_steps=1000000")
        self.wait_for("the job trains", lambda: self.job(job["job_id"]).get("last_step", {}).get("step", 0) > 0)
        return job["job_id"]

    def job(self, job_id):
        return self.server.json("job", "get", job_id)

    def assert_trained_meanwhile(self, before, after):
        self.assertEqual(after["state"], "JOB_STATE_RUNNING")
        self.assertGreater(after["last_step"]["step"], before["last_step"]["step"])

    def test_every_greedy_answer_equals_its_solo_run_while_a_job_trains(self):
        adapters = ["", self.one, self.two]
        requests = [{"ids": ids, "adapter": adapters[i % 3]} for i, ids in enumerate(harness.prompts(3 * STREAMS))]
        solo = self.generate("solo.jsonl", requests, 1)
        # The three models must differ, else a mix-up would not show.
        same = [{"ids": requests[0]["ids"], "adapter": adapter} for adapter in adapters]
        self.assertEqual(len({json.dumps(answer) for answer in self.generate("same.jsonl", same, 1)}), 3)

        job_id = self.start_job()
        before = self.job(job_id)
        watching = harness.LineReader(self.server.popen("top", "--interval=0.1s", "--output=json"))
        for repeat in range(3):
            together = self.generate("together.jsonl", requests, STREAMS)
            for i, (alone, beside) in enumerate(zip(solo, together)):
                self.assertEqual(beside, alone, f"request {i} of round {repeat}: {requests[i]}")
        for i, (alone, batched) in enumerate(zip(solo, self.generate("batch.jsonl", requests, None))):
            self.assertEqual(batched, alone, f"request {i} in a batch: {requests[i]}")
        each = self.generate("samples.jsonl", requests[:6], None, "--n=3")
        self.assertEqual(each, [{"index": i, **alone} for alone in solo[:6] for i in range(3)])
        self.assert_trained_meanwhile(before, self.job(job_id))
        samples = watching.stop()
        peak = max(sample["running_requests"] for sample in samples)
        steps = self.job(job_id)["last_step"]["step"] - before["last_step"]["step"]
        print(f"{3 * len(requests)} answers, at most {peak} at once, {steps} training steps beside them")
        self.assertGreaterEqual(peak, STREAMS - 2)  # one may have ended and the next not begun
        self.assertEqual({sample["running_job_id"] for sample in samples}, {job_id})
        self.server.run("job", "cancel", job_id)

    def test_a_swapped_alias_never_mixes_versions(self):
        ids = harness.prompts(STREAMS)
        expected = {
            ref: self.generate("solo.jsonl", [{"ids": prompt, "adapter": ref} for prompt in ids], 1)
            for ref in (self.one, self.two)
        }
        for i in range(STREAMS):
            self.assertNotEqual(expected[self.one][i], expected[self.two][i])
        self.server.run("adapter", "alias", "live", self.one)
        job_id = self.start_job()
        before = self.job(job_id)

        answers, stop = [], threading.Event()
        failures = []

        def ask():
            requests = [{"ids": prompt, "adapter": "live"} for prompt in ids]
            while not stop.is_set():
                try:
                    answers.extend(enumerate(self.generate("live.jsonl", requests, STREAMS, "--details=true")))
                except AssertionError as error:
                    failures.append(error)
                    return

        asking = threading.Thread(target=ask)
        asking.start()
        # A request resolves the alias when it arrives, so a fast machine can do all swaps between two
        # batches: more of them follow until both versions have answered.
        old, new, swaps = self.one, self.two, 0
        deadline = time.monotonic() + 60

        def enough():
            versions = {answer["adapter"] for _, answer in answers}
            return len(answers) >= 4 * STREAMS and versions == {self.one, self.two}

        while swaps < SWAPS or not (failures or enough() or time.monotonic() > deadline):
            alias = self.server.json("adapter", "alias", "live", new, f"--expect={old}")
            swaps += 1
            self.assertEqual(alias["adapter"], new)
            self.assertEqual(alias["generation"], swaps + 1)
            old, new = new, old
        stop.set()
        asking.join()
        self.assertEqual(failures, [])

        seen = {self.one: 0, self.two: 0}
        for i, answer in answers:
            seen[answer["adapter"]] += 1
            plain = {key: answer[key] for key in ("ids", "text", "finish_reason")}
            self.assertEqual(plain, expected[answer["adapter"]][i], f"prompt {i} by {answer['adapter']}")
        print(f"{len(answers)} answers during {swaps} swaps: {seen}")
        self.assertGreater(min(seen.values()), 0)
        self.server.run("adapter", "alias", "live", new, f"--expect={new}", code=6)  # a lost compare-and-set
        self.assert_trained_meanwhile(before, self.job(job_id))


if __name__ == "__main__":
    unittest.main(verbosity=2)
