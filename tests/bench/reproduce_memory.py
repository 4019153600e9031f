#!/usr/bin/env python3
"""Peak bytes as planned from shapes against what training takes, over a grid of shapes and policies.

    tests/bench/reproduce_memory.py [--device=cpu|cuda] [--bench=build/cpu/bench/bench_train] [--quick]

Each case is a job's own preparation, a warm-up step and a measured one of bench_train. Planned is what
`loractl plan memory` says of the case; measured are the base model's weights, what the ops hold, and the most
that the steps took of the job's block. Prints a markdown table and fails unless every plan is at least the
measured peak and at most 5 % above it."""
import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
POLICIES = ["none", "every_layer", "every_k:2", "sqrt", "offload", "auto"]
OPTIMS = ["adamw_torch", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"]


def grid(device, quick):
    """Lists of settings, by shape so that cases share their model."""
    if device == "cpu":
        shapes = [("tiny", [(1, 32), (4, 128)]), (str(ROOT / "deploy/demo/base"), [(2, 64), (1, 512)])]
    else:
        shapes = [("llama-3.2-1b", [(4, 512), (1, 4096)]), ("llama-3-8b", [(1, 512), (4, 2048)])]
    cases = []
    for shape, batches in shapes:
        for base in ("nf4", "bf16"):
            for batch, seq in batches:
                for i, policy in enumerate(POLICIES):
                    cases.append(dict(shape=shape, base=base, batch=batch, seq=seq, policy=policy,
                                      optim=OPTIMS[(i + batch) % len(OPTIMS)], rank=[4, 16, 64][i % 3],
                                      targets=["all-linear", "q_proj,v_proj"][i % 2],
                                      dropout=[0, 0.1][(i // 2) % 2]))
    return cases[::5] if quick else cases


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bench")
    parser.add_argument("--quick", action="store_true", help="a few cases, for the tests")
    args = parser.parse_args()
    bench = args.bench or str(ROOT / "build" / args.device / "bench" / "bench_train")
    command = [bench, f"--device={args.device}", "--steps=1", "--warmup=1", "--peak_tflops=1"]
    command += ["--case=" + " ".join(f"{k}={v}" for k, v in case.items()) for case in grid(args.device, args.quick)]
    run = subprocess.run(command, capture_output=True, text=True)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    if run.returncode != 0 or not lines:
        sys.exit(f"{run.stderr}\n{[line.get('error') for line in lines]}")
    print("| model | base | batch | activations | optimiser | rank, targets | planned MB | measured MB | planned / measured |")
    print("|---|---|---|---|---|---|---|---|---|")
    worst, below = 0.0, 0
    for line in lines:
        peaks = line["peak_bytes"]
        measured = peaks["weights"] + peaks["workspace"] + line["arena_peak_bytes"]
        planned = line["planned_peak_bytes"]
        ratio = planned / measured
        worst, below = max(worst, ratio), below + (planned < measured)
        shape = pathlib.Path(line["shape"]).name if "/" in line["shape"] else line["shape"]
        print(f"| {shape} | {line['base']} | {line['batch']} x {line['seq']} | {line['policy']} | {line['optim']} | "
              f"{line['rank']}, {line['targets']} | {planned / 1e6:.2f} | {measured / 1e6:.2f} | {ratio:.4f} |")
    print(f"\n{len(lines)} cases on {lines[0]['device']}: {below} below what was measured, at most "
          f"{100 * (worst - 1):.2f} % above")
    sys.exit(below > 0 or worst > 1.05)


if __name__ == "__main__":
    main()
