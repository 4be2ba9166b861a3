#!/bin/sh
# The measurements of docs/performance.md, on an otherwise idle machine with two cores and 12 GiB of memory:
# about 20 minutes. Results go to docs/performance/; the last line writes tables and plots into the page.
# Pass a part to run it alone: benchmarks/protocol.sh nano | slice | report
set -eu
cd "$(dirname "$0")/.."
bin=.venv/bin/surgvivqa
out=docs/performance
part=${1:-all}

if [ "$part" = all ] || [ "$part" = nano ]; then
  $bin bench latency --size nano --pairs 200 --warm-up 20 --minutes 9 --threads 2 --json $out/latency-nano.json
  $bin bench growth --size nano --pairs 9 --threads 2 --json $out/growth-nano.json
  $bin bench throughput --size nano --pairs 10 --threads 2 --json $out/throughput-nano.json
  $bin bench agreement --questions 300 --threads 2 --json $out/agreement-nano.json
fi
if [ "$part" = all ] || [ "$part" = slice ]; then
  $bin bench latency --size slice --pairs 7 --warm-up 1 --minutes 6 --peers seed --threads 2 \
    --json $out/latency-slice.json
  $bin bench growth --size slice --pairs 3 --axes frames --threads 2 --json $out/growth-slice.json
fi
$bin bench report $out --page docs/performance.md
