#!/usr/bin/env bash
# Measures the figures promised for mixtures of experts on the real program. A line each: ok or SHORT, the figure, the target, what it is; a
# count last. Exit code 1 when anything falls short; what cannot be measured here falls short.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
# shellcheck source=bench/acceptance/figures.sh disable=SC2154
source bench/acceptance/figures.sh
# shellcheck source=bench/acceptance/traffic.sh
source bench/acceptance/traffic.sh

usage() {
  cat << 'HELP'
usage: bench/acceptance/moe.sh [--quick] [--bin-dir DIR] [--trace TRACE] [--run RUN_DIR] [--text FILE] [--other FILE]

  --quick        the part that fits in 60 seconds
  --bin-dir DIR  the program and the test programs (default build/ci/bin)
  --text FILE    the King James text, as launch/quickstart.sh makes it (default runs/data/kjv.txt)
  --other FILE   a text of another domain (default runs/data/tinyshakespeare/input.txt)
  --trace TRACE  a routing trace with 64 experts of a model trained on text, see configs/mixtures/routing_e64.textproto
  --run RUN_DIR  the run of that trace, to generate with
HELP
}

quick=false bin_dir=build/ci/bin trace=runs/routing_e64.npy e64_run=runs/routing_e64
text=runs/data/kjv.txt other=runs/data/tinyshakespeare/input.txt
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --quick) quick=true ;;
    --bin-dir | --trace | --run | --text | --other)
      [[ $# -ge 2 ]] || { echo "error: $1 needs a value" >&2; exit 2; }
      case $1 in
        --bin-dir) bin_dir=$2 ;;
        --trace) trace=$2 ;;
        --run) e64_run=$2 ;;
        --text) text=$2 ;;
        --other) other=$2 ;;
      esac
      shift ;;
    *) echo "error: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
  shift
done
if [[ ! -x $bin_dir/conclave ]]; then
  short "not built" "built" "the program $bin_dir/conclave"
  summary
fi
prepare

# number NAME FILE: the first number of that name in JSON objects.
number() { grep -oE "\"$1\":[-0-9.e+]+" "$2" | head -n 1 | cut -d : -f 2; }
# cases BINARY FILTER WHAT: unit tests that state a law; a pattern of the filter that no test matches falls short.
cases() {
  local log=$scratch/cases pattern patterns
  IFS=: read -ra patterns <<< "$2"
  for pattern in "${patterns[@]}"; do
    if ! "$bin_dir/$1" --gtest_list_tests --gtest_filter="$pattern" 2> /dev/null | grep -c '^  ' > /dev/null; then short "no $pattern" pass "$3"; return; fi
  done
  if "$bin_dir/$1" --gtest_filter="$2" > "$log" 2>&1 && grep -qE '^\[  PASSED  \] [1-9]' "$log"; then ok pass pass "$3"; else short fail pass "$3"; fi
}
unmeasured() { short "not measured" "$1" "$2"; }

# -- planner -------------------------------------------------------------------------------------------------------------------------------
# exact_where_dp_reaches RANKS: what a user gets without naming a solver against dynamic programming, 8 experts, 24 layers; the search beside.
exact_where_dp_reaches() {
  "$conclave" trace markov "$scratch/e8.npy" --layers 24 --experts 8 --tokens 3000 > /dev/null
  "$conclave" place "$scratch/e8.npy" --ranks "$1" --solver exact --json > "$scratch/exact" 2>&1
  "$conclave" place "$scratch/e8.npy" --ranks "$1" --json > "$scratch/plan" 2>&1
  "$conclave" place "$scratch/e8.npy" --ranks "$1" --solver affinity --json > "$scratch/search" 2>&1
  equal "$(number cost "$scratch/plan")" "$(number cost "$scratch/exact")" "cost of the default plan, 8 experts on $1 ranks, 24 layers; target: the optimum (the search alone: $(number cost "$scratch/search"))"
}
# planner_bench WHAT INPUT...: every instance of conclave bench placement.
planner_bench() {
  local what=$1 name line
  shift
  "$conclave" bench placement "$@" --json > "$scratch/bench" 2>&1 || { short failed "a report" "$what"; return; }
  sed 's/": /":/g' "$scratch/bench" | grep -oE '\{"name":[^}]*(\{[^}]*\}[^}]*)*\}' > "$scratch/instances"
  while read -r line; do
    name=$(sed 's/.*"name":"\([^"]*\)".*/\1/' <<< "$line")
    echo "$line" > "$scratch/line"
    local less bound plan
    less=$(number less_than_metis "$scratch/line") plan=$(number plan "$scratch/line") bound=$(number lower_bound "$scratch/line")
    at_least "$(awk -v x="${less:-x}" 'BEGIN { if (x != "x") printf "%.2f", 100 * x }')" 3 % \
      "fewer rank changes than METIS + swaps, $name (plan $plan, lower bound $bound: no plan has more than $(awk -v x="${less:-x}" -v p="${plan:-0}" -v b="${bound:-0}" 'BEGIN { if (x != "x" && p > 0) printf "%.2f %%", 100 * (1 - b * (1 - x) / p); else print "?" }'))"
    at_most "$(number cpu_seconds "$scratch/line")" 10 s "processor time of that plan, one core"
  done < "$scratch/instances"
  [[ -s $scratch/instances ]] || short "no instance" "some" "$what"
}
half_trace() {
  "$conclave" trace markov "$scratch/half.npy" --tokens 6000 --layers 8 > /dev/null
  "$conclave" place "$scratch/half.npy" --ranks 8 --half --effort 20 > "$scratch/half" 2>&1
  local share
  share=$(sed -nE 's/^plan, other half +([0-9.]+) %.*/\1/p' "$scratch/half")
  at_most "$share" "$(sed -nE 's/^contiguous +([0-9.]+) %.*/\1/p' "$scratch/half" | head -n 1)" % \
    "rank changes of a plan on the half of the trace it has not seen; target: contiguous blocks"
}
# equals_program LAYERS EXPERTS RANKS NODES: the search against CBC, where that proves its optimum in 60 s.
equals_program() {
  local what="cost of the search, $1 layers of $2 experts on $3 ranks, $4 nodes; target: CBC's proven optimum"
  if ! command -v cbc > /dev/null; then unmeasured equal "$what (package coinor-cbc)"; return; fi
  "$conclave" trace markov "$scratch/small.npy" --layers "$1" --experts "$2" --tokens 300 > /dev/null
  "$conclave" place "$scratch/small.npy" --ranks "$3" --nodes "$4" --solver affinity --json --write-lp "$scratch/small.lp" > "$scratch/plan" 2>&1
  rm -f "$scratch/solution"
  timeout 60 cbc "$scratch/small.lp" solve solution "$scratch/solution" > /dev/null 2>&1
  local optimum
  optimum=$(sed -nE '1s/^Optimal - objective value ([0-9]+)\..*/\1/p' "$scratch/solution" 2> /dev/null)
  equal "$(number cost "$scratch/plan")" "${optimum:-unproven}" "$what"
}
# other_domain: the weights that gave the trace route another text, without learning; the trace's plan on that.
other_domain() {
  local what="rank changes on tinyshakespeare of a plan made on the King James text, 64 experts on 8 ranks; target: contiguous blocks"
  local run=$e64_run options
  if [[ ! -d $run/checkpoints || ! -r $other || ! -r $text ]]; then unmeasured "reported" "$what (--run $run, --other $other, --text $text)"; return; fi
  options=(--set "data.sources[0].text.path=\"$text\"" --set data.cache_dir="\"$scratch/cache\"")
  "$conclave" tokenize configs/mixtures/routing_e64.textproto "${options[@]}" > /dev/null 2>&1
  options=(--set "data.sources[0].text.path=\"$other\"" --set data.cache_dir="\"$scratch/cache\"" --set parallel.expert=1
    --set "data.tokenizer.sentencepiece.model_path=\"$(find "$scratch/cache" -name 'sentencepiece-*.model' | head -n 1)\"")
  "$conclave" train configs/mixtures/routing_e64.textproto --run-dir "$scratch/other" "${options[@]}" --set "trainer.init_from.path=\"$run\"" \
    --set optim.first_order.lr=1e-20 --set trainer.steps=5 --set optim.schedule.warmup_steps=0 --set observe.routing_window=5 > "$scratch/log" 2>&1 ||
    { tail -n 3 "$scratch/log" >&2; short failed reported "$what"; return; }
  "$conclave" place "$trace" --ranks 8 --evaluate "$scratch/other/routing/step-5.npy" > "$scratch/place" 2>&1
  at_most "$(sed -nE 's/^plan, --evaluate +([0-9.]+) %.*/\1/p' "$scratch/place")" "$(sed -nE 's/^contiguous, --evaluate +([0-9.]+) %.*/\1/p' "$scratch/place")" % \
    "$what (on its own text $(sed -nE 's/^plan +([0-9.]+) %.*/\1/p' "$scratch/place") %)"
}

cases parallel_test 'Placements*:PlanPlacement*:Align*' "plans: optimal where enumerable, never worse than contiguous, balanced, planted columns recovered"
for ranks in 2 4; do exact_where_dp_reaches "$ranks"; done
half_trace
if ! $quick; then
  planner_bench "the planner on Markov chains"
  if [[ -f $trace ]]; then planner_bench "the planner on a real trace" "$trace"; else unmeasured ">= 3 %" "planner on a real trace of 64 experts: $trace is missing"; fi
fi
equals_program 4 4 2 1
equals_program 4 6 2 2
if ! $quick; then
  equals_program 3 6 3 1
  equals_program 4 8 2 1
  other_domain
fi
cases parallel_test 'RoutedSets*:SetCuts*:CoactivationPlacement*:SequenceHomes*' \
  "co-activation: counts are the tokens', optimal where enumerable, planted groups recovered, sequences placed best"

# -- routing and migration -----------------------------------------------------------------------------------------------------------------
cases parallel_test 'RoutingRecorder*' "recorded routing: exact counts, the same sample on any number of ranks"
cases trainer_test 'Migration*' "experts that move change no bit: AdamW, compression state, reference points; damaged parcels refused"
cases trainer_test 'Rebalancer*' "whole runs with moves: metrics, weights, resume, traces, death between send and commit"
if ! $quick; then
  cases slow_test 'Migration*' "500 steps, a migration every 20: losses, parameters, moments, compression state to the bit"
  for script in migration place; do test_script "$script"; done
fi
cases trainer_test 'ExpertCopies*' "copies of experts change no bit: AdamW, compression state, reference points, every route; bytes as planned"
# Hot experts of a mixture of 24, on 4 ranks, against the run that has none.
hot_experts() {
  local what="40 losses with copies of hot experts, 4 ranks, 24 experts" name=copies copies
  local options=(--set trainer.steps=40 --set parallel.expert=4 --set parallel.numerics=WORLD_SIZE_INVARIANT)
  train alone 4 moe "${options[@]}" &&
    train "$name" 4 moe "${options[@]}" --set observe.routing_window=5 --set parallel.rebalance.every=10 --set parallel.rebalance.after_step=5 \
      --set parallel.rebalance.hysteresis=0 --set parallel.rebalance.replicas=3 --set "parallel.rebalance.placement.load_greedy={}" ||
    { short failed equal "$what"; return; }
  equal "$(cmp -s <(state_fields alone) <(state_fields $name) && [[ $(state_fields $name | wc -l) == 40 ]] && echo equal)" equal "bits of the $what"
  copies=$(field $name 40 copies)
  at_least "${copies:-0}" 1 "" "copies then; largest load over mean $(field $name 40 load_ratio_now) before the last plan, planned $(field $name 40 load_ratio_planned)"
}
hot_experts

# -- generation ----------------------------------------------------------------------------------------------------------------------------
# write NAME RUN ARGUMENTS...: `conclave generate` on 4 ranks; its text in $scratch/NAME.text, the traffic in $scratch/NAME.traffic.
write() {
  local name=$1 run=$2
  shift 2
  launch/mpirun.sh -n 4 --timeout 300 "$conclave" generate "$run" --prompts "$scratch/prompts" --traffic "$@" > "$scratch/$name" 2> "$scratch/log" ||
    { tail -n 5 "$scratch/log" >&2; return 1; }
  sed '/^sent between ranks/,$d' "$scratch/$name" > "$scratch/$name.text"
  sed -n '/^sent between ranks/,$p' "$scratch/$name" > "$scratch/$name.traffic"
}
sent() { sed -nE "s/^$2 +([0-9]+).*/\1/p" "$scratch/$1.traffic"; }
rank_changes() { sed -nE 's/^rank changes +([0-9.]+)%.*/\1/p' "$scratch/$1.traffic"; }
# Keys and values a sixteenth of the width, 8 layers, 4 ranks, trained a little.
generation_bytes() {
  local what="bytes of context-coherent generation over ordinary expert parallelism: 8 layers, d_kv = h / 16, 4 ranks, all lines" dims=model.moe_lm
  head -n 8 "$scratch/text" | cut -c 1-24 > "$scratch/prompts"
  train narrow 1 moe --set trainer.steps=20 --set $dims.layers=8 --set $dims.width=64 --set $dims.heads=16 --set $dims.kv_heads=1 \
    --set $dims.context=128 --set $dims.moe.experts=16 --set $dims.moe.top_k=1 || { short failed "< 1" "$what"; return; }
  write ordinary "$scratch/narrow" --tokens 64 && write coherent "$scratch/narrow" --tokens 64 --coherent || { short failed "< 1" "$what"; return; }
  equal "$(cmp "$scratch/ordinary.text" "$scratch/coherent.text" 2>&1 && echo equal)" equal "texts of context-coherent generation against ordinary, 8 prompts, 64 tokens"
  at_most "$(awk -v a="$(sent coherent all)" -v b="$(sent ordinary all)" 'BEGIN { if (a > 0 && b > 0) printf "%.3f", a / b }')" 0.999 "" \
    "$what ($(sent coherent all) of $(sent ordinary all); keys and values $(sent coherent 'context keys and values'))"
}
# fewer_hops BEFORE AFTER: by how much, in percent; nothing where either is missing.
fewer_hops() { awk -v a="${1:-0}" -v b="${2:-0}" 'BEGIN { if (a > 0 && b > 0) printf "%.1f", 100 * (1 - b / a) }'; }
# planned_hops NAME TRACE: hops of the same texts with experts placed for TRACE.
planned_hops() {
  "$conclave" place "$2" --ranks 4 --out "$scratch/$1.json" > "$scratch/log" 2>&1 &&
    write "$1" "$e64_run" --tokens 64 --coherent --placement "$scratch/$1.json"
}
# As ExFlow profiles: planned on what the model writes after one set of prompts, measured on what it writes after others.
generation_hops() {
  local what="fewer cross-rank hops in generation by an affinity placement, 64 experts, 24 layers, 4 ranks" contiguous planned trained="not measured"
  if [[ ! -d $e64_run ]]; then unmeasured ">= 30 %" "$what: $e64_run is missing"; return; fi
  printf '%s\n' "And it came to pass" "The LORD said unto" "In the beginning" "Blessed are they that" "And the king" "For the love of" \
    "Behold, I" "Now these are the" > "$scratch/prompts"
  awk 'NF >= 6 { if (++n % 601 == 0) print $2, $3, $4, $5, $6 }' "$(sed -nE 's/^ *path: "([^"]*)".*/\1/p' "$e64_run/config.resolved.textproto" | head -n 1)" |
    grep -vFf "$scratch/prompts" | head -n 48 > "$scratch/profile"
  "$conclave" generate "$e64_run" --prompts "$scratch/profile" --tokens 100 --seed 9 --trace "$scratch/profile.npy" > "$scratch/log" 2>&1 &&
    write contiguous "$e64_run" --tokens 64 --coherent && planned_hops planned "$scratch/profile.npy" || { short failed ">= 30 %" "$what"; return; }
  equal "$(cmp "$scratch/contiguous.text" "$scratch/planned.text" 2>&1 && echo equal)" equal "texts do not depend on the placement"
  contiguous=$(rank_changes contiguous) planned=$(rank_changes planned)
  if [[ -f $trace ]] && planned_hops trained "$trace"; then trained="$(fewer_hops "$contiguous" "$(rank_changes trained)") % fewer"; fi
  "$conclave" eval "$e64_run" --batches 10 --record-routing "$scratch/read.npy" > "$scratch/log" 2>&1 && planned_hops read "$scratch/read.npy" ||
    tail -n 3 "$scratch/log" >&2
  at_least "$(fewer_hops "$contiguous" "$(rank_changes read)")" 30 % "$what: planned on held-out text that the trained model read, measured on what it writes"
  at_least "$(fewer_hops "$contiguous" "$planned")" 30 % \
    "$what: planned on texts after 48 prompts, measured after 8 others ($contiguous % to $planned %; planned on the training's trace $trained)"
}
cases trainer_test 'CoherentGeneration*' "context-coherent generation: logits to the bit in double and float, one all-to-all a layer, memory refused with numbers"
generation_bytes
# Affinity over training, and what a plan made from half of the tokens of a trace keeps of the other half.
affinity_over_training() {
  local what="fewer rank changes on tokens a plan has not seen, 64 experts of 24 layers" first last ranks
  if [[ ! -d $e64_run/routing ]]; then unmeasured reported "$what: $e64_run is missing"; return; fi
  "$conclave" trace affinity "$e64_run" --ranks 4,8,16 --effort 10 --json > "$scratch/affinity" 2> "$scratch/log" || { short failed reported "$what"; return; }
  for ranks in 4 8 16; do
    grep "\"ranks\":$ranks," "$scratch/affinity" > "$scratch/rows"
    head -n 1 "$scratch/rows" > "$scratch/first"
    tail -n 1 "$scratch/rows" > "$scratch/last"
    first=$(number fewer_hops "$scratch/first") last=$(number fewer_hops "$scratch/last")
    ok "$(awk -v x="$last" 'BEGIN { printf "%.1f %%", 100 * x }')" reported \
      "$what on $ranks ranks at step $(number step "$scratch/last") (at step $(number step "$scratch/first") $(awk -v x="$first" 'BEGIN { printf "%.1f %%", 100 * x }'); affinity $(number affinity "$scratch/first") to $(number affinity "$scratch/last"))"
  done
}
if ! $quick; then
  generation_hops
  affinity_over_training
fi

# -- traffic of training -----------------------------------------------------------------------------------------------------------------
cases trainer_test 'Rebalancer.TheLedgerBooksTheRowsOfTheTrace' "bytes on the ledger = rows counted from the trace, every route, moved experts"
cases parallel_test 'DispatchRoutes.RowsAreTheCountFromTheIds' "rows on the ledger = the count from the ids, every route, with sums on the way and without"
cases parallel_test 'DispatchRoutes.MessagesOfARank' "messages of a rank: N q - 1 flat, (q - 1) + (N - 1) in two levels"
if ! $quick; then traffic_gates; fi

# -- routing, dispatch, other programs' models -----------------------------------------------------------------------------------------------
cases trainer_test 'RoutingReplay*' "recorded routing replayed gives a bit-equal loss on 1 and 2 ranks; another length is refused"
cases models_test 'MoeLm.ReplayedRouting*' "replayed routing serves backward that records blocks again: the same gradients"
cases parallel_test 'ExpertDispatch.MoreRowsThanAllowedAreRefusedByAllRanks' "more rows than allowed: refused by every rank with counts, before memory is taken"
cases parallel_test 'DispatchPieces.GiveTheBits*:DispatchPieces.GoWith*' "rows in 1, 2, 3 and 7 pieces beside the experts' work: the same bits and rows on 1, 2 and 4 ranks, every route"
cases parallel_test 'DispatchPieces.Bounded*' "more rows than most_rows in bounded pieces: the same bits; forward the same rows, backward those of forward once more"
cases trainer_test 'Dispatch.PiecesChangeNoBitOfARun' "pieces change no bit of a run, in both numerics modes, with blocks recorded again"
cases trainer_test 'MemoryPlan.RowsThatAreNotAllowedTakeNoMemory' "memory kept for dispatch follows the rows that are allowed; the bound is in the log"
cases comm_test 'ExactExchange.TwoLevels*' "gradients between nodes: half the bytes with two ranks a node, the same bits"
cases trainer_test 'Dispatch.FoldingChangesNoBitOfARun' "first slots that come home as their sum change no bit of a run"
cases parallel_test '*DispatchRoutes*' "two-level exchange: (q - 1) + (N - 1) messages, rows as they follow from the ids, by the ledger"
hf_logits() {
  local log=$scratch/hf what="logits against transformers, every Hugging Face family, both ways (INTEROP_PYTHON names a Python that has it)"
  CONCLAVE_BIN_DIR=$bin_dir bash tests/interop/hf_logits_test.sh > "$log" 2>&1
  case $? in
    0) ok pass "<= 1e-4" "$what" ;;
    77) unmeasured "<= 1e-4" "$what" ;;
    *) tail -n 5 "$log" >&2; short fail "<= 1e-4" "$what" ;;
  esac
}
# balanced STEPS OPTIONS...: the worst largest load of the last 100 steps, in either layer.
balanced() {
  local steps=$1
  shift
  "$conclave" train configs/language/balanced_bytes.textproto --run-dir "$scratch/balance_$steps" --set "data.sources[0].text.path=\"$other\"" \
    --set "data.cache_dir=\"$scratch/cache\"" --set "trainer.steps=$steps" "$@" > "$scratch/log" 2>&1 || tail -n 5 "$scratch/log" >&2
  grep -E '^\{"step":' "$scratch/balance_$steps/metrics.jsonl" | grep '"load_max_over_mean' | tail -n 100 | grep -oE '"load_max_over_mean\.[0-9]":[0-9.]+' |
    cut -d : -f 2 | sort -g | tail -n 1
}
# Windows of 4,096 tokens; and of 1,024 = 256 E / k, the least there may be, after as many tokens.
balance_by_bias() {
  local what="largest load over mean with balance by bias, any step of 301 to 400, 16 experts top 4, tinyshakespeare"
  if [[ ! -r $other ]]; then unmeasured "<= 1.3" "$what: $other is missing"; return; fi
  at_most "$(balanced 400)" 1.3 "" "$what (with steps of 1,024 tokens, the last 100 of 1200: $(balanced 1200 --set trainer.global_batch=8))"
}
cases trainer_test 'WorldSizeInvariant*' "data x expert splits up to 8 ranks: the bits of one process"
cases trainer_test 'Parity*' "the same in double precision: 1e-12"
cases parallel_test 'ExpertDispatch.RoundTrip*:ExpertDispatch.BackwardIsTheAdjoint*:*DispatchAgainstOracle*' "dispatch: identity round trip, adjoint, oracle"
cases models_test 'Mixture.OneExpert*:MoeLm.OneExpert*:MoeLm.ARankWithoutTokens*:Router*:BalanceLoss*' "one expert is the dense model; a rank without tokens; routers; balance loss 1 under uniform load"
cases models_test 'Router.BiasMovesAgainstTheLoad' "the bias moves against the load, by its sign or in proportion"
if ! $quick; then hf_logits; balance_by_bias; fi

# -- memories of machines ------------------------------------------------------------------------------------------------------------------
capacity_check() {
  local what="check refuses experts beyond a machine's memory, naming tier and both sides, and takes what fits" config=$scratch/moe.textproto
  "$conclave" check "$config" --machines 2 --device-gib 1 --host-gib 0.00001 > "$scratch/small" 2>&1
  local refused=$?
  if ((refused == 2)) && grep -qE 'host memory: 16 alpha S = 32.0 KiB, but 2 machines have 21.0 KiB' "$scratch/small" &&
    "$conclave" check "$config" --machines 2 --device-gib 1 --host-gib 1 --disk-gib 1 > "$scratch/log" 2>&1; then
    ok refused refused "$what"
  else
    short "exit $refused" refused "$what"
  fi
}
cases trainer_test 'HfModel.EveryTensor*:HfModel.OtherModels*:HfModel.AnExport*' "Hugging Face files with a missing, extra or misshapen tensor, of an unknown architecture: refused by name; a full disk leaves the export before"
cases parallel_test 'RoutingTrace.Refuses*:TraceFiles.*Errors*:Replicas.Errors:ExpertPlacement.Refuses*' "malformed traces, experts that ranks cannot share, replicas over budget: refused by name"
cases trainer_test 'MemoryTiers*' "memory of device, host and disk: equality fits, a byte less is refused"
capacity_check

# shellcheck source=bench/acceptance/se_moe.sh
source bench/acceptance/se_moe.sh
summary
