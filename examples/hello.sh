#!/bin/sh
# Hello: run a command on some bot, see its output here, and get its exit code.
#
#   SWARMD_URL=http://127.0.0.1:8710 sh examples/hello.sh
#
# It needs a daemon (swarmd serve) and a bot (swarmd bot). `swarmd run` behaves as if the command ran here.
set -eu

swarmd run -- echo "hello from a bot"

# The exit code is the command's own, so it can be used in a script.
if swarmd run -- sh -c 'exit 7'; then code=0; else code=$?; fi
echo "the second command ended with $code"
