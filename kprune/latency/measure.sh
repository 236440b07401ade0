#!/bin/sh
# Runs LiteRT's benchmark_model on every file in files/, one log for each.
# Files that have a log already are skipped, so it can be stopped and started
# again.
#
# On an Android phone, through adb:
#   BENCHMARK=path/to/benchmark_model sh measure.sh
# (a binary for the phone; it is copied there together with the files)
#
# On the machine that this is started on:
#   LOCAL=path/to/benchmark_model sh measure.sh
#
# More variables, with their defaults:
#   THREADS=1         CPU threads
#   RUNS=50           timed runs of each file, at least
#   MIN_SECS=0.1      seconds of timed runs of each file, at least
#   MAX_SECS=20       and at most
#   ADB=adb           the adb program
#   REMOTE=/data/local/tmp/kprune    folder on the phone
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
threads=${THREADS:-1}
adb=${ADB:-adb}
remote=${REMOTE:-/data/local/tmp/kprune}
logs=$here/logs/threads-$threads
flags="--num_threads=$threads --num_runs=${RUNS:-50} --warmup_runs=5"
flags="$flags --warmup_min_secs=0.02 --min_secs=${MIN_SECS:-0.1}"
flags="$flags --max_secs=${MAX_SECS:-20}"

fail() {
    echo "measure.sh: $*" >&2
    exit 1
}

if [ -n "${LOCAL:-}" ]; then
    [ -x "$LOCAL" ] || fail "LOCAL=$LOCAL is no program that can be run."
    device=$(uname -nm)
elif [ -n "${BENCHMARK:-}" ]; then
    [ -f "$BENCHMARK" ] || fail "BENCHMARK=$BENCHMARK does not exist."
    "$adb" get-state >/dev/null ||
        fail "no phone answers: connect one, allow USB debugging, try again."
    device=$("$adb" shell getprop ro.product.model </dev/null | tr -d '\r')
else
    fail "set BENCHMARK (a phone) or LOCAL (this machine) to benchmark_model."
fi

mkdir -p "$logs"
if [ -f "$logs/device.txt" ] && [ "$(cat "$logs/device.txt")" != "$device" ]
then
    fail "$logs has logs of '$(cat "$logs/device.txt")', but this is" \
        "'$device'. Move them away to measure another device."
fi
echo "$device" >"$logs/device.txt"

if [ -z "${LOCAL:-}" ]; then
    "$adb" shell mkdir -p "$remote" </dev/null
    "$adb" push "$BENCHMARK" "$remote/benchmark_model"
    "$adb" shell chmod 755 "$remote/benchmark_model" </dev/null
    "$adb" push --sync "$here/files" "$remote"
fi

run() {
    # The flags are words of their own.
    # shellcheck disable=SC2086
    if [ -n "${LOCAL:-}" ]; then
        "$LOCAL" "--graph=$here/files/$1" $flags
    else
        # adb shell would read this script's input.
        "$adb" shell "$remote/benchmark_model" "--graph=$remote/files/$1" \
            $flags </dev/null
    fi
}

total=0
measured=0
failed=0
for file in "$here"/files/*.tflite; do
    total=$((total + 1))
    name=$(basename "$file" .tflite)
    log=$logs/$name.log
    if [ -f "$log" ]; then
        continue
    fi
    if run "$name.tflite" >"$log.part" 2>&1 &&
        grep -q 'nference timings in us' "$log.part"
    then
        mv "$log.part" "$log"
        rm -f "$logs/$name.failed"
        measured=$((measured + 1))
        printf '\r%s measured ' "$measured" >&2
    else
        mv "$log.part" "$logs/$name.failed"
        failed=$((failed + 1))
        if [ -z "${LOCAL:-}" ]; then
            "$adb" get-state >/dev/null || fail "the phone is gone; start again."
        fi
    fi
done
printf '\r' >&2
echo "$measured of $total files measured now, $failed failed; logs in $logs"
[ "$failed" -eq 0 ] || fail "see the files that end in .failed in $logs"
