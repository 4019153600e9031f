#!/usr/bin/env python3
"""The packaged Prometheus scrapes a live lorad; every query of the dashboards and rules must answer."""

import json
import math
import re
import shutil
import socket
import subprocess
import threading
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

import harness

DEPLOY = harness.ROOT / "deploy"
KEYWORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "offset", "bool"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def dashboard_queries():
    """(dashboard, panel, expression) of every panel, also inside rows."""
    queries = []
    for path in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json")):
        panels = list(json.loads(path.read_text())["panels"])
        while panels:
            panel = panels.pop(0)
            panels += panel.get("panels") or []
            for target in panel.get("targets", []):
                queries.append((path.name, panel["title"], target["expr"]))
    return queries


def variables_resolved(expression):
    """What Grafana would put in for its variables. The window reaches back to before the first scrape."""
    for name, value in (("$__rate_interval", "5m"), ("$__interval", "5m"), ("$__range", "5m"), ("$instance", ".*")):
        expression = expression.replace(name, value).replace("${" + name[1:] + "}", value)
    return expression


def metric_names(expression):
    """Names of series in an expression: words that are no function, keyword, label or number."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    words = re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)
    return set(words) - KEYWORDS


class Prometheus:
    def __init__(self, directory, target):
        self.address = f"127.0.0.1:{free_port()}"
        shutil.copytree(DEPLOY / "prometheus" / "rules", directory / "rules")
        config = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
        config, targets = re.subn(r"targets: \[[^\]]*\]", f'targets: ["{target}"]', config)
        config = re.sub(r"(scrape_interval|evaluation_interval): \w+", r"\1: 1s", config)
        assert targets == 1, "the scrape config has one target"
        (directory / "prometheus.yml").write_text(config)
        with open(directory / "prometheus.log", "wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={directory / 'prometheus.yml'}",
                 f"--storage.tsdb.path={directory / 'tsdb'}", f"--web.listen-address={self.address}"],
                stdout=subprocess.DEVNULL, stderr=log)

    def get(self, path, **parameters):
        url = f"http://{self.address}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def query(self, expression):
        """The values of an instant query; an error is raised with Prometheus' own words."""
        reply = self.get("/api/v1/query", query=expression)
        if reply["status"] != "success":
            raise AssertionError(f"{expression}: {reply.get('error')}")
        return [float(series["value"][1]) for series in reply["data"]["result"]]

    def ready(self):
        try:
            return bool(self.query('up{job="lorad"} == 1'))
        except (OSError, ValueError, AssertionError):
            return False

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


class PrometheusTest(harness.LoradTest):
    def setUp(self):
        super().setUp()
        if not shutil.which("prometheus"):
            self.skipTest("the package prometheus is not installed")
        self.server = self.lorad()
        directory = self.dir / "prometheus"
        directory.mkdir()
        self.prometheus = Prometheus(directory, self.server.http)
        self.addCleanup(self.prometheus.stop)
        self.wait_for("the first scrape", self.prometheus.ready)
        self.make_traffic()

    def make_traffic(self):
        """A job, and requests of every kind beside it, one of them wrong."""
        server = self.server
        train = self.write_jsonl("train.jsonl", harness.token_rows(64))
        held_out = self.write_jsonl("eval.jsonl", harness.token_rows(8, length=20))
        for name in ("init", "step8"):
            server.run("adapter", "import", name, harness.GOLDEN / f"adapter_{name}")
        requests = [{"ids": ids, "adapter": ["", "init", "live"][i % 3]} for i, ids in enumerate(harness.prompts(12))]
        path = self.write_jsonl("requests.jsonl", requests)
        job = server.json("job", "submit", "--name=x", f"--train={train}", f"--eval={held_out}", "--max_steps=100000",
                          "--eval_steps=5", "--save_steps=20", "--packing=false", "--micro_batch_size=2", "--r=4")
        begun = time.monotonic()
        while time.monotonic() - begun < 6:  # several scrapes
            for version in ("init", "step8"):
                server.run("adapter", "alias", "live", version)
                server.run("generate", f"--jsonl={path}", "--max_tokens=8", "--ignore_eos=true")
            server.run("score", "--ids=[1,2,3]")
            server.run("generate", "--ids=[1]", "--adapter=nobody", code=3)
        self.wait_for("an evaluation", lambda: server.json("job", "get", job["job_id"]).get("last_eval"))
        time.sleep(2.5)  # the last of it is scraped twice

    def test_every_query_answers(self):
        with self.subTest("configuration"):
            check = subprocess.run(["promtool", "check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")],
                                   capture_output=True, text=True)
            self.assertEqual(check.returncode, 0, check.stdout + check.stderr)
        queries = dashboard_queries()
        self.assertGreater(len(queries), 20)
        for dashboard, panel, expression in queries:
            with self.subTest(dashboard=dashboard, panel=panel, expression=expression):
                values = self.prometheus.query(variables_resolved(expression))
                self.assertTrue([value for value in values if not math.isnan(value)], f"no value: {values}")
        self.check_rules()
        print(f"{len(queries)} dashboard queries answered")

    def check_rules(self):
        """Each rule has been evaluated without error, and every series that it names is there."""
        groups = self.prometheus.get("/api/v1/rules")["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        written = sum(text.count("- alert:") + text.count("- record:")
                      for text in (path.read_text() for path in (DEPLOY / "prometheus" / "rules").glob("*.yml")))
        self.assertEqual(len(rules), written)
        for rule in rules:
            with self.subTest(rule=rule["name"]):
                self.assertEqual((rule["health"], rule.get("lastError", "")), ("ok", ""))
                self.prometheus.query(rule["query"])
                names = metric_names(rule["query"])
                self.assertTrue(names, rule["query"])
                for name in names:
                    self.assertTrue(self.prometheus.query(f"count({name})"), f"{name} has no series")
        firing = [rule["name"] for rule in rules if rule.get("state") == "firing"]
        self.assertEqual(firing, [], "an alert fires on a healthy server")


class ExpressionTest(unittest.TestCase):
    def test_the_names_of_an_expression_are_found(self):
        expression = 'sum by (a) (rate(x_total{code=~"y|z"}[5m])) / on (b) q_z > 0.01 and time() - t_s{c="d"} > 1e9'
        self.assertEqual(metric_names(expression), {"x_total", "q_z", "t_s"})

    def test_variables_are_put_in(self):
        self.assertEqual(variables_resolved('rate(x{instance=~"$instance"}[$__rate_interval])'),
                         'rate(x{instance=~".*"}[5m])')


if __name__ == "__main__":
    unittest.main(verbosity=2)
