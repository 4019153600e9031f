#!/usr/bin/env bash
# From a clone to the whole purpose of lorad on one machine: installs, builds, serves a base model in
# 4 bits, shows it failing a task, fine-tunes an adapter, swaps it in, shows it succeeding.
#   deploy/quickstart.sh          stops what it started
#   deploy/quickstart.sh --keep   leaves lorad running
#   deploy/quickstart.sh --task=tickets    the other demo task (default: sql)
#   deploy/quickstart.sh --bin=DIR         lorad and loractl from DIR: nothing is installed or built
# Safe to run again: what is done is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

keep=0 task=sql bin=
while [ $# -gt 0 ]; do
  case "$1" in
    --keep) keep=1 ;;
    --task=sql | --task=tickets) task="${1#--task=}" ;;
    --bin=?*) bin=$(cd "${1#--bin=}" && pwd) ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "error: unknown option $1; see $0 --help" >&2; exit 2 ;;
  esac
  shift
done
data=deploy/demo/data
started=$SECONDS
step() { printf '\n\033[1m== %s\033[0m  (%d s)\n' "$1" $((SECONDS - started)); }

if [ -z "$bin" ]; then
  step "installing packages"
  ./deploy/install_packages.sh demo

  preset=cpu
  if command -v nvcc >/dev/null && nvidia-smi -L >/dev/null 2>&1; then preset=cuda; fi
  step "building the preset $preset"
  cmake --preset "$preset" -DLORAD_BUILD_TESTS=OFF >/dev/null
  cmake --build --preset "$preset" --target lorad loractl -j"$(nproc)" | tail -n 1
  bin=$PWD/build/$preset/bin
fi
for program in lorad loractl; do
  [ -x "$bin/$program" ] || { echo "error: there is no program $bin/$program; --bin names the folder of both" >&2; exit 1; }
done

step "starting lorad on the demo model"
state=${LORAD_QUICKSTART_STATE:-$PWD/build/quickstart}
mkdir -p "$state"
log=$state/lorad.log
"$bin/lorad" --model=deploy/demo/base --state_dir="$state/state" \
  --listen=127.0.0.1:0 --http_listen=127.0.0.1:0 >"$state/ready" 2>"$log" &
lorad_pid=$!
stop() {
  [ "$keep" = 1 ] && [ "${finished:-0}" = 1 ] && return
  kill "$lorad_pid" 2>/dev/null && wait "$lorad_pid" || true
}
trap stop EXIT
for _ in $(seq 300); do
  grep -q '^lorad ready' "$state/ready" && break
  kill -0 "$lorad_pid" 2>/dev/null || { echo "error: lorad did not start:" >&2; cat "$log" >&2; exit 1; }
  sleep 0.1
done
grep '^lorad ready' "$state/ready" || { echo "error: lorad was not ready after 30 s; its log: $log" >&2; exit 1; }
LORAD_SERVER=$(sed -n 's/^lorad ready.* grpc=\([^ ]*\).*/\1/p' "$state/ready")
http=$(sed -n 's/^lorad ready.* http=\([^ ]*\).*/\1/p' "$state/ready")
export LORAD_SERVER
loractl() { "$bin/loractl" "$@"; }
loractl info

# answers MODEL_OPTION...: greedy answers to the eval set's prompts, one JSON object a line
answers() { loractl generate "$@" --jsonl="$data/${task}_eval.jsonl" --temperature=0 --max_tokens=64 --output=json; }
# Of the eval set and the answers, line by line: how many are equal, and the first three.
compare='def trim: sub("^\\s+"; "") | sub("\\s+$"; "");
  [range($want | length) as $i | {prompt: $want[$i].prompt, want: ($want[$i].completion | trim),
   got: ($got[$i].text | trim)}]'
score() {
  jq -rn --slurpfile want "$data/${task}_eval.jsonl" --slurpfile got "$1" "$compare"' |
    (map(select(.want == .got)) | length) as $right | "\($right) of \(length) (\(100 * $right / length | floor) %)"'
}
show() {
  jq -rn --slurpfile want "$data/${task}_eval.jsonl" --slurpfile got "$1" "$compare"' |
    .[0:3][] | "prompt:   \(.prompt | tojson)\nanswer:   \(.got | tojson)\nexpected: \(.want | tojson)\n"'
}

step "the base model on three prompts of the eval set, and its exact match on all"
answers >"$state/base.jsonl"
show "$state/base.jsonl"
before=$(score "$state/base.jsonl")
echo "exact match before: $before"

step "fine-tuning an adapter ($task)"
training_started=$SECONDS
# The settings were found in deploy/demo/README.md.
mapfile -t settings < <(grep -v '^#' "deploy/demo/$task.flags")
loractl job submit --name="demo-$task" --train="$data/${task}_train.jsonl" --eval="$data/${task}_eval.jsonl" \
  "${settings[@]}" --wait
training_seconds=$((SECONDS - training_started))

step "the alias assistant now points to the new adapter: no restart"
loractl adapter alias assistant "demo-$task"
answers --adapter=assistant >"$state/adapter.jsonl"
show "$state/adapter.jsonl"
after=$(score "$state/adapter.jsonl")
echo "exact match: $before before, $after after ($training_seconds s of fine-tuning, $((SECONDS - started)) s in all)"

finished=1
step "metrics for Prometheus"
echo "http://$http/metrics"
curl -fsS "http://$http/metrics" 2>/dev/null | grep -E '^lorad_(training_loss|training_tokens_total|inference_generated_tokens_total)' || true
cat <<TXT

Next:
  export LORAD_SERVER=$LORAD_SERVER PATH=$bin:\$PATH
  loractl generate --adapter=assistant --prompt='...'
  loractl job ls;  loractl adapter ls;  loractl top
  loractl adapter export demo-$task ./demo-$task      # a PEFT directory
  docker compose -f deploy/compose.yaml up --build    # with Prometheus and Grafana
TXT
if [ "$keep" = 1 ]; then
  echo "lorad goes on (pid $lorad_pid); stop it with: kill $lorad_pid"
else
  echo "lorad is being stopped; --keep leaves it running."
fi
