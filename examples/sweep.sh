#!/bin/sh
# A sweep: the same command for many numbers, then their results in order.
#
#   SWARMD_URL=http://127.0.0.1:8710 sh examples/sweep.sh
#
# One call submits the whole array, one id a line; each task finds its number in SWARMD_INDEX. Started again, the
# sweep runs everything again.
set -eu

ids=$(swarmd submit --array 1-5 --name square --tag sweep -- sh -c 'echo $((SWARMD_INDEX * SWARMD_INDEX))')

# `-` takes the ids from standard input; the exit code is 0 only if all of them ended ok.
echo "$ids" | swarmd wait - > /dev/null

for id in $ids; do
    swarmd logs "$id"
done
