#!/usr/bin/env python3
"""Peak bytes as planned from shapes against what training takes, over a grid of shapes and policies.

    tests/bench/reproduce_memory.py [--device=cpu|cuda] [--bench=build/cpu/bench/bench_train] [--quick] [--record=FILE]
    tests/bench/reproduce_memory.py --recorded=FILE [--loractl=build/cpu/bin/loractl]

Each case is a job's own preparation, a warm-up step and a measured one of bench_train. Planned is what
`loractl plan memory` says of the case; measured are the base model's weights, what the ops hold, and the most
that the steps took of the job's block. Prints a markdown table and fails unless every plan is at least the
measured peak and at most 5 % above it. With --recorded the peaks are those that --record kept of a run elsewhere,
and the plans are made now, by loractl."""
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


SETTINGS = ["shape", "base", "batch", "seq", "policy", "optim", "rank", "targets", "dropout"]


def measure(device, bench, quick):
    """What bench_train took and planned, a dictionary a case."""
    command = [bench, f"--device={'cuda:0' if device == 'cuda' else device}", "--steps=1", "--warmup=1",
               "--peak_tflops=1"]
    command += ["--case=" + " ".join(f"{k}={v}" for k, v in case.items()) for case in grid(device, quick)]
    run = subprocess.run(command, capture_output=True, text=True)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    if run.returncode != 0 or not lines:
        sys.exit(f"{run.stderr}\n{[line.get('error') for line in lines]}")
    cases = []
    for line in lines:
        peaks = line["peak_bytes"]
        cases.append({key: line[key] for key in SETTINGS + ["device"]} |
                     {"measured_bytes": peaks["weights"] + peaks["workspace"] + line["arena_peak_bytes"],
                      "device_peak_bytes": line["device_peak_bytes"], "planned_bytes": line["planned_peak_bytes"]})
    return cases


def plan(case, loractl):
    """What loractl says now of a recorded case."""
    flags = [f"--model={case['shape']}", f"--precision={case['base']}",
             f"--mode={'qlora' if case['base'] == 'nf4' else 'lora'}", f"--rank={case['rank']}",
             f"--targets={case['targets']}", f"--batch={case['batch']}", f"--seq={case['seq']}",
             f"--optim={case['optim']}", f"--activations={case['policy']}", "--account=engine", "--device=cuda"]
    flags += ["--dropout"] if case["dropout"] > 0 else []
    run = subprocess.run([loractl, "plan", "memory", "--output=json", *flags], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(run.stderr)
    return int(json.loads(run.stdout)["total_bytes"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bench")
    parser.add_argument("--quick", action="store_true", help="a few cases, for the tests")
    parser.add_argument("--record", help="keep what was measured in this file")
    parser.add_argument("--recorded", help="take what was measured from this file")
    parser.add_argument("--loractl", default=str(ROOT / "build" / "cpu" / "bin" / "loractl"))
    args = parser.parse_args()
    if args.recorded:
        cases = [json.loads(line) for line in pathlib.Path(args.recorded).read_text().splitlines()]
        for case in cases:
            case["planned_bytes"] = plan(case, args.loractl)
    else:
        cases = measure(args.device, args.bench or str(ROOT / "build" / args.device / "bench" / "bench_train"),
                        args.quick)
    if args.record:
        kept = [{key: value for key, value in case.items() if key != "planned_bytes"} for case in cases]
        pathlib.Path(args.record).write_text(
            "".join(json.dumps(case, separators=(",", ":")) + "\n" for case in kept))
    print("| model | base | batch | activations | optimiser | rank, targets | planned MB | measured MB | planned / measured |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in cases:
        planned, measured = case["planned_bytes"], case["measured_bytes"]
        shape = pathlib.Path(case["shape"]).name if "/" in case["shape"] else case["shape"]
        print(f"| {shape} | {case['base']} | {case['batch']} x {case['seq']} | {case['policy']} | {case['optim']} | "
              f"{case['rank']}, {case['targets']} | {planned / 1e6:.2f} | {measured / 1e6:.2f} | "
              f"{planned / measured:.4f} |")
    below = sum(case["planned_bytes"] < case["measured_bytes"] for case in cases)
    worst = max(case["planned_bytes"] / case["measured_bytes"] for case in cases)
    above = max(case["planned_bytes"] - case["measured_bytes"] for case in cases)
    print(f"\n{len(cases)} cases on {cases[0]['device']}: {below} below what was measured, at most "
          f"{100 * (worst - 1):.2f} % ({above} bytes) above")
    sys.exit(below > 0 or worst > 1.05)


if __name__ == "__main__":
    main()
