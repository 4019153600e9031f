"""The real lorad and loractl, as processes, for the tests in this folder.

Standard library only. Binaries come from LORAD_BIN_DIR (ctest sets it), else build/cpu/bin.
"""

import json
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("LORAD_BIN_DIR", ROOT / "build" / "cpu" / "bin"))
LORAD = os.environ.get("LORAD_BINARY", str(BIN / "lorad"))
LORACTL = os.environ.get("LORACTL_BINARY", str(BIN / "loractl"))

DEMO = ROOT / "deploy" / "demo" / "base"
DEMO_DATA = ROOT / "deploy" / "demo" / "data"
# Small random weights and two PEFT adapters; no tokenizer, so ids alone.
GOLDEN = ROOT / "tests" / "golden" / "llama-gqa"
GOLDEN_VOCAB = 768
GOLDEN_CONTEXT = 512

START_SECONDS = 60  # to load a model and be ready, on a busy machine
COMMAND_SECONDS = 240  # of one loractl command


class CommandError(AssertionError):
    """loractl ended with another exit code than the test wants."""


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def object(self):
        assert len(self.lines) == 1, f"one object expected: {self.out!r}"
        return self.lines[0]


def environment():
    env = dict(os.environ)
    for name in ("LORAD_SERVER", "LORAD_TOKEN", "http_proxy", "https_proxy"):
        env.pop(name, None)
    return env


def run_locally(*words):
    """loractl without a server; wants exit code 0."""
    process = subprocess.run([LORACTL, *map(str, words)], capture_output=True, text=True, env=environment(),
                             timeout=COMMAND_SECONDS)
    if process.returncode != 0:
        raise CommandError(f"loractl {' '.join(map(str, words))}: exit code {process.returncode}\n{process.stderr}")
    return Result(process.returncode, process.stdout, process.stderr)


class Lorad:
    """One lorad with its state directory. start(), kill() and terminate() may follow each other."""

    def __init__(self, model, state_dir, flags=()):
        self.model, self.state_dir, self.flags = pathlib.Path(model), pathlib.Path(state_dir), list(flags)
        self.listen = self.http_listen = "127.0.0.1:0"
        self.grpc = self.http = self.process = None
        self.clients = []  # loractls that were started and may still run
        self.log_path = self.state_dir.parent / (self.state_dir.name + ".log")

    def command(self):
        return [LORAD, f"--model={self.model}", f"--state_dir={self.state_dir}", f"--listen={self.listen}",
                f"--http_listen={self.http_listen}", *self.flags]

    def start(self):
        """Starts it and waits for its line. After the first time it keeps its ports."""
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, stderr=log, env=environment())
        line = self._ready_line()
        match = re.search(r"^lorad ready\b.* grpc=(\S+) http=(\S+)", line)
        if not match:
            raise AssertionError(f"lorad did not get ready: {line!r}\n{self.log()}")
        self.grpc, self.http = match.groups()
        self.listen, self.http_listen = self.grpc, self.http
        return self

    def _ready_line(self):
        deadline = time.monotonic() + START_SECONDS
        data = b""
        while time.monotonic() < deadline and not data.endswith(b"\n"):
            if select.select([self.process.stdout], [], [], 0.1)[0]:
                piece = os.read(self.process.stdout.fileno(), 4096)
                if not piece:
                    break
                data += piece
        return data.decode()

    def log(self):
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-40:])

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def terminate(self, timeout=60):
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout=60):
        code = self.process.wait(timeout)
        self.process.stdout.close()
        return code

    def running(self):
        return self.process is not None and self.process.poll() is None

    # --- loractl ---

    def popen(self, *words):
        """Starts loractl; the test's end ends it, if nothing else does."""
        client = subprocess.Popen([LORACTL, f"--server={self.grpc}", *map(str, words)], text=True, env=environment(),
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.clients.append(client)
        return client

    def clean_up(self):
        for client in self.clients:
            if client.poll() is None:
                client.kill()
                client.wait()
            for stream in (client.stdout, client.stderr):
                stream.close()
        if self.running():
            self.kill()
        elif self.process is not None:
            self.process.stdout.close()

    def run(self, *words, code=0):
        """Runs loractl and wants the exit code `code` (None: any)."""
        process = self.popen(*words)
        try:
            out, err = process.communicate(timeout=COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise CommandError(f"loractl {' '.join(map(str, words))} took too long\n{err}\n{self.log()}")
        if code is not None and process.returncode != code:
            raise CommandError(f"loractl {' '.join(map(str, words))}: exit code {process.returncode}, not {code}\n"
                               f"{out[-2000:]}\n{err}\nlog:\n{self.log()}")
        return Result(process.returncode, out, err)

    def json(self, *words):
        """The one object that a command prints."""
        return self.run(*words, "--output=json").object

    def json_lines(self, *words):
        return self.run(*words, "--output=json").lines

    def get(self, path, timeout=10):
        """Status and text of an HTTP path."""
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=timeout) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self):
        """{"name{labels}": value} of /metrics."""
        status, text = self.get("/metrics")
        assert status == 200, status
        samples = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                samples[name] = float(value)
        return samples


class LoradTest(unittest.TestCase):
    """Gives each test a directory of its own, and ends every lorad that it started."""

    longMessage = True
    maxDiff = 2000

    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="lorad_e2e_"))
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)

    def lorad(self, model=GOLDEN, name="state", flags=()):
        server = Lorad(model, self.dir / name, flags)
        self.addCleanup(server.clean_up)
        return server.start()

    def write_jsonl(self, name, rows):
        path = self.dir / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def assertSeqWithoutGap(self, events, first=1):
        self.assertEqual([event["seq"] for event in events], list(range(first, first + len(events))))

    def assertSucceeded(self, events):
        self.assertEqual(events[-1]["event"], "state_change", events[-1])
        self.assertEqual(events[-1]["state_change"]["to"], "JOB_STATE_SUCCEEDED", events[-1])

    def wait_for(self, what, condition, timeout=60):
        """The first value of condition() that is true."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            time.sleep(0.02)
        self.fail(f"{what}: not within {timeout} s")


class LineReader:
    """Reads a process's JSON lines (a job's events) on a thread, so that a test can act while they come."""

    def __init__(self, process):
        self.process, self.events = process, []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        for line in self.process.stdout:
            if line.endswith("\n"):  # else it was cut off with the process
                self.events.append(json.loads(line))

    def steps(self):
        return [event for event in list(self.events) if event["event"] == "step"]

    def last_step(self):
        steps = self.steps()
        return steps[-1]["step"] if steps else 0

    def stop(self):
        """Ends the process; the lines that came."""
        self.process.kill()
        self.finish()
        return self.events

    def finish(self, timeout=COMMAND_SECONDS):
        """Exit code and standard error, when it has ended."""
        self._thread.join(timeout)
        return self.process.wait(timeout), self.process.stderr.read()


def token_rows(count, length=24, vocab=GOLDEN_VOCAB):
    """Pre-tokenised samples with a rule to learn: each id is its predecessor plus a step of the sample."""
    rows = []
    for i in range(count):
        start, stride = 3 + 37 * i % (vocab - 3), 1 + i % 5
        ids = [3 + (start + stride * t) % (vocab - 3) for t in range(length)]
        rows.append({"input_ids": ids, "labels": [-100] * 8 + ids[8:]})
    return rows


def prompts(count, vocab=GOLDEN_VOCAB):
    """Prompts of different lengths."""
    return [[3 + (i * 131 + t * (7 + i)) % (vocab - 3) for t in range(4 + i % 13)] for i in range(count)]
