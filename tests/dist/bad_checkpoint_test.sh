#!/usr/bin/env bash
# Checkpoints that are not what they should be, and places that cannot be written: nothing is lost, the error says what, nothing hangs.
set -uo pipefail
# shellcheck source=tests/dist/cli.sh
source "$(dirname "${BASH_SOURCE[0]}")/cli.sh"
job_seconds=20
write_text "$scratch/text"
moe_config "$scratch/moe.textproto" "$scratch/text"
plain=(--set optim.schedule.constant="{}" --set optim.schedule.warmup_steps=0)
train=(train "$scratch/moe.textproto" "${plain[@]}")

# errors: the lines of the last job that are errors.
errors() { grep -cE '^error: ' "$scratch/out"; }
# refused WHAT PATTERN: the last job failed with one error, which matches.
refused() {
  [[ $code != 0 && $code != 110 ]] || fail "$1: exit code $code"
  expect "errors ($1)" "$(errors)" 1
  grep -qE "^error: .*($2)" "$scratch/out" || fail "$1: no error matches '$2'"
  ((failures == 0)) || show "$scratch/out"
}
# copy FROM: a copy of a run, in $scratch/run.
copy() { rm -rf "$scratch/run" && cp -r "$1" "$scratch/run"; }
shard() { echo "$scratch/run/checkpoints/step-$1/rank-${2:-0}.safetensors"; }
flip_byte() { printf "$(printf '\\x%02x' $((0x$(xxd -s "$2" -l 1 -p "$1" 2> /dev/null || od -An -tx1 -j "$2" -N 1 "$1" | tr -d ' ') ^ 64)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }
# resumes_at STEP WHAT: the run in $scratch/run goes on from that checkpoint and finishes.
resumes_at() {
  job 2 "${train[@]}" --run-dir "$scratch/run" --resume --set trainer.steps=6
  expect "exit code ($2)" "$code" 0
  grep -q "resumed from .*step-$1 " "$scratch/out" || fail "$2: not resumed at step $1"
  ((failures == 0)) || show "$scratch/out"
}

job 2 "${train[@]}" --run-dir "$scratch/base" --set trainer.steps=4 --set checkpoint.every=2
expect "exit code of the base run" "$code" 0
expect "its checkpoints" "$(checkpoints_of "$scratch/base" | xargs)" "2 4"

# Damage: named, and the older checkpoint is taken.
copy "$scratch/base"
size=$(stat -c %s "$(shard 4 1)")
truncate -s $((size - 100)) "$(shard 4 1)"
resumes_at 2 "truncated shard"
grep -q "rank-1.safetensors" "$scratch/out" || fail "the truncated file is not named"
copy "$scratch/base"
flip_byte "$(shard 4)" $((size / 2))
resumes_at 2 "flipped bit"
grep -q "rank-0.safetensors" "$scratch/out" || fail "the file with the flipped bit is not named"
copy "$scratch/base"
flip_byte "$scratch/run/checkpoints/step-4/MANIFEST.pb" 200
resumes_at 2 "flipped bit in the manifest"
copy "$scratch/base"
rm "$scratch/run/checkpoints/step-4/MANIFEST.pb"
resumes_at 2 "manifest gone"
# All damaged: an error, not a fresh start, and the files stay for whoever can repair them.
copy "$scratch/base"
for step in 2 4; do flip_byte "$(shard $step)" $((size / 2)); done
job 2 "${train[@]}" --run-dir "$scratch/run" --resume --set trainer.steps=6
refused "all checkpoints damaged" "damaged"
expect "checkpoints after damage to all" "$(checkpoints_of "$scratch/run" | xargs)" "2 4"

# Another model's checkpoint; weights of another vocabulary.
copy "$scratch/base"
sed -i 's/width: 16/width: 32/' "$scratch/run/config.resolved.textproto"
job 2 "${train[@]}" --run-dir "$scratch/run" --resume --set trainer.steps=6 --set model.moe_lm.width=32
refused "checkpoint of another model" 'F32 \[16, 16\] in the checkpoint, F32 \[32, 32\] here'
job 2 "${train[@]}" --run-dir "$scratch/other" --set trainer.steps=6 --set model.moe_lm.vocab_size=300 --set "trainer.init_from.path=\"$scratch/base\""
refused "weights of another vocabulary" 'embedding.weight.*257.*300'
printf 'only these few letters, again and again: %.0s' {1..100} > "$scratch/letters"
job 2 "${train[@]}" --run-dir "$scratch/run" --resume --set trainer.steps=6 --set model.moe_lm.width=32 --set 'data.tokenizer.characters={}' \
  --set "data.sources[0].text.path=\"$scratch/letters\""
refused "another tokenizer" 'cannot resume with these settings changed'
grep -q 'data.tokenizer.kind: bytes -> characters' "$scratch/out" || fail "the change of tokenizer is not named"

# No room: the run goes on and says so; at the end it fails; the checkpoint before is whole.
if ((EUID == 0)) && mkdir "$scratch/small" && mount -t tmpfs -o size=2m tmpfs "$scratch/small" 2> /dev/null; then
  cleanups+=("umount '$scratch/small'")
  cp -r "$scratch/base/." "$scratch/small/"
  head -c 16m /dev/zero > "$scratch/small/filler" 2> /dev/null
  truncate -s -65536 "$scratch/small/filler"
  job 2 "${train[@]}" --run-dir "$scratch/small" --resume --set trainer.steps=8 --set checkpoint.every=2
  refused "full disk" '(No space left on device|free)'
  rm "$scratch/small/filler"
  expect "checkpoints after a full disk" "$(checkpoints_of "$scratch/small" | xargs)" "2 4"
  job 2 "${train[@]}" --run-dir "$scratch/small" --resume --set trainer.steps=6
  expect "exit code once there is room" "$code" 0
  grep -q "resumed from .*step-4 " "$scratch/out" || fail "not resumed at step 4 once there is room"
else
  echo "full disk: left out, it takes root and mount" >&2
fi

# No permission: as a user who may not write there.
mkdir "$scratch/closed"
chmod 555 "$scratch/closed"
as_user=()
if ((EUID == 0)); then
  as_user=(setpriv --reuid=65534 --regid=65534 --clear-groups)
  chmod 755 "$scratch"
  mkdir "$scratch/tmp" && chmod 777 "$scratch/tmp"
  chmod -R a+rX "$scratch/cache" "$scratch/text" "$scratch/moe.textproto"
fi
if "${as_user[@]}" test -x "$conclave" -a -r "$scratch/text" -a -r launch/mpirun.sh; then
  for what in closed/run closed; do
    TMPDIR=$([[ -d $scratch/tmp ]] && echo "$scratch/tmp" || echo "$scratch") "${as_user[@]}" env HOME=/nonexistent \
      launch/mpirun.sh -n 2 --timeout 20 "$conclave" "${train[@]}" --run-dir "$scratch/$what" --set trainer.steps=3 > "$scratch/out" 2>&1
    code=$?
    refused "no write permission in $what" 'Permission denied'
  done
else
  echo "no permission: left out, another user cannot see the program" >&2
fi
report
