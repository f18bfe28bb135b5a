#!/usr/bin/env bash
# shellcheck disable=SC2154
# The figures of vineq.sh on codecs and on models that train with them, a function each. Sourced, never run.

# best CODEC FIELD: the best of three runs, since other processes only ever slow a run down.
best() {
  cat "$scratch"/codecs-* | tr '{' '\n' | sed 's/^ *//' | awk -v codec="$1" -v field="\"$2\": " '
    { joined = joined " " $0 } END { n = split(joined, part, /"name": "/)
      for (i = 2; i <= n; ++i) if (index(part[i], codec) == 1 && match(part[i], field "[-0-9.e+]*")) {
        v = substr(part[i], RSTART + length(field), RLENGTH - length(field)) + 0; if (v > most) most = v }
      if (most > 0) printf "%.2f", most }'
}
codec_rates() {
  local run
  for run in 1 2 3; do "$conclave" bench codecs --json > "$scratch/codecs-$run" 2> "$scratch/log" || tail -n 5 "$scratch/log" >&2; done
  at_least "$(best 'block_int  bits: 8 block: 64 },' rate)" 2 GB/s "of input, block int8, encode and decode, one core, best of 3 runs"
  at_least "$(best 'natural  }' rate)" 2 GB/s "of input, natural, encode and decode"
  at_least "$(best 'top_k  fraction: 0.01' rate)" 0.5 GB/s "of input, TopK at 1 %, encode and decode"
  at_least "$(best 'perm_k  },' of_memory_speed)" 0.95 "" \
    "of memcpy's rate a byte that must move, PermK of 8 workers, encode and decode ($(best 'perm_k  },' of_copy) of a copy of the vector)"
  at_least "$(best 'rand_k  fraction: 0.1 }' of_memory_speed)" 0.95 "" \
    "of memcpy's rate a byte that must move, RandK 10 %, encode and decode ($(best 'rand_k  fraction: 0.1 }' of_copy) of a copy of the vector)"
}

# The rate of a link below which a codec pays, as foretold without one and as found on throttled links of the same run; the best of three.
crossover() {
  local codec apart
  for codec in 'qsgd { levels: 1024 }' 'natural {}'; do
    apart=$(for _ in 1 2 3 4 5; do "$conclave" bench crossover "$codec" --json 2> "$scratch/log" | sed -n 's/.*"apart": \([-0-9.e+]*\).*/\1/p'; done | sort -g | sed -n 3p)
    at_most "$(awk -v v="$apart" 'BEGIN { if (v != "") printf "%.3f", v }')" 0.15 "" "G11: modelled crossover bandwidth against throttled links, $codec, median of 5"
  done
}

# held_out NAME, bytes_of NAME: the last held-out loss of a config's runs, the mean over seeds; two-way bytes of a worker in all steps of one.
mixture_seeds=(1337 1 2)
held_out() {
  local seed
  for seed in "${mixture_seeds[@]}"; do
    sed -n 's/.*"evaluation":{"loss":\([-0-9.e+]*\).*/\1/p' "$scratch/$1-$seed/metrics.jsonl" 2> /dev/null | tail -n 1
  done | awk -v n="${#mixture_seeds[@]}" '{ s += $1 } END { if (NR == n) printf "%.6f", s / n }'
}
bytes_of() {
  sed -n 's/.*"logical_up":\([0-9]*\),"logical_down":\([0-9]*\).*/\1 \2/p' "$scratch/$1-${mixture_seeds[0]}/metrics.jsonl" 2> /dev/null |
    awk '{ s += $1 + $2 } END { printf "%d", s }'
}
# mixture CONFIG: a run a seed, on four ranks. One run's loss scatters by a percent, whatever the exchange.
mixture() {
  local seed
  for seed in "${mixture_seeds[@]}"; do
    "$conclave" train "configs/compression/$1.textproto" --ranks 4 --run-dir "$scratch/$1-$seed" --set "seed=$seed" \
      --set "data.sources[0].text.path=\"$text\"" --set "data.cache_dir=\"$scratch/cache\"" > "$scratch/log" 2>&1 || tail -n 5 "$scratch/log" >&2
  done
}
# loss_above NAME BASELINE WHAT, fewer_bytes NAME BASELINE GAIN WHAT
loss_above() {
  at_most "$(awk -v a="$(held_out "$1")" -v b="$(held_out "$2")" 'BEGIN { if (a > 0 && b > 0) printf "%.2f", 100 * (a / b - 1) }')" 1 "%" \
    "$3, means of ${#mixture_seeds[@]} seeds"
}
fewer_bytes() {
  at_least "$(awk -v a="$(bytes_of "$2")" -v b="$(bytes_of "$1")" 'BEGIN { if (b > 0) printf "%.2f", a / b }')" "$3" x "$4: fewer two-way bytes"
}
mixtures() {
  local text=$data_dir/tinyshakespeare/input.txt config
  if [[ ! -r $text ]]; then short "no $text" "<= 1 %" "moe_lm with EF21 and with DiLoCo (--data DIR)"; return; fi
  text=$(realpath "$text")
  for config in moe_lm_adamw moe_lm_ef21_int8 moe_lm_adamw_256 moe_lm_muon_256 moe_lm_diloco; do mixture "$config"; done
  loss_above moe_lm_ef21_int8 moe_lm_adamw "moe_lm, EF21 over int8 under AdamW: held-out loss above exact AdamW's"
  fewer_bytes moe_lm_ef21_int8 moe_lm_adamw 3.5 "moe_lm, EF21 over int8 under AdamW"
  loss_above moe_lm_diloco moe_lm_adamw_256 "moe_lm, DiLoCo with local steps of Muon: held-out loss above exact AdamW's"
  loss_above moe_lm_diloco moe_lm_muon_256 "moe_lm, DiLoCo with local steps of Muon: held-out loss above exact Muon's at the same rate"
  fewer_bytes moe_lm_diloco moe_lm_adamw_256 20 "moe_lm, DiLoCo"
}

on_slow_links() {
  CONCLAVE_BIN_DIR=$bin_dir bash tests/cluster/time_to_accuracy_test.sh > "$scratch/slow" 2>&1 || tail -n 5 "$scratch/slow" >&2
  at_least "$(sed -n 's/.*, \([0-9.]*\) times sooner/\1/p' "$scratch/slow")" 1.05 x "time to a held-out loss on links of 50 Mbit/s, exact over EF21 int8, four hosts"
}

crossover_between_hosts() {
  local run
  for run in 1 2 3 4 5; do CONCLAVE_BIN_DIR=$bin_dir bash tests/cluster/crossover_test.sh; done > "$scratch/between" 2>&1
  at_most "$(sed -n 's/.*: \([0-9.]*\) apart$/\1/p' "$scratch/between" | sort -g | awk '{ apart[NR] = $1 } END { if (NR == 5) print apart[3] }')" 0.25 "" \
    "crossover bandwidth on shaped links between two hosts against the model, EF21 over a low rank, median of 5 ($(sed -n 's/^crossover \(.*\): .*/\1/p' "$scratch/between" | paste -sd ';'))"
}
