#!/usr/bin/env python3
"""The prefix cache through the daemon: known prompts, swapped aliases, what clients and metrics see."""

import unittest

import harness

SWAPS = 100
CHUNK = 64  # one page; --max_batch_tokens makes a chunk so short
PROMPT = [3 + (t * 37 + t * t) % (harness.GOLDEN_VOCAB - 3) for t in range(3 * CHUNK + 10)]


class PrefixTest(harness.LoradTest):
    def start(self, name, *flags):
        server = self.lorad(name=name, flags=[f"--max_batch_tokens={CHUNK}", *flags])
        for adapter in ("init", "step8"):
            server.run("adapter", "import", adapter, harness.GOLDEN / f"adapter_{adapter}")
        return server

    def generate(self, server, adapter="", ids=PROMPT, *flags):
        return server.json("generate", f"--ids={ids}", f"--adapter={adapter}", "--temperature=0", "--max_tokens=8",
                           "--ignore_eos", "--logprobs=2", "--details", *flags)

    def answer(self, reply):
        """What the cache must not change."""
        return {key: reply[key] for key in ("ids", "logprobs", "finish_reason")}

    def cold_answers(self):
        server = self.start("cold", "--prefix_cache=false")
        answers = {}
        for adapter in ("", "init", "step8"):
            for _ in range(2):
                reply = self.generate(server, adapter)
                self.assertEqual(reply["usage"]["cached_tokens"], 0)
                answers[adapter] = self.answer(reply)
        self.assertEqual(server.metrics()["lorad_prefix_cache_queries_total"], 0)
        self.assertNotEqual(answers["init"], answers["step8"])
        return answers

    def test_a_swapped_alias_gives_the_new_versions_cold_answer(self):
        cold = self.cold_answers()
        server = self.start("warm")
        for swap in range(SWAPS):
            version = ("init", "step8")[swap % 2]
            server.run("adapter", "alias", "live", version)
            reply = self.generate(server, "live")
            self.assertTrue(reply["adapter"].startswith(version + "@"), reply["adapter"])
            self.assertEqual(self.answer(reply), cold[version], f"swap {swap}")
            self.assertEqual(reply["usage"]["cached_tokens"], 0 if swap < 2 else 3 * CHUNK)
        samples = server.metrics()
        self.assertEqual(samples["lorad_prefix_cache_queries_total"], SWAPS * len(PROMPT))
        self.assertEqual(samples["lorad_prefix_cache_hits_total"], (SWAPS - 2) * 3 * CHUNK)
        self.assertEqual(samples['lorad_inference_cached_prompt_tokens_total{kind="adapter"}'],
                         (SWAPS - 2) * 3 * CHUNK)
        self.assertEqual(samples['lorad_kv_cache_blocks{state="cached"}'], 2 * 3)
        self.assertEqual(samples['lorad_kv_cache_blocks{state="used"}'], 0)

        # What a deleted adapter computed is not kept.
        server.run("adapter", "alias", "live", "init")
        server.run("adapter", "rm", self.generate(server, "step8")["adapter"])
        self.wait_for("its pages are free",
                      lambda: server.metrics()['lorad_kv_cache_blocks{state="cached"}'] == 3)
        self.assertEqual(self.answer(self.generate(server)), cold[""])

    def test_the_larger_priority_goes_first(self):
        server = self.lorad(flags=["--max_running_requests=1"])

        def queued(count):
            return lambda: server.metrics()["lorad_inference_queue_requests"] == count

        # Long requests, sixteen at a time, hold the only slot until both others wait.
        path = self.write_jsonl("busy.jsonl", [{"ids": [3 + i]} for i in range(500)])
        long = ("--max_tokens=500", "--ignore_eos", "--output=json")
        busy = harness.LineReader(
            server.popen("generate", f"--jsonl={path}", "--parallel=16", "--priority=100", *long))
        self.wait_for("one runs", queued(15))
        low = server.popen("generate", "--ids=[1]", "--priority=-1", *long)
        self.wait_for("the low one waits", queued(16))
        high = server.popen("generate", "--ids=[2]", "--priority=1", "--max_tokens=1", "--output=json")
        self.wait_for("the high one waits", queued(17))
        busy.process.kill()
        self.assertEqual(high.wait(60), 0)
        self.assertIsNone(low.poll(), "the low one, which came first, has ended")
        self.assertEqual(low.wait(60), 0)

        refused = server.run("generate", "--ids=[1]", "--priority=101", code=5)
        self.assertIn("priority: 101 is not in -100..100", refused.err)


if __name__ == "__main__":
    unittest.main(verbosity=2)
