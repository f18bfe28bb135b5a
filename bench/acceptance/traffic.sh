#!/usr/bin/env bash
# shellcheck disable=SC2154,SC2015
# What crosses between two emulated hosts while a mixture trains on real text, and what that costs on slow links. Sourced by moe.sh, never run.
cluster=tests/cluster/netns.sh

# cluster_up RATE: two hosts; false where this machine cannot have any.
cluster_up() {
  ((EUID == 0)) && command -v ip > /dev/null && unshare --net true 2> /dev/null || return 1
  "$cluster" up 2 "$1" > "$scratch/log" 2>&1 || { tail -n 2 "$scratch/log" >&2; return 1; }
  trap '"$cluster" down; rm -rf "$scratch"' EXIT
}
cluster_down() { "$cluster" down; trap 'rm -rf "$scratch"' EXIT; }

# on_hosts RANKS NAME CONFIG ARGUMENTS...: a run in $scratch/NAME.
on_hosts() {
  local ranks=$1 name=$2 config=$3
  shift 3
  "$cluster" run "$ranks" "$conclave" train "configs/mixtures/$config.textproto" --run-dir "$scratch/$name" --set "parallel.expert=$ranks" \
    --set "data.sources[0].text.path=\"$text\"" --set "data.cache_dir=\"$scratch/cache\"" "$@" > "$scratch/$name.log" 2>&1 ||
    { tail -n 5 "$scratch/$name.log" >&2; return 1; }
}
# rows_between NAME WINDOWS: bytes to experts between the hosts, a window, the mean of the last ones.
rows_between() {
  grep -oE '"dispatch_bytes_between":[0-9]+' "$scratch/$1/metrics.jsonl" | tail -n "$2" | cut -d : -f 2 | awk '{ sum += $1 } END { if (NR) printf "%.0f", sum / NR }'
}
# fewer_rows CONFIG RANKS TARGET WHAT
fewer_rows() {
  local config=$1 ranks=$2 target=$3 what=$4 flat=$1-$2-flat settled=$1-$2-settled same=differ floor
  on_hosts "$ranks" "$flat" "$config" --set parallel.dispatch.route=FLAT --set parallel.dispatch.fold=false --set parallel.rebalance.every=0 &&
    on_hosts "$ranks" "$settled" "$config" || { short failed ">= $target %" "$what"; return; }
  cmp -s <(state_fields "$flat") <(state_fields "$settled") && [[ $(state_fields "$flat" | wc -l) == 240 ]] && same=equal
  "$conclave" place "$scratch/$flat/routing/step-240.npy" --ranks "$ranks" --nodes 2 --objective coactivation --effort 0 --json > "$scratch/place"
  local experts
  experts=$(sed -n 's/^# top_k //p' "$scratch/$flat/routing/step-240.npy.header")
  floor=$(awk -v floor="$(number floor_between "$scratch/place")" -v k="$experts" 'BEGIN { printf "%.1f", 100 * (1 - floor / (k / 2)) }')
  at_least "$(awk -v flat="$(rows_between "$flat" 4)" -v settled="$(rows_between "$settled" 4)" 'BEGIN { if (flat > 0) printf "%.1f", 100 * (1 - settled / flat) }')" \
    "$target" % "$what, $ranks ranks (no placement: more than $floor %)"
  equal "$same" equal "bits of the 240 losses of these two runs"
}
# median_step NAME STEPS: seconds of the last steps.
median_step() {
  grep -oE '"step_seconds":[-0-9.e+]+' "$scratch/$1/metrics.jsonl" | tail -n "$2" | cut -d : -f 2 | sort -g | awk '{ v[NR] = $1 } END { if (NR) printf "%.3f", v[int((NR + 1) / 2)] }'
}
# faster_steps TARGET: both runs of fewer_rows go on for 12 steps, each with its placement and route, over links of 200 Mbit/s.
faster_steps() {
  local target=$1 ranks=4 name before after more
  local what="step time of flat and contiguous over that of two levels, deduplicated, experts settled: 64 experts top 8, links of 200 Mbit/s"
  for name in flat settled; do
    more=(--resume --set trainer.steps=252 --set parallel.rebalance.every=0)
    if [[ $name == flat ]]; then more+=(--set parallel.dispatch.route=FLAT --set parallel.dispatch.fold=false); fi
    rm -rf "${scratch:?}/speed-$name"
    cp -r "$scratch/traffic_e64-$ranks-$name" "$scratch/speed-$name" && on_hosts "$ranks" "speed-$name" traffic_e64 "${more[@]}" ||
      { short failed ">= $target x" "$what"; return; }
  done
  before=$(median_step speed-flat 10) after=$(median_step speed-settled 10)
  at_least "$(awk -v a="$before" -v b="$after" 'BEGIN { if (b > 0) printf "%.2f", a / b }')" "$target" x "$what ($before s, $after s)"
}
# link_seconds NAME: what a link of 200 Mbit/s needs for what a rank sends in the last step.
link_seconds() { grep -oE '"physical_sent":[0-9]+' "$scratch/$1/metrics.jsonl" | tail -n 1 | cut -d : -f 2 | awk '{ printf "%.3f", $1 / 25e6 }'; }
# overlapped_steps TARGET, with equal loads: rows that travel in pieces beside the experts' work, against experts that wait for all of them; two hosts of one
# rank, links of 200 Mbit/s, both in turn.
overlapped_steps() {
  local target=$1 pieces turn before after same=equal
  local what="step time of experts that wait for their rows over that of pieces beside their work and the shared expert's: 8 experts top 2, links of 200 Mbit/s"
  for turn in 1 2; do
    for pieces in 0 4; do
      on_hosts 2 "pieces-$pieces-$turn" overlapped_dispatch --set "parallel.dispatch.pieces=$pieces" \
        --set model.moe_lm.moe.selection=ROUND_ROBIN || { short failed ">= $target x" "$what"; return; }
    done
    cmp -s <(state_fields "pieces-0-$turn") <(state_fields "pieces-4-$turn") && [[ $(state_fields "pieces-4-$turn" | wc -l) == 24 ]] || same=differ
  done
  before=$(printf '%s\n' "$(median_step pieces-0-1 18)" "$(median_step pieces-0-2 18)" | sort -g | head -n 1)
  after=$(printf '%s\n' "$(median_step pieces-4-1 18)" "$(median_step pieces-4-2 18)" | sort -g | head -n 1)
  at_least "$(awk -v a="$before" -v b="$after" 'BEGIN { if (b > 0) printf "%.2f", a / b }')" "$target" x "$what ($before s, $after s; the link alone $(link_seconds pieces-4-1) s)"
  equal "$same" equal "bits of the 24 losses of these runs"
}
# One expert a token, routing of a whole step: what each mode of docs/moe.md would send between two hosts of four ranks, per token and layer.
top_1_modes() {
  local what="of 1 row a token and layer crosses nodes, 64 experts top 1"
  "$conclave" train configs/mixtures/traffic_e64.textproto --run-dir "$scratch/top1" --set "data.sources[0].text.path=\"$text\"" \
    --set "data.cache_dir=\"$scratch/cache\"" --set parallel.expert=1 --set parallel.rebalance.every=0 --set model.moe_lm.moe.top_k=1 \
    --set model.moe_lm.moe.renormalize=false --set observe.routing_window=1 > "$scratch/log" 2>&1 || { short failed reported "top 1, every mode"; return; }
  local trace=$scratch/top1/routing/step-240.npy old=$scratch/top1/routing/step-238.npy sent
  "$conclave" place "$old" --evaluate "$trace" --ranks 8 --nodes 2 --effort 20 > "$scratch/chain"
  "$conclave" place "$trace" --ranks 8 --nodes 2 --objective coactivation --homes-in-order --sequence 64 > "$scratch/sets"
  for sent in "contiguous:contiguous blocks, tokens come home" "plan:experts placed by the homes of this step's tokens" \
    "plan, sequences placed too:sequences homed by this step's routing"; do
    ok "$(awk -v name="${sent%%:*}" 'index($0, name "  ") == 1 { $0 = substr($0, length(name) + 1); print $1; exit }' "$scratch/sets")" reported "$what: ${sent#*:}"
  done
  ok "$(sed -nE 's/^plan, --evaluate +[0-9.]+ % +([0-9.]+) %.*/\1 %/p' "$scratch/chain")" reported "$what: tokens stay with experts, planned two steps before"
}
traffic_gates() {
  if [[ ! -r $text ]]; then unmeasured ">= 75 %" "traffic between nodes on real text: $text is missing (--text)"; return; fi
  text=$(realpath "$text")
  cluster_up none || { unmeasured ">= 75 %" "traffic between nodes: no network namespaces here"; return; }
  local ranks
  top_1_modes
  for ranks in 4 8; do
    fewer_rows traffic_e64 "$ranks" 75 "fewer rows to experts between nodes than flat and contiguous, 64 experts top 8"
    fewer_rows traffic_e16 "$ranks" 30 "fewer rows to experts between nodes than flat and contiguous, 16 experts top 2"
  done
  "$cluster" rate 200mbit
  faster_steps 1.5
  overlapped_steps 1.2
  cluster_down
}
