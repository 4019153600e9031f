#!/usr/bin/env python3
"""scaling_family.py on a few documents: the points are there, counted right, and more tokens give less loss.

Needs the Python of tests/interop/make_venv.sh (LORAD_INTEROP_PYTHON); skipped without.
"""

import csv
import math
import os
import pathlib
import subprocess
import tempfile
import unittest

import scaling_family

SCRIPT = pathlib.Path(scaling_family.__file__)
PYTHON = os.environ.get("LORAD_INTEROP_PYTHON")
VOCAB = 320


@unittest.skipUnless(PYTHON, "LORAD_INTEROP_PYTHON is not set; tests/interop/make_venv.sh DIR installs it")
class ScalingFamilyTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.out = self.folder / "points.csv"

    def run_script(self, *flags):
        return subprocess.run(
            [PYTHON, SCRIPT, f"--out={self.out}", f"--work={self.folder / 'work'}", "--documents=300",
             "--held_out_documents=20", "--tokenizer_documents=100", f"--vocab={VOCAB}", "--context=32", *flags],
            capture_output=True, text=True, timeout=200)

    def points(self, *flags):
        process = self.run_script(*flags)
        self.assertEqual(process.returncode, 0, process.stderr)
        with self.out.open(newline="") as file:
            return list(csv.DictReader(file))

    def test_points(self):
        rows = self.points("--hidden", "32", "64", "--tokens", "1280", "25600")
        self.assertEqual(len(rows), 4)
        compute = [int(row["compute"]) for row in rows]
        self.assertEqual(compute, sorted(compute))
        for row in rows:
            hidden, parameters = int(row["hidden"]), int(row["parameters"])
            self.assertEqual(int(row["compute"]), 6 * parameters * int(row["tokens"]))
            self.assertEqual(parameters - int(row["parameters_without_embeddings"]), VOCAB * hidden)
            # Two layers: q, o and half as much for k and v; three matrices of the MLP; the norms.
            layer = 3 * hidden**2 + 3 * hidden * (hidden * 11 // 4) + 2 * hidden
            self.assertEqual(int(row["parameters_without_embeddings"]), 2 * layer + hidden)
            self.assertEqual(int(row["steps"]) * 4 * 32, int(row["tokens"]))
        losses = {(row["hidden"], row["tokens"]): float(row["loss"]) for row in rows}
        for hidden in ("32", "64"):
            self.assertLess(losses[hidden, "25600"], losses[hidden, "1280"] - 0.1)
            self.assertLess(losses[hidden, "25600"], math.log(VOCAB) - 0.3)
        self.assertEqual(self.points("--hidden", "32", "--tokens", "1280"), rows)  # not run again

    def test_a_budget_below_a_step_is_refused(self):
        process = self.run_script("--tokens", "100")
        self.assertEqual(process.returncode, 2)
        self.assertIn("--tokens has 100; a step alone takes 128", process.stderr)
        self.assertFalse(self.out.exists())


if __name__ == "__main__":
    unittest.main()
