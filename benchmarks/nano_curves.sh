#!/bin/sh
# Around the figures of the shipped nano model, all on ColonSim: typed accuracy against the number of procedures
# that a short language stage reads (same frozen tower, same steps), spoken accuracy against the difficulty of
# the scenes, a speech engine that no training heard (Debian's flite), and stage 2 with two further training
# seeds. Needs the finished stages of `make nano` in runs/nano and the data of `make nano-report`. About 80
# minutes on two cores, most of them the seeds; finished parts are kept.
# Pass a part to run it alone: benchmarks/nano_curves.sh size | difficulty | flite | seeds
set -eu
cd "$(dirname "$0")/.."
bin=${SURGVIVQA:-.venv/bin/surgvivqa}
out=runs/curves
part=${1:-all}
export OMP_NUM_THREADS=1

scenes() { # folder, difficulty
  [ -d "$1/speech" ] && return
  $bin sim make "$1" --procedures 8 --clips 12 --seed 9300000 --size 224 --difficulty "$2"
  $bin speech make "$1/out_template.jsonl" "$1/speech" --voice held-out --phrasings held-out --spread
}

if [ "$part" = all ] || [ "$part" = size ]; then
  scenes $out/d0.5 0.5
  for procedures in 5 20 60 160; do
    run=$out/size-$procedures
    mkdir -p "$run"
    [ -d "$run/tower" ] || cp -r runs/nano/vlm/tower "$run/tower"
    [ -f "$run/summary.json" ] || $bin train recipes/nano/vlm.yaml --out "$run" --resume \
      --set procedures=$procedures --set train.steps=300 --set train.rows.batch=8
    [ -d "$run/graft" ] || $bin model graft --vlm "$run/vlm" --audio runs/nano/asr/whisper --out "$run/graft" --max-side 112
    $bin eval run $out/d0.5 --system text-zeroshot --model "$run/graft" --out "$run/pred.jsonl"
  done
  $bin eval score $out/size-*/pred.jsonl --json benchmarks/nano-training-size.json
fi
if [ "$part" = all ] || [ "$part" = difficulty ]; then
  for difficulty in 0.0 0.25 0.5 0.75 1.0; do
    scenes $out/d$difficulty $difficulty
    $bin eval run $out/d$difficulty --system audio --out $out/d$difficulty/pred.jsonl
  done
  $bin eval score $out/d*/pred.jsonl --json benchmarks/nano-difficulty.json
fi
if [ "$part" = all ] || [ "$part" = flite ]; then
  data=$out/flite
  mkdir -p $data
  ln -sfn ../../nano-report/test/frames $data/frames
  cp runs/nano-report/test/video_info.csv runs/nano-report/test/sim.json $data/
  sort -R --random-source=runs/nano-report/test/sim.json runs/nano-report/test/out_template.jsonl | head -500 \
    > $data/out_template.jsonl
  $bin speech make $data/out_template.jsonl $data/speech --engine flite --phrasings held-out --spread \
    --voice slt --voice rms --voice awb --voice kal16
  $bin eval run $data --system audio --out $data/pred.jsonl
  $bin eval score $data/pred.jsonl --json benchmarks/nano-flite.json
fi
one_seed() { # seed; on one thread, so that two of them take both cores
  run=$out/seed-$1 report=runs/nano-report
  [ -f "$run/summary.json" ] || $bin train recipes/nano/finetune.yaml --out "$run" --resume \
    --set seed="$1" --set rows.seed="$1" --set threads=1
  [ -f "$run/bundle/nano.json" ] || $bin train recipes/nano/bundle.yaml --out "$run/bundle" --set tuned="$run"
  $bin eval run $report/eval --system audio --model "$run/bundle" --out "$run/eval.jsonl"
  $bin eval run $report/eval --system audio --model "$run/bundle" --out-of-scope eval --out "$run/eval-oos.jsonl"
  $bin eval calibrate "$run/eval.jsonl" "$run/eval-oos.jsonl" --model "$run/bundle"
  $bin eval run $report/test --system audio --model "$run/bundle" --out "$run/pred.jsonl"
}
if [ "$part" = all ] || [ "$part" = seeds ]; then
  one_seed 1 &
  first=$!
  one_seed 2 &
  second=$!
  wait $first # by number: without one, a failure would go unnoticed
  wait $second
  $bin eval score $out/seed-*/pred.jsonl --train runs/nano-report/train/in_template.jsonl \
    --json benchmarks/nano-seeds.json
fi
