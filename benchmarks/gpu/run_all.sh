#!/usr/bin/env bash
# Runs every check of a CUDA machine within nine minutes: bash benchmarks/gpu/run_all.sh OUTPUT-FOLDER [PARTS]
# The table names every check that failed, or that the time limit (MOST_SECONDS) stopped or skipped, with its partial
# results. Checks of memory run at the same time, under caps that simulate smaller cards, and with the testbed, so their
# seconds mean nothing unless they ran alone; checks of speed run alone.
# UNSLOTH_SITE is a folder of packages for the check of unsloth, if it cannot be installed with the others.
# REHEARSE=1 runs everything on a CPU with tiny models, before a GPU is paid for; those numbers mean nothing.
set -u
cd "$(dirname "$0")/../.."
out=$(mkdir -p "${1:?the folder for results}" && cd "$1" && pwd)
wanted=${2:-fits memory writing trl backends testbed}
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
python=${PYTHON:-python3}
most=${MOST_SECONDS:-525}
small=() world=(--set schedule.cycles=1 --kill-after 30 40) width=(--width 1024 --layers 8 --prompt-length 2048) trl_length=512
lengths=8192,16384
if [[ -n ${REHEARSE:-} ]]; then
  export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
  small=(--rehearse --size tiny --prompt-length 256 --completion-length 24 --num-generations 4 --rank 4)
  world=(--kill-after 20 --set schedule.cycles=1 --set warmup.judge.max_steps=4 --set warmup.rubric.max_steps=4
    --set evaluation.pairs=8 --set evaluation.vote_pairs=2 --set judge.max_steps=1 --set rubric.max_steps=1)
  width=(--width 64 --layers 1 --prompt-length 128) trl_length=16
  lengths=256,512
fi

wants() { [[ " $wanted " == *" $1 "* ]]; }
seconds() { # what is left of the time, and no more than asked for
  local left=$((most - SECONDS))
  echo $((left < $1 ? left : $1))
}
timed() { # name, seconds at most, where its result is not written by itself, command
  local name=$1 limit said=$3
  limit=$(seconds "$2")
  shift 3
  if ((limit < 30)); then
    echo "{\"failed\": \"no time left of $most s\"}" >"$parts/$name.failed.json"
  else
    timeout -k 5 "$limit" "$@" >"$said" 2>"$parts/$name.err" \
      || echo "{\"failed\": \"ended with $? (124: stopped after $limit s)\"}" >"$parts/$name.failed.json"
  fi
  echo "$SECONDS s $name"
}
check() { # name, seconds at most, options
  local name=$1 limit=$2
  shift 2
  timed "$name" "$limit" "$parts/$name.out" \
    "$python" benchmarks/gpu/checks.py "$@" "${small[@]}" --output "$parts/$name.json"
}
collect() {
  "$python" benchmarks/gpu/table.py "$parts" "$out" "$SECONDS"
  tail -n 40 "$parts"/*.err >"$out/log.txt" 2>/dev/null || :
}

if wants fits || wants memory; then
  check context 60 context
  beside=()
  if [[ -f $parts/context.json ]]; then
    context='import json, sys; print(json.load(open(sys.argv[1]))["context_gib"])'
    beside=(--context "$("$python" -c "$context" "$parts/context.json")")
  fi
fi
if wants fits; then
  check fits-8b-12 220 fits --size 8b --cap 12
  collect
fi
if wants testbed; then
  limit=$(seconds 230)
  OMP_NUM_THREADS=1 timed testbed "$limit" "$parts/testbed.out" "$python" benchmarks/gpu/testbed.py --seeds 101 102 \
    "${world[@]}" --seconds $((limit - 15)) --output "$parts/testbed.json" &
fi
if wants memory; then
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} # each; more would wait for each other
  check longest-8b-24 170 longest --size 8b --cap 24 --lengths "$lengths" "${beside[@]}" &
  check fits-32b-24 170 fits --size 32b --cap 24 --rank 4 --completion-length 512 --stages update,rollout "${beside[@]}" &
  check fits-14b-16 170 fits --size 14b --cap 16 --completion-length 512 --stages update,rollout "${beside[@]}" &
  check exact-1.7b 170 exact --size 1.7b --prompt-length 1024 --completion-length 128 &
  [[ -n ${REHEARSE:-} ]] || unset OMP_NUM_THREADS
fi
wait
collect
if wants writing; then
  check rollout-8b 100 rollout --size 8b --prompt-length 512 --completion-length 96
  check update-8b 100 update --size 8b --runs 1 --completion-length 512
  collect
fi
if wants trl; then
  for verb in update rollout; do
    length=$([[ $verb == update ]] && echo "$trl_length" || echo $((trl_length < 96 ? trl_length : 96)))
    timed "trl-$verb" 70 "$parts/trl-$verb.json" "$python" -m rubric_arm_lite bench "$verb" "${width[@]}" --prompts 2 \
      --runs 2 --gradient-checkpointing --no-memory --json --completion-length "$length"
  done
  collect
fi
if wants backends; then
  check backend-transformers 60 backend --size 0.6b --completion-length 256
  PYTHONPATH="$PYTHONPATH${UNSLOTH_SITE:+:$UNSLOTH_SITE}" \
    check backend-unsloth 60 backend --backend unsloth --size 0.6b --completion-length 256
  collect
fi
