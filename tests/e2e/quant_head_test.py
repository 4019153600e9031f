#!/usr/bin/env python3
"""--quant_head through the daemon: drawn tokens come from the quantised head, scores from the dense one."""

import unittest

import harness

PROMPT = [3 + (t * 37 + t * t) % (harness.GOLDEN_VOCAB - 3) for t in range(40)]


class QuantHeadTest(harness.LoradTest):
    def test_tokens_come_from_it_and_scores_do_not(self):
        drawn, scores, weights = {}, {}, {}
        for name, flags in (("dense", []), ("quantised", ["--quant_head"])):
            server = self.lorad(name=name, flags=flags)
            reply = server.json("generate", f"--ids={PROMPT}", "--temperature=0", "--max_tokens=4", "--ignore_eos",
                                "--logprobs=0", "--details")
            drawn[name] = [token["logprob"] for token in reply["logprobs"]]
            scores[name] = server.json("score", f"--ids={PROMPT}")["logprobs"]
            weights[name] = server.metrics()['lorad_memory_bytes{use="weights"}']
        self.assertEqual(scores["dense"], scores["quantised"])
        self.assertNotEqual(drawn["dense"], drawn["quantised"])
        self.assertAlmostEqual(drawn["dense"][0], drawn["quantised"][0], delta=0.5)
        self.assertGreater(weights["quantised"], weights["dense"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
