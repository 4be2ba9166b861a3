#!/bin/sh
# The measurements of docs/performance.md, on an otherwise idle machine with two cores and 12 GiB of memory:
# about 20 minutes. Results go to docs/performance/; the last line writes tables and plots into the page.
# Pass a part to run it alone: benchmarks/protocol.sh nano | slice | report
# `benchmarks/protocol.sh rehearse` runs every nano command and the report with the smallest counts and keeps
# nothing: its figures mean nothing, it shows that the commands work.
set -eu
cd "$(dirname "$0")/.."
bin=.venv/bin/surgvivqa
out=docs/performance
page=docs/performance.md
part=${1:-all}
threads=2 pairs=200 warm_up=20 rounds=9 batches=10 questions=1500

case "$part" in
  all | nano | slice | report) ;;
  rehearse)
    threads=1 pairs=2 warm_up=1 rounds=1 batches=1 questions=2
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
    cp "$page" "$out/page.md"
    page=$out/page.md
    ;;
  *)
    echo "$part: no such part; use nano, slice, report or rehearse" >&2
    exit 2
    ;;
esac

if [ "$part" != slice ] && [ "$part" != report ]; then
  $bin bench latency --size nano --pairs $pairs --warm-up $warm_up --minutes 9 --threads $threads \
    --json "$out/latency-nano.json"
  $bin bench growth --size nano --pairs $rounds --threads $threads --json "$out/growth-nano.json"
  $bin bench throughput --size nano --pairs $batches --threads $threads --json "$out/throughput-nano.json"
  $bin bench agreement --questions $questions --threads $threads --json "$out/agreement-nano.json"
fi
if [ "$part" = all ] || [ "$part" = slice ]; then
  $bin bench latency --size slice --pairs 15 --warm-up 1 --minutes 9 --peers seed --threads 2 \
    --json $out/latency-slice.json
  $bin bench growth --size slice --pairs 3 --axes frames --threads 2 --json $out/growth-slice.json
fi
$bin bench report "$out" --page "$page"
