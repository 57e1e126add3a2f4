#!/usr/bin/env bash
# Every check of a CUDA machine, meant to take nine minutes on a card of 80 GiB: bash benchmarks/gpu/run_all.sh OUTPUT-FOLDER
# Checks of memory run beside each other under caps that stand for smaller cards, and beside the testbed, so their
# seconds mean nothing unless they ran alone; those of speed run alone. What fails says so in the table and the rest
# goes on.
set -u
cd "$(dirname "$0")/../.."
out=$(mkdir -p "${1:?the folder for results}" && cd "$1" && pwd)
parts=$(mktemp -d)
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
python=${PYTHON:-python3}

check() { # name, seconds at most, options
  local name=$1 limit=$2
  shift 2
  timeout "$limit" "$python" benchmarks/gpu/checks.py "$@" --output "$parts/$name.json" >"$parts/$name.out" 2>"$parts/$name.err" \
    || echo "{\"command\": \"$*\", \"failed\": \"ended with $?\"}" >"$parts/$name.failed.json"
  echo "$(date +%T) $name"
}
collect() {
  "$python" benchmarks/gpu/table.py "$parts" "$out"
  tail -n 40 "$parts"/*.err >"$out/log.txt" 2>/dev/null
}

wanted=${2:-fits memory writing trl testbed}
if [[ $wanted == *fits* || $wanted == *memory* ]]; then
  check context 60 context
  context=$("$python" -c "import json,sys; print(json.load(open(sys.argv[1]))['context_gib'])" "$parts/context.json")
fi
if [[ $wanted == *fits* ]]; then
  check fits-8b-12 220 fits --size 8b --cap 12
  collect
fi
if [[ $wanted == *testbed* ]]; then
  OMP_NUM_THREADS=1 timeout 260 "$python" benchmarks/gpu/testbed.py --seeds 101 102 --set schedule.cycles=1 \
    --kill-after 30 40 --seconds "${TESTBED_SECONDS:-220}" --output "$parts/testbed.json" \
    >"$parts/testbed.out" 2>"$parts/testbed.err" &
fi
if [[ $wanted == *memory* ]]; then
  beside=(--context "$context")
  export OMP_NUM_THREADS=4 # each; more would wait for each other
  check longest-8b-24 170 longest --size 8b --cap 24 --lengths 8192,16384 "${beside[@]}" &
  check fits-32b-24 170 fits --size 32b --cap 24 --rank 4 --completion-length 512 --stages update,rollout "${beside[@]}" &
  check fits-14b-16 170 fits --size 14b --cap 16 --completion-length 512 --stages update,rollout "${beside[@]}" &
  check exact-1.7b 170 exact --size 1.7b --prompt-length 1024 --completion-length 128 &
  unset OMP_NUM_THREADS
fi
wait
collect
if [[ $wanted == *writing* ]]; then
  check rollout-8b 100 rollout --size 8b --prompt-length 512 --completion-length 96
  check update-8b 100 update --size 8b --runs 1 --completion-length 512
  collect
fi
if [[ $wanted == *trl* ]]; then
  size=(--width 1024 --layers 8 --prompt-length 2048 --prompts 2 --runs 2 --gradient-checkpointing --no-memory --json)
  for verb in update rollout; do
    length=$([[ $verb == update ]] && echo 512 || echo 96)
    timeout 70 "$python" -m rubric_arm_lite bench "$verb" "${size[@]}" --completion-length "$length" \
      >"$parts/trl-$verb.json" 2>"$parts/trl-$verb.err"
    echo "$(date +%T) trl-$verb"
    collect
  done
fi
