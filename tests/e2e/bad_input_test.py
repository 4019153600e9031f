#!/usr/bin/env python3
"""Bad input: each a clear error that names the item, and nothing is started."""

import json
import shutil
import socket
import subprocess
import unittest

import harness


class StartTest(harness.LoradTest):
    """What lorad refuses to start with."""

    def refused(self, *words, model=harness.GOLDEN, state="state", flags=()):
        """Its standard error; every word must be in it. It ends by itself and never says that it is ready."""
        server = harness.Lorad(model, self.dir / state, flags)
        result = subprocess.run(server.command(), capture_output=True, text=True, timeout=harness.START_SECONDS,
                                env=harness.environment())
        self.assertNotEqual(result.returncode, 0)
        self.assertGreater(result.returncode, 0, f"it crashed: {result.returncode}\n{result.stderr}")
        self.assertNotIn("lorad ready", result.stdout)
        for word in words:
            self.assertIn(str(word), result.stderr)
        return result.stderr

    def model_copy(self):
        copy = self.dir / "model"
        copy.mkdir()
        for name in ("config.json", "generation_config.json", "model.safetensors"):
            shutil.copy(harness.GOLDEN / name, copy / name)
        return copy

    def test_missing_model_directory(self):
        self.refused("/nowhere/model", model="/nowhere/model")

    def test_missing_model_file(self):
        for name in ("model.safetensors", "config.json"):
            model = self.model_copy()
            (model / name).unlink()
            self.refused(name, model=model)
            shutil.rmtree(model)

    def test_truncated_safetensors(self):
        model = self.model_copy()
        path = model / "model.safetensors"
        whole = path.read_bytes()
        for size in (0, 7, 1000, len(whole) - 2):
            path.write_bytes(whole[:size])
            self.refused("model.safetensors", model=model)

    def test_unknown_architecture(self):
        model = self.model_copy()
        config = json.loads((model / "config.json").read_text())
        config.update(architectures=["FrobnicatorForCausalLM"], model_type="frobnicator")
        (model / "config.json").write_text(json.dumps(config))
        text = self.refused(model=model)
        self.assertRegex(text, "(?i)frobnicator")

    def test_port_in_use(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            for flag in ("--listen", "--http_listen"):
                self.refused(str(port), flags=[f"{flag}=127.0.0.1:{port}"])

    def test_state_directory_owned_by_another_process(self):
        server = self.lorad()
        self.refused(server.state_dir)
        self.assertEqual(server.run("health").out, "SERVING\n")  # the owner does not mind
        server.kill()
        server.start()  # a lock of a killed process is no lock

    def test_flags(self):
        self.refused("quant", "nf5", flags=["--quant=nf5"])
        self.refused("quant_head", flags=["--quant=none", "--quant_head"])
        self.refused("max_batch_tokens", "0", flags=["--max_batch_tokens=0"])


class RequestTest(harness.LoradTest):
    """What a running lorad refuses; afterwards nothing has been stored or started."""

    def setUp(self):
        super().setUp()
        self.server = self.lorad()

    def refused(self, code, words, *command):
        result = self.server.run(*command, code=code)
        self.assertEqual(result.out, "")
        self.assertTrue(result.err.startswith("error: "), result.err)
        for word in words:
            self.assertIn(str(word), result.err)
        self.assertNotIn(str(self.server.state_dir), result.err, "a path of the server's own says nothing to a client")

    def put(self, name, rows):
        path = self.write_jsonl(name + ".jsonl", rows)
        self.server.run("dataset", "put", name, path)
        return name

    def assert_nothing_started(self):
        self.assertEqual(self.server.json_lines("job", "ls"), [])
        self.assertEqual(self.server.json_lines("adapter", "ls"), [])

    def test_dataset_with_a_broken_line(self):
        rows = [json.dumps(row) for row in harness.token_rows(5)]
        for line, text in ((1, "{"), (3, '{"input_ids": [1, 2], "labels": [1]}'),
                           (4, '{"input_ids": [1, 2]}'), (5, '{"input_ids": [1, 99999], "labels": [1, 2]}')):
            path = self.dir / "broken.jsonl"
            path.write_text("\n".join(rows[:line - 1] + [text] + rows[line:]) + "\n")
            self.refused(5, [f"dataset broken line {line}"], "dataset", "put", "broken", path)
            self.refused(5, [f"line {line}"], "job", "submit", "--name=x", f"--train={path}")
        self.assertEqual(self.server.json_lines("dataset", "ls"), [])
        self.assert_nothing_started()

    def test_completion_without_a_target_token(self):
        rows = harness.token_rows(3)
        rows[1]["labels"] = [-100] * len(rows[1]["labels"])
        self.refused(5, ["line 2"], "dataset", "put", "untrained", self.write_jsonl("untrained.jsonl", rows))
        self.assertEqual(self.server.json_lines("dataset", "ls"), [])

    def test_hyperparameters(self):
        self.put("good", harness.token_rows(8))
        submit = ["job", "submit", "--name=x", "--train=good"]
        self.refused(5, ["frob_proj"], *submit, "--target_modules=q_proj,frob_proj")
        self.refused(5, ["regex:frob.*"], *submit, "--target_modules=regex:frob.*")
        for flag in ("r=0", "r=-1", "r=100000", "learning_rate=0", "learning_rate=-1e-3", "lora_dropout=1",
                     "num_train_epochs=0", "micro_batch_size=0", "max_seq_length=1", "max_seq_length=100000",
                     "adam_beta1=1", "lr_scheduler_type=frob", "activation_checkpointing=frob", "warmup_ratio=2",
                     "optim=frob"):
            name, value = flag.split("=")
            self.refused(5, [name, value.lstrip("-").split("e")[0]], *submit, f"--{flag}")
        self.refused(5, ["eval"], *submit, "--early_stopping_patience=2")
        self.refused(5, ["bad/name"], "job", "submit", "--name=bad/name", "--train=good")
        self.refused(3, ["nowhere"], "job", "submit", "--name=x", "--train=nowhere")
        self.refused(3, ["nobody"], *submit, "--warm_start=nobody")
        self.assert_nothing_started()

    def test_unknown_adapter(self):
        for command in (["generate", "--ids=[1,2]"], ["score", "--ids=[1,2]"]):
            self.refused(3, ["nobody"], *command, "--adapter=nobody")
            self.refused(3, ["nobody@123456789abc"], *command, "--adapter=nobody@123456789abc")
        for command in (["get", "nobody"], ["rm", "nobody@123456789abc"], ["load", "nobody"],
                        ["export", "nobody", str(self.dir / "out")], ["alias", "live", "nobody"]):
            self.refused(3, ["nobody"], "adapter", *command)
        self.assertFalse((self.dir / "out").exists())
        self.assertEqual(self.server.json_lines("adapter", "aliases"), [])

    def test_prompt_longer_than_the_context(self):
        ids = json.dumps([5] * (harness.GOLDEN_CONTEXT + 88))
        bound, given = harness.GOLDEN_CONTEXT, harness.GOLDEN_CONTEXT + 88
        self.refused(5, [bound, given], "generate", f"--ids={ids}")
        self.refused(5, [bound, given], "score", f"--ids={ids}")

    def test_requests_out_of_range(self):
        generate = ["generate", "--ids=[1,2]"]
        for flag in ("temperature=-1", "top_p=0", "top_p=1.5", "min_p=2", "repetition_penalty=0", "top_k=-1",
                     "presence_penalty=3", "max_tokens=-1", "logprobs=21"):
            self.refused(5, [flag.split("=")[0]], *generate, f"--{flag}")
        self.refused(5, [harness.GOLDEN_VOCAB], "generate", f"--ids=[1,{harness.GOLDEN_VOCAB}]")
        self.refused(5, [], "score", "--ids=[]")

    def test_text_without_a_tokenizer(self):
        self.refused(6, ["tokenizer"], "generate", "--prompt=hello")
        self.refused(6, ["tokenizer"], "score", "--text=hello")
        self.refused(6, ["tokenizer"], "tokenize", "--text=hello")
        self.refused(6, ["tokenizer"], "detokenize", "--ids=[1]")
        # A dataset of text, likewise.
        path = self.write_jsonl("text.jsonl", [{"text": "hello"}])
        result = self.server.run("dataset", "put", "text", path, code=None)
        self.assertIn(result.code, (5, 6))
        self.assertIn("tokenizer", result.err)

    def test_adapters_that_do_not_fit(self):
        good = harness.GOLDEN / "adapter_init"
        bad = self.dir / "bad"
        shutil.copytree(good, bad)
        weights = bad / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-4])
        self.refused(5, ["adapter_model.safetensors"], "adapter", "import", "bad", bad)
        weights.unlink()
        self.refused(3, ["adapter_model.safetensors"], "adapter", "import", "bad", bad)
        shutil.copy(good / "adapter_model.safetensors", weights)
        config = json.loads((good / "adapter_config.json").read_text())
        for change, word in (({"r": 0}, "r"), ({"r": config["r"] + 1}, "lora_A"), ({"use_dora": True}, "use_dora"),
                             ({"target_modules": ["frob_proj"]}, "")):
            (bad / "adapter_config.json").write_text(json.dumps({**config, **change}))
            self.refused(5, [word], "adapter", "import", "bad", bad)
        self.refused(5, ["bad/name"], "adapter", "import", "bad/name", good)
        self.assert_nothing_started()

    def test_adapter_of_another_base_model(self):
        other = harness.ROOT / "tests" / "golden" / "qwen2-bias" / "adapter_init"
        result = self.server.run("adapter", "import", "other", other, code=None)
        self.assertIn(result.code, (5, 6), result.err)
        self.assert_nothing_started()

    def test_jobs_and_datasets_that_are_not_there(self):
        for command in ("get", "watch", "cancel", "checkpoints"):
            self.refused(3, ["job-99"], "job", command, "job-99")
        for command in ("get", "rm", "validate"):
            self.refused(3, ["nowhere"], "dataset", command, "nowhere")


class ConnectionTest(harness.LoradTest):
    def test_no_server(self):
        server = harness.Lorad(harness.GOLDEN, self.dir / "state")
        server.grpc = "127.0.0.1:1"
        server.log_path.write_text("")
        result = server.run("info", code=4)
        self.assertIn("127.0.0.1:1", result.err)
        self.assertIn("hint: start one", result.err)


if __name__ == "__main__":
    unittest.main(verbosity=2)
