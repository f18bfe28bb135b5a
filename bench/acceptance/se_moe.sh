#!/usr/bin/env bash
# shellcheck disable=SC2154
# Figures of tasks of unequal size, of experts on disk and of inference with few layers in memory. Sourced by moe.sh, never run.

# two_tasks NAME ASSIGNMENT: configs/language/two_tasks.textproto on 4 ranks; processor seconds of ranks in $scratch/NAME.seconds,
# the sequences of the busiest rank in $scratch/NAME.rows.
two_tasks() {
  local name=$1 assignment=$2
  # shellcheck disable=SC2016
  launch/mpirun.sh -n 4 --timeout 300 bash -c 'TIMEFORMAT="processor %U"; time "$@"' tasks "$conclave" train configs/language/two_tasks.textproto \
    --run-dir "$scratch/$name" --set "data.sources[0].text.path=\"$text\"" --set "data.sources[1].text.path=\"$other\"" \
    --set "data.cache_dir=\"$scratch/cache\"" --set parallel.assignment="$assignment" --set trainer.steps=20 --set trainer.eval.batches=1 \
    > "$scratch/log" 2>&1 || { tail -n 5 "$scratch/log" >&2; return 1; }
  grep -oE 'processor [0-9.]+' "$scratch/log" | cut -d ' ' -f 2 | sort -g > "$scratch/$name.seconds"
  sed -nE 's/.*at most ([0-9]+) samples a rank.*/\1/p' "$scratch/log" | head -n 1 > "$scratch/$name.rows"
}
elastic_tasks() {
  local what="two tasks of 48 and 12 sequences on 4 ranks: what the busiest rank does with ranks dealt out evenly over ranks by load" even load
  if [[ ! -r $text || ! -r $other ]]; then unmeasured "> 1" "$what (--text $text, --other $other)"; return; fi
  two_tasks even TASKS_EVENLY && two_tasks load TASKS_BY_LOAD || { short failed "> 1" "$what"; return; }
  equal "$(cmp <(state_fields even) <(state_fields load) && state_fields load | wc -l)" 20 "steps of equal bits, two tasks with ranks by load and evenly"
  even=$(cat "$scratch/even.rows") load=$(cat "$scratch/load.rows")
  at_least "$(awk -v a="$even" -v b="$load" 'BEGIN { if (b > 0) printf "%.2f", a / b }')" 1.3 x "$what: sequences of a step ($even against $load)"
  even=$(tail -n 1 "$scratch/even.seconds") load=$(tail -n 1 "$scratch/load.seconds")
  at_least "$(awk -v a="$even" -v b="$load" 'BEGIN { if (b > 0) printf "%.2f", a / b }')" 1.2 x "$what: processor seconds ($even against $load)"
}

# experts_run NAME ARGUMENTS...: configs/mixtures/experts_on_disk.textproto on one rank.
experts_run() {
  local name=$1
  shift
  "$conclave" train configs/mixtures/experts_on_disk.textproto --run-dir "$scratch/$name" --set "data.sources[0].text.path=\"$text\"" \
    --set "data.cache_dir=\"$scratch/cache\"" --set trainer.steps=5 --set trainer.eval.batches=1 --set checkpoint.every=2 \
    --set checkpoint.keep_every=2 "$@" > "$scratch/$name.log" 2>&1 ||
    { tail -n 5 "$scratch/$name.log" >&2; return 1; }
}
held() { sed -nE 's/.*the process holds ([0-9.]+) MiB.*/\1/p' "$scratch/$1.log" | head -n 1; }  # after the third step
planned() { sed -nE 's/.*  in all +([0-9.]+) MiB.*/\1/p' "$scratch/$1.log" | head -n 1; }
experts_on_disk() {
  local what="8 of 64 experts in memory, the others on disk, over all in memory"
  if [[ ! -r $text ]]; then unmeasured "same bits" "$what (--text $text)"; return; fi
  sed '/expert_memory/d' configs/mixtures/experts_on_disk.textproto > "$scratch/experts_in_memory.textproto"
  experts_run disk && "$conclave" train "$scratch/experts_in_memory.textproto" --run-dir "$scratch/memory" --set "data.sources[0].text.path=\"$text\"" \
    --set "data.cache_dir=\"$scratch/cache\"" --set trainer.steps=5 --set trainer.eval.batches=1 > "$scratch/memory.log" 2>&1 ||
    { short failed "same bits" "$what"; return; }
  equal "$(cmp <(state_fields disk) <(state_fields memory) && state_fields disk | wc -l)" 5 "steps of equal bits, experts on disk and in memory"
  at_most "$(awk -v a="$(planned disk)" -v b="$(planned memory)" 'BEGIN { if (a > 0 && b > 0) printf "%.2f", a / b }')" 0.8 "" \
    "tensor memory, $what ($(planned disk) MiB of $(planned memory) MiB)"
  at_most "$(awk -v a="$(held disk)" -v b="$(held memory)" 'BEGIN { if (a > 0 && b > 0) printf "%.2f", a / b }')" 0.8 "" \
    "memory of the process after three steps, $what ($(held disk) MiB of $(held memory) MiB)"
  # A run that stopped after step 2 and went on.
  state_fields disk > "$scratch/straight"
  rm -r "$scratch"/disk/checkpoints/step-{4,5}
  equal "$(experts_run disk --resume && cmp <(state_fields disk) "$scratch/straight" && grep -c 'resumed from .* at step 2' "$scratch/disk.log")" 1 \
    "a run with experts on disk goes on from step 2 as if it had not stopped, to the bit"
  (ulimit -f 1024 && experts_run full) 2> /dev/null
  if grep -qE 'parallel.expert_memory: cannot make .*/paged-.*: [0-9]+ bytes .* are needed, 1048576 .* are free' "$scratch/full.log"; then
    ok refused refused "no room for the experts: one error with file, bytes needed and bytes free"
  else
    short "no such error" refused "no room for the experts: one error with file, bytes needed and bytes free"
  fi
}

ring_memory() {
  local what="texts and held-out loss with 2 of 8 layers in memory"
  train ring 1 moe --set trainer.steps=2 --set optim.schedule.warmup_steps=0 --set model.moe_lm.layers=8 --set model.moe_lm.width=64 ||
    { short failed "same bits" "$what"; return; }
  for layers in 8 2; do
    "$conclave" generate "$scratch/ring" --prompt "the 5th" --tokens 40 --resident-layers $layers > "$scratch/ring.$layers" 2> "$scratch/ring.log.$layers"
    "$conclave" eval "$scratch/ring" --json --batches 4 --resident-layers $layers >> "$scratch/ring.$layers" 2> "$scratch/log"
  done
  "$conclave" generate "$scratch/ring" --prompt "the 5th" --tokens 40 > "$scratch/ring.all" 2> "$scratch/log"
  "$conclave" eval "$scratch/ring" --json --batches 4 >> "$scratch/ring.all" 2> "$scratch/log"
  equal "$(cmp "$scratch/ring.2" "$scratch/ring.all" && cmp "$scratch/ring.8" "$scratch/ring.all" && grep -c loss "$scratch/ring.2")" 1 \
    "$what, and with all 8: equal to the bit to a run without a ring"
  local bytes='s/.*in memory, ([0-9.]+) ([KM]iB) for ([0-9.]+) ([KM]iB).*/\1 \2 \3 \4/p'
  at_most "$(sed -nE "$bytes" "$scratch/ring.log.2" | awk '{ u["KiB"] = 1; u["MiB"] = 1024; printf "%.2f", $1 * u[$2] / ($3 * u[$4]) }')" 0.26 "" \
    "memory of layers with 2 of 8 in a ring over all"
}

# parts_run NAME RANKS ARGUMENTS...: configs/mixtures/partitioned_embedding.textproto.
parts_run() {
  local name=$1 ranks=$2
  shift 2
  launch/mpirun.sh -n "$ranks" --timeout 300 "$conclave" train configs/mixtures/partitioned_embedding.textproto --run-dir "$scratch/$name" \
    --set "data.sources[0].text.path=\"$text\"" --set "data.cache_dir=\"$scratch/cache\"" --set parallel.expert="$ranks" --set trainer.steps=5 \
    --set optim.schedule.warmup_steps=0 --set trainer.eval.batches=4 "$@" > "$scratch/$name.log" 2>&1 || { tail -n 5 "$scratch/$name.log" >&2; return 1; }
}
bytes_sent() { sed -nE 's/^\{"step":5,.*"physical_sent":([0-9]+).*/\1/p' "$scratch/$1/metrics.jsonl"; }
elements_here() { sed -nE 's/.*memory of this rank .* parameters, ([0-9.]+)K here.*/\1/p' "$scratch/$1.log" | head -n 1; }
embedding_parts() {
  local what="embedding of 4,096 rows in 4 parts on 4 ranks over a whole one on each"
  if [[ ! -r $text ]]; then unmeasured "same bits" "$what (--text $text)"; return; fi
  parts_run parts 4 && parts_run parts-1 1 && parts_run whole 4 --set model.moe_lm.embedding_parts=1 || { short failed "same bits" "$what"; return; }
  equal "$(cmp <(state_fields parts) <(state_fields parts-1) && state_fields parts | wc -l)" 5 "steps of equal bits, embedding in 4 parts on 4 ranks and on one"
  "$conclave" eval "$scratch/parts" --json --batches 4 > "$scratch/parts.eval" 2> "$scratch/log"
  "$conclave" eval "$scratch/parts-1" --json --batches 4 > "$scratch/parts-1.eval" 2>> "$scratch/log"
  equal "$(cmp "$scratch/parts.eval" "$scratch/parts-1.eval" && grep -c loss "$scratch/parts.eval")" 1 "held-out loss on one rank of the checkpoints of 4 ranks and of one"
  at_most "$(awk -v a="$(bytes_sent parts)" -v b="$(bytes_sent whole)" 'BEGIN { if (a > 0 && b > 0) printf "%.2f", a / b }')" 0.75 "" \
    "bytes rank 0 sends in a step: $what ($(bytes_sent parts) of $(bytes_sent whole))"
  at_most "$(awk -v a="$(elements_here parts)" -v b="$(elements_here whole)" 'BEGIN { if (a > 0 && b > 0) printf "%.2f", a / b }')" 0.75 "" \
    "parameters of a rank: $what ($(elements_here parts) of $(elements_here whole) thousand)"
}

cases parallel_test 'TaskAssignment*' "ranks by load: 512, 256, 128, 128 on 8 ranks give 4, 2, 1, 1; the least largest load; packing where ranks are fewer"
cases trainer_test 'TaskTraining*' "tasks of unequal size: every assignment and number of ranks gives the same bits"
cases trainer_test 'ExpertCache*:ExpertMemory*' "experts on disk: the cache's log of events is exact; the same bits with any number of them in memory"
cases base_test 'PagedMemory*' "memory in a file: contents stay, the process shrinks, a full disk loses nothing"
cases trainer_test 'RingMemory*' "ring of layers: the same bits with any number of slots; all layers in memory move nothing; 0 and N + 1 refused"
cases parallel_test 'PartitionedEmbedding*' "embedding in parts: the bits of the whole table, forward and backward; bytes of the three exchanges"
cases trainer_test 'EmbeddingParts*' "embedding in parts trains as the whole one on every split, to the bit"
ring_memory
if ! $quick; then
  elastic_tasks
  experts_on_disk
  embedding_parts
fi
