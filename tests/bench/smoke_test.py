#!/usr/bin/env python3
"""bench_serve, and with --grpc bench_grpc against a lorad, on small models: their lines have the fields that
they promise, and the figures agree with each other. How fast anything is, is not tested."""

import json
import os
import pathlib
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import harness  # noqa: E402

BENCH = pathlib.Path(os.environ.get("LORAD_BENCH_DIR", harness.ROOT / "build" / "cpu" / "bench"))
SECONDS = 60


def run(name, *flags):
    """Exit code, lines and standard error of a benchmark."""
    process = subprocess.run([BENCH / name, *flags], capture_output=True, text=True, timeout=SECONDS,
                             env=harness.environment())
    return process.returncode, [json.loads(line) for line in process.stdout.splitlines()], process.stderr


def established(port):
    """TCP connections of this machine to a port of it; gRPC's are of IPv6, with IPv4 addresses in it or not."""
    count = 0
    for table in ("tcp", "tcp6"):
        path = pathlib.Path("/proc/net") / table
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            _, _, remote, state = line.split()[:4]
            count += remote.endswith(f":{port:04X}") and state == "01"
    return count


class BenchTest(harness.LoradTest):
    def lines(self, name, *flags):
        code, lines, error = run(name, *flags)
        self.assertEqual(code, 0, f"{lines}\n{error}")
        for line in lines:
            self.assertIn(name, line["command_line"])
        return lines

    def assert_times(self, times):
        self.assertGreater(times["count"], 0)
        self.assertLessEqual(0, times["p50"])
        self.assertLessEqual(times["p50"], times["p90"])
        self.assertLessEqual(times["p90"], times["p99"])
        self.assertLessEqual(times["p99"], times["max"])

    def assert_load(self, line, output_tokens):
        """What any load's line must have, and that its counts add up."""
        requests = line["requests"]
        self.assertGreater(requests["offered"], 0)
        self.assertEqual(requests["offered"], sum(requests[name] for name in
                                                  ("completed", "refused", "failed", "unfinished")), line)
        self.assertEqual((requests["refused"], requests["failed"]), (0, 0), line)
        self.assertEqual(line["completed_tokens"], output_tokens * requests["completed"])
        self.assertAlmostEqual(line["tokens_per_s"], line["tokens"] / line["seconds"], delta=1e-6)
        for name in ("ttft_ms", "itl_ms", "e2e_ms"):
            self.assert_times(line[name])
        self.assertLessEqual(line["ttft_ms"]["max"], line["e2e_ms"]["max"])
        self.assertTrue(0 <= line["within_itl_target"] <= 1)


@unittest.skipIf("--grpc" in sys.argv, "bench_grpc alone")
class ServeTest(BenchTest):
    def test_decode(self):
        flags = ["--shape=tiny", "--device=cpu", "--num_threads=1", "--batch=1,3,8", "--context=70", "--steps=6",
                 "--warmup_steps=1", "--rank=4", "--bandwidth_gbps=10"]
        cases = ["adapters=0", "adapters=4", "adapters=4 through=scheduler"]
        lines = self.lines("bench_serve", *flags, *[f"--case={case}" for case in cases])
        self.assertEqual([(line["through"], line["adapters"], line["batch"]) for line in lines],
                         [(through, adapters, batch)
                          for through, adapters in (("runner", 0), ("runner", 4), ("scheduler", 4))
                          for batch in (1, 3, 8)])
        for line in lines:
            step = line["step_ms"]
            self.assertTrue(0 < step["p10"] <= step["median"] <= step["p90"], line)
            self.assertAlmostEqual(line["tokens_per_s"] * step["median"] / 1e3 / line["batch"], 1, places=9)
            # The prompt, the warm-up, and 1 to 6 tokens of the measured steps; the scheduler begins to
            # count when the last of the batch is there, up to a step for each prompt later.
            late = line["batch"] if line["through"] == "scheduler" else 0
            self.assertTrue(70 + 1 + 3.5 <= line["context"] <= 70 + 1 + 3.5 + late, line)
            self.assertEqual(line["distinct_adapters"], min(line["adapters"], line["batch"]))
            size = line["step_bytes"]
            self.assertEqual(size["adapters"], line["distinct_adapters"] * line["adapter_bytes_each"])
            # tiny: 4 layers, 2 heads of 32, keys and values in fp32.
            self.assertEqual(size["kv"], int(line["batch"] * line["context"]) * 4 * 2 * 64 * 4)
            bound = line["batch"] * 10e9 / sum(size.values())
            self.assertAlmostEqual(line["bound_tokens_per_s"] / bound, 1, places=9)
            self.assertAlmostEqual(line["share_of_bound"], line["tokens_per_s"] / bound, places=9)
        # All linears' rank 4 in fp32: 4 * (in + out) of q, k, v, o, gate, up, down, in 4 layers.
        values = 4 * (256 + 192 + 192 + 256 + 3 * 480) * 4
        self.assertEqual(lines[3]["adapter_bytes_each"], 4 * values)

    def test_load_with_adapters_beyond_their_memory(self):
        each = 2 * 64 * 4 * 2 * 64 * 4  # two pages of 64 tokens, in 4 layers, of 64 keys and values in fp32
        line, = self.lines("bench_serve", "--mode=load", "--shape=tiny", "--device=cpu", "--num_threads=1",
                           "--rate=40", "--duration=1", "--prompt_tokens=10-20", "--output_tokens=8",
                           "--adapters=6", "--rank=4", "--choice=zipf:1", f"--adapter_memory={2 * each}",
                           "--kv_cache_tokens=4096", "--itl_target_ms=1000")
        self.assert_load(line, 8)
        memory, traffic = line["adapter_memory"], line["adapter_traffic"]
        self.assertEqual(memory["limit_bytes"], 2 * each)
        self.assertEqual(memory["on_device"] + memory["on_host"] + memory["on_disk"], 6)
        self.assertEqual(memory["resident_bytes"], memory["on_device"] * memory["bytes_each"])
        self.assertLessEqual(memory["resident_bytes"], 2 * each)
        loads = traffic["loads_from_disk"] + traffic["loads_from_host"]
        self.assertEqual(traffic["failed_loads"], 0)
        self.assertGreater(traffic["evictions"], 0)
        self.assertEqual(loads - traffic["evictions"], memory["on_device"])
        self.assertEqual(line["preemptions"], 0)
        self.assertNotIn("training", line)

    def test_adapters_loaded_before_the_load(self):
        line, = self.lines("bench_serve", "--mode=load", "--shape=tiny", "--device=cpu", "--num_threads=1",
                           "--rate=20", "--duration=0.3", "--prompt_tokens=10", "--output_tokens=4", "--adapters=5",
                           "--preload=5", "--rank=4", "--kv_cache_tokens=4096", "--itl_target_ms=1000")
        self.assert_load(line, 4)
        self.assertEqual(line["adapter_memory"]["resident_bytes"], 5 * line["adapter_memory"]["bytes_each"])
        traffic = line["adapter_traffic"]
        self.assertEqual(traffic["loads_from_disk"] + traffic["loads_from_host"], 5)

    def test_adapters_that_come_and_go_beside_a_load(self):
        each = 2 * 64 * 4 * 2 * 64 * 4
        line, = self.lines("bench_serve", "--mode=load", "--shape=tiny", "--device=cpu", "--num_threads=1",
                           "--rate=20", "--duration=1", "--prompt_tokens=10", "--output_tokens=8", "--adapters=2",
                           "--churn=4", "--churn_rate=30", "--rank=4", f"--adapter_memory={4 * each}",
                           "--kv_cache_tokens=4096", "--itl_target_ms=1000")
        self.assert_load(line, 8)
        churn, traffic = line["churn"], line["adapter_traffic"]
        self.assert_times(churn["ms"])
        self.assertEqual(churn["ms"]["count"], churn["loads"])
        self.assertTrue(10 <= churn["loads_per_s"] <= 33, churn)
        # Room for two of the four: each load is one, and pushes one out.
        loads = traffic["loads_from_disk"] + traffic["loads_from_host"]
        self.assertGreaterEqual(loads, 4 + churn["loads"])
        self.assertEqual(loads - traffic["evictions"], line["adapter_memory"]["on_device"])

    def test_publication(self):
        line, = self.lines("bench_serve", "--mode=publish", "--shape=tiny", "--device=cpu", "--num_threads=1",
                           "--train=1x32", "--train_rank=4", "--prompt_tokens=10", "--rounds=3",
                           "--kv_cache_tokens=4096")
        parts = [line[name] for name in ("step_to_publication_ms", "publication_to_token_ms", "step_to_token_ms")]
        for times in parts:
            self.assert_times(times)
            self.assertEqual(times["count"], 3)
            self.assertGreater(times["p50"], 0)
        self.assertAlmostEqual(parts[0]["mean"] + parts[1]["mean"], parts[2]["mean"], places=6)
        self.assertLessEqual(line["publication_ms"]["max"], parts[0]["max"])

    def test_load_beside_training(self):
        line, = self.lines("bench_serve", "--mode=load", "--shape=tiny", "--device=cpu", "--num_threads=1",
                           "--rate=4:0.5s,20:0.5s,4:1.5s", "--prompt_tokens=10", "--output_tokens=4",
                           "--kv_cache_tokens=4096", "--itl_target_ms=1000", "--train=1x32",
                           "--train_rank=4", "--train_solo_seconds=0.3")
        self.assert_load(line, 4)
        self.assertEqual([phase["rate"] for phase in line["phases"]], [4, 20, 4])
        for name in ("tokens", "completed_tokens"):
            self.assertEqual(line[name], sum(phase[name] for phase in line["phases"]))
        training = line["training"]
        self.assertGreater(training["tokens_per_s"], 0)
        self.assertAlmostEqual(training["share_of_solo"], training["tokens_per_s"] / training["solo_tokens_per_s"])
        seconds = [0.5, 0.5, 1.5]
        mean = sum(rate * length for rate, length in zip(training["phases"], seconds)) / sum(seconds)
        self.assertAlmostEqual(mean / training["tokens_per_s"], 1, places=6)
        self.assertIn("recovery_s", training)

    def test_streams(self):
        line, = self.lines("bench_serve", "--mode=load", "--shape=tiny", "--device=cpu", "--num_threads=1",
                           "--streams=3", "--duration=0.5", "--prompt_tokens=10", "--output_tokens=5",
                           "--kv_cache_tokens=4096", "--itl_target_ms=1000")
        self.assert_load(line, 5)
        self.assertLessEqual(line["requests"]["unfinished"], 3)

    def test_a_case_that_fails_says_why(self):
        code, lines, _ = run("bench_serve", "--shape=tiny", "--device=cpu", "--num_threads=1", "--batch=1",
                             "--context=64", "--steps=1", "--bandwidth_gbps=1",
                             "--case=memory_limit=1000", "--case=shape=nowhere", "--case=")
        self.assertEqual(code, 1)
        self.assertEqual(len(lines), 3)
        self.assertIn("RESOURCE_EXHAUSTED", lines[0]["error"])
        self.assertIn("nowhere", lines[1]["error"])
        self.assertNotIn("error", lines[2])

    def test_arguments_that_are_not_understood(self):
        for flag, words in (("--mode=fast", "decode or load or publish"), ("--mode=publish", "--train="),
                            ("--churn_rate=-1", "without a pause"), ("--batch=0", "[1, 4096]"), ("--rate=x", "--rate=x"),
                            ("--train=4", "MICRO_BATCHxSEQ"), ("--preload=1", "[0, 0]"),
                             ("--speed=1", "known are"), ("--device=tpu", "tpu")):
            code, lines, error = run("bench_serve", "--shape=tiny", flag)
            self.assertEqual((code, lines), (1, []))
            self.assertIn(words, error)


@unittest.skipUnless("--grpc" in sys.argv, "only with --grpc")
class GrpcTest(BenchTest):
    def test_loads(self):
        server = self.lorad()
        common = [f"--server={server.grpc}", "--connections=3", "--prompt_tokens=10", "--output_tokens=6",
                  "--itl_target_ms=1000"]
        lines = self.lines("bench_grpc", *common, f"--shape={harness.GOLDEN}", "--rank=4",
                           "--case=rate=20 duration=1 adapters=2", "--case=streams=4 duration=0.5")
        self.assertEqual([line["through"] for line in lines], ["grpc", "grpc"])
        for line in lines:
            self.assert_load(line, 6)
            self.assertEqual(line["connections"], 3)
            self.assertEqual(line["shape"], harness.GOLDEN.name)
        self.assertLessEqual(lines[1]["requests"]["unfinished"], 4)
        completed = sum(line["requests"]["completed"] for line in lines)
        answered = server.metrics()['lorad_inference_requests_total{finish_reason="length"}']
        self.assertTrue(completed <= answered <= sum(line["requests"]["offered"] for line in lines), answered)
        self.assertEqual(server.json_lines("adapter", "ls"), [])  # what it imported is gone

    def test_each_connection_is_one_of_tcp(self):
        server = self.lorad()
        port = int(server.grpc.rsplit(":", 1)[1])
        bench = subprocess.Popen([BENCH / "bench_grpc", f"--server={server.grpc}", "--connections=5", "--streams=1",
                                  "--duration=1", "--prompt_tokens=4", "--output_tokens=4"],
                                 stdout=subprocess.PIPE, env=harness.environment())
        most = 0
        while bench.poll() is None:
            most = max(most, established(port))
            time.sleep(0.02)
        bench.stdout.close()
        self.assertEqual(bench.returncode, 0)
        self.assertEqual(most, 5 + 1)  # and the one that asks what the daemon is

    def test_a_daemon_that_is_not_there(self):
        code, lines, error = run("bench_grpc", "--server=127.0.0.1:1")
        self.assertEqual((code, lines), (1, []))
        self.assertIn("UNAVAILABLE", error)

    def test_adapters_need_the_right_shape(self):
        server = self.lorad()
        code, lines, _ = run("bench_grpc", f"--server={server.grpc}", "--adapters=1", "--shape=tiny")
        self.assertEqual(code, 1)
        self.assertIn("INVALID_ARGUMENT: --shape", lines[0]["error"])


if __name__ == "__main__":
    unittest.main(argv=[argument for argument in sys.argv if argument != "--grpc"])
