#!/usr/bin/env python3
"""Reads every #include of the tree and holds it against the layers of the design.

    core <- device <- ops <- {quant, kv, lora, model} <- {infer, train} <- sched <- engine.h <- server
    io <- {lora, model, train};  plan stands on core and the model's config alone
    proto <- server, client;  proto/planner stands on plan;  nobody includes tests

Run without arguments for the tree; --self-test checks that a wrong include is found.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')

BASE = ["engine/core/"]
DEVICE = BASE + ["engine/device/"]
OPS = DEVICE + ["engine/ops/"]
IO = BASE + ["engine/io/"]
QUANT = OPS + ["engine/quant/"]
PLAN = BASE + ["engine/plan/", "engine/model/config.h", "engine/model/modules.h"]
MODEL = QUANT + IO + ["engine/model/"]
LORA = MODEL + ["engine/lora/"]
KV = OPS + ["engine/kv/"]
INFER = LORA + KV + ["engine/infer/"]
TRAIN = LORA + PLAN + ["engine/train/"]
SCHED = INFER + TRAIN + ["engine/sched/"]

# The first prefix that a file's path starts with gives what it may include of the project.
ALLOWED = [
    ("engine/core/", BASE),
    ("engine/device/cpu/", OPS),
    ("engine/device/cuda/", OPS),
    ("engine/device/", DEVICE),
    ("engine/ops/", OPS),
    ("engine/quant/", QUANT),
    ("engine/io/", IO),
    ("engine/kv/", KV),
    ("engine/plan/", PLAN),
    ("engine/model/", MODEL),
    ("engine/lora/", LORA),
    ("engine/infer/", INFER),
    ("engine/train/", TRAIN),
    ("engine/sched/", SCHED),
    ("engine/engine.h", BASE + ["engine/device/memory.h", "engine/engine_observer.h", "engine/infer/request.h",
                                "engine/train/spec.h"]),
    ("engine/", SCHED + ["engine/engine"]),
    ("proto/planner/", PLAN + ["proto/planner/", "lorad/v1/"]),
    ("server/", BASE + ["engine/io/", "engine/plan/", "engine/engine.h", "proto/planner/", "server/", "lorad/v1/",
                        "google/rpc/"]),
    ("client/", BASE + ["engine/io/", "engine/plan/", "proto/planner/", "client/", "lorad/v1/", "google/rpc/"]),
]
# Third-party headers and the only folders that may include them.
CONFINED = [
    (re.compile(r"^(cuda|cublas|cudnn|nccl)"), ["engine/device/cuda/", "engine/ops/cuda/", "tests/"]),
    (re.compile(r"^prometheus/"), ["server/metrics/", "tests/"]),
    (re.compile(r"^sqlite3\.h"), ["server/store/", "tests/"]),
    (re.compile(r"^(grpc|grpcpp|google/protobuf)"), ["server/", "client/", "proto/", "tests/"]),
    (re.compile(r"^absl/flags/"), ["server/", "client/", "tests/"]),
    (re.compile(r"^httplib\.h"), ["server/http/", "tests/"]),
    (re.compile(r"^nlopt\.h"), ["engine/plan/"]),
]
PROJECT = ("engine/", "server/", "client/", "proto/", "lorad/v1/", "google/rpc/", "tests/")


def violation(path, include):
    """Why `path` may not include `include`, or None."""
    for pattern, folders in CONFINED:
        if pattern.match(include) and not path.startswith(tuple(folders)):
            return f"only {', '.join(folders)} may include it"
    if path.startswith("tests/"):
        return None
    if path.endswith((".cu", ".cuh")) and include.startswith("absl/"):
        return "no Abseil in CUDA sources"
    if not include.startswith(PROJECT):
        return None
    for prefix, allowed in ALLOWED:
        if path.startswith(prefix):
            if include.startswith(tuple(allowed)):
                return None
            return f"files in {prefix} may include {', '.join(allowed)}"
    return "the file is in no layer that the design names"


def check_tree():
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.h", "*.cc", "*.cu", "*.cuh"],
                           cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    faults, includes = [], 0
    for path in files:
        if not (ROOT / path).exists():
            continue
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            includes += 1
            reason = violation(path, match.group(2))
            if reason:
                faults.append(f"{path}:{number}: {match.group(2)}: {reason}")
    print(f"{includes} includes in {len(files)} files read, {len(faults)} against the layers")
    print("\n".join(faults))
    return 1 if faults or includes == 0 else 0


def self_test():
    wrong = [
        ("engine/core/shape.h", "engine/ops/ops.h"),
        ("engine/ops/cpu/linear.cc", "engine/quant/quant.h"),
        ("engine/model/layer.cc", "engine/lora/adapter.h"),
        ("engine/infer/sampler.cc", "engine/sched/scheduler.h"),
        ("engine/plan/memory.h", "engine/model/layer.h"),
        ("engine/engine.h", "engine/sched/scheduler.h"),
        ("server/rpc/job_service.cc", "engine/train/job.h"),
        ("server/rpc/job_service.cc", "prometheus/counter.h"),
        ("server/jobs/manager.cc", "sqlite3.h"),
        ("engine/engine.cc", "grpcpp/grpcpp.h"),
        ("engine/ops/cuda/norm.cu", "absl/status/status.h"),
        ("engine/model/loader.cc", "cuda_runtime_api.h"),
        ("engine/model/loader.cc", "tests/support/golden.h"),
        ("client/client.cc", "server/app.h"),
    ]
    missed = [pair for pair in wrong if violation(*pair) is None]
    right = [("engine/model/layer.cc", "engine/ops/ops.h"), ("server/app.cc", "engine/engine.h")]
    refused = [pair for pair in right if violation(*pair) is not None]
    print(f"{len(wrong) - len(missed)} of {len(wrong)} wrong includes found; wrongly refused: {refused}; missed: {missed}")
    return 1 if missed or refused else 0


if __name__ == "__main__":
    sys.exit(self_test() if "--self-test" in sys.argv else check_tree())
