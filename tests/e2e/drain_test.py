#!/usr/bin/env python3
"""SIGTERM while streams and a job run: new work is refused, what runs ends well, exit code 0."""

import signal
import threading
import time
import unittest

import harness

STREAMS = 8
TOKENS = 400


class DrainTest(harness.LoradTest):
    def setUp(self):
        super().setUp()
        self.data = self.write_jsonl("train.jsonl", harness.token_rows(64))

    def submit(self, server, steps):
        return server.json("job", "submit", "--name=tuned", f"--train={self.data}", f"--max_steps={steps}",
                           "--micro_batch_size=2", "--packing=false", "--r=4", "--save_steps=1000000", "--seed=3")

    def start_streams(self, server):
        requests = self.write_jsonl("long.jsonl", [{"ids": ids} for ids in harness.prompts(STREAMS)])
        return server.popen("generate", f"--jsonl={requests}", f"--max_tokens={TOKENS}", "--ignore_eos=true",
                            "--temperature=0", "--output=json")

    def test_streams_end_a_checkpoint_is_written_and_the_job_continues(self):
        server = self.lorad()
        job_id = self.submit(server, 100000)["job_id"]
        health = server.popen("health", "--watch")
        self.assertEqual(health.stdout.readline(), "SERVING\n")
        watch = harness.LineReader(server.popen("job", "watch", job_id, "--output=json"))
        self.wait_for("the job trains", lambda: watch.last_step() >= 3)
        streams = self.start_streams(server)
        self.wait_for("the streams run",
                      lambda: server.json("top", "--count=1")["running_requests"] == STREAMS)

        refused = []
        server.process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        self.assertEqual(health.stdout.readline(), "NOT_SERVING\n")
        not_serving = time.monotonic() - begun
        while server.running() and streams.poll() is None and not refused:
            result = server.run("generate", "--ids=[1,2]", "--max_tokens=1", code=None)
            if result.code != 0:
                refused.append(result)
        out, err = streams.communicate(timeout=60)
        self.assertEqual((streams.returncode, err), (0, ""), server.log())
        answers = harness.Result(0, out, "").lines
        self.assertEqual([len(answer["ids"]) for answer in answers], [TOKENS] * STREAMS)
        self.assertEqual(server.wait(), 0, server.log())
        print(f"NOT_SERVING after {not_serving:.2f} s, ended after {time.monotonic() - begun:.2f} s")
        self.assertTrue(refused)
        self.assertEqual(refused[0].code, 4, refused[0].err)
        health.wait(30)

        # The watcher reconnects; the job goes on from the step that it had done, not from the start.
        done = watch.last_step()
        server.start()
        start = self.wait_for("the second attempt",
                              lambda: [event for event in list(watch.events) if event["event"] == "start"][1:])
        self.assertGreaterEqual(start[0]["start"]["resumed_from_step"], done)
        self.assertGreater(done, 0)
        checkpoint = server.json_lines("job", "checkpoints", job_id)[0]
        self.assertEqual(checkpoint["step"], start[0]["start"]["resumed_from_step"])
        server.run("job", "cancel", job_id)
        code, _ = watch.finish()
        self.assertEqual(code, 1)
        self.assertSeqWithoutGap(watch.events)
        self.assertEqual(watch.events[-1]["state_change"]["to"], "JOB_STATE_CANCELLED")

    def test_a_drained_job_ends_with_the_adapter_of_an_undisturbed_one(self):
        steps = 120
        quiet = self.lorad(name="quiet")
        job_id = self.submit(quiet, steps)["job_id"]
        quiet.run("job", "watch", job_id)
        expected = quiet.json("job", "get", job_id)["result"]["sha256"]
        quiet.terminate()

        server = self.lorad()
        job_id = self.submit(server, steps)["job_id"]
        waiting = harness.LineReader(server.popen("job", "watch", job_id, "--output=json"))
        for step in (10, 50):
            self.wait_for(f"step {step}", lambda: waiting.last_step() >= step)
            self.assertEqual(server.terminate(), 0, server.log())
            server.start()
        code, err = waiting.finish()
        self.assertEqual(code, 0, err)
        self.assertEqual(server.json("job", "get", job_id)["result"]["sha256"], expected)
        # A drain repeats no step.
        steps_seen = [event["step"] for event in waiting.steps()]
        self.assertEqual(steps_seen, list(range(1, steps + 1)))

    def test_an_idle_server_ends_at_once(self):
        server = self.lorad()
        begun = time.monotonic()
        self.assertEqual(server.terminate(), 0)
        self.assertLess(time.monotonic() - begun, 5)

    def test_streams_that_outlast_the_drain_timeout_are_cut_with_a_clear_status(self):
        server = self.lorad(flags=["--drain_timeout=50ms"])
        endless = [harness.LineReader(self.endless(server)) for _ in range(2)]
        self.wait_for("the streams run", lambda: server.json("top", "--count=1")["running_requests"] >= 2)
        begun = time.monotonic()
        self.assertEqual(server.terminate(), 0, server.log())
        self.assertLess(time.monotonic() - begun, 20)
        for stream in endless:
            code, err = stream.finish()
            self.assertIn(code, (4, 8), err)

    def endless(self, server):
        """A stream of whole contexts, one after the other, far longer than the test."""
        name = f"endless{threading.get_ident()}_{time.monotonic_ns()}.jsonl"
        path = self.write_jsonl(name, [{"ids": [5, 6, 7]}] * 400)
        return server.popen("generate", f"--jsonl={path}", "--parallel=4", "--ignore_eos=true", "--output=json")


class InterruptTest(harness.LoradTest):
    def test_ctrl_c_detaches_and_the_job_goes_on(self):
        server = self.lorad()
        data = self.write_jsonl("train.jsonl", harness.token_rows(64))
        process = server.popen("job", "submit", "--name=x", f"--train={data}", "--max_steps=100000", "--wait",
                               "--output=json", "--packing=false", "--micro_batch_size=2")
        waiting = harness.LineReader(process)
        self.wait_for("a step", lambda: waiting.last_step() >= 1)
        process.send_signal(signal.SIGINT)
        code, err = waiting.finish(10)
        self.assertEqual(code, 130)
        job_id = waiting.events[0]["job_id"]
        self.assertIn(f"loractl job watch {job_id} --after_seq={len(waiting.events)}", err)
        self.assertEqual(server.json("job", "get", job_id)["state"], "JOB_STATE_RUNNING")


if __name__ == "__main__":
    unittest.main(verbosity=2)
