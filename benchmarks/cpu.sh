#!/usr/bin/env bash
# Every row of the tables of speed on processors, each pair in one run: one Markdown table and the same as JSON.
#
#   bash benchmarks/cpu.sh [OUT] [ROWS...]     OUT (default: cpu_results) gets cpu.md, cpu.json and runs/*.json
#
# ROWS, by default all but the last two (in brackets minutes on two AVX2 cores without peers, estimated from single calls):
#   forward    the fixed networks' forward pass, float32: plain operators, PyTorch         (2)
#   unet_256   the same for U-256, one image                                               (3)
#   bf16       forward pass in bfloat16, where the processor multiplies it                 (2)
#   training   training step, batch 8: plain operators; two one-thread workers against two
#              intra-op threads                                                            (6)
#   kernels    group norm with SiLU, 3 x 3 convolutions, a guided solver step, maps         (6)
#   targets    13 targets: one inversion, and guidance on an interval, against a loop      (5)
#   map_kinds  score-difference and evidence maps against difference maps                  (1)
#   loss       contrastive loss in tiles: whole matrices, PyTorch                          (7)
#   encoder    image towers without and with maps: PyTorch                                 (3)
#   tokenizer  10,000 reports: open_clip                                                   (1)
#   index      exact search of 100k x 512, and opening their file: FAISS                   (4)
#   graph      the same through a graph, at equal recall, without and with filters: hnswlib (5, with its filters 40)
#   metrics    AUROC with 1000 patient bootstraps, mAP and nDCG: scikit-learn, torchmetrics (2)
#   index_large  exact search by size, 1k to 2M x 512, with memory a row; median and 99th percentile of a query during
#              changes; opening 1M x 512: FAISS; three repetitions; takes 8 GB of memory and 5 GB of /tmp
#   large      loss of 65,536 items; targets and map kinds with U-64; three repetitions   (65)
# The table is made of everything in OUT/runs, so rows may be added to it one by one.
#
# DAUG_PEERS_PYTHON names a Python with what benchmarks/README.md lists; without it the peers' lines are left out, but for
# hnswlib's, which is compiled in (DAUG_PEER_HNSWLIB: the folder of one with filters). Peers run between two halves of our
# repetitions. REPETITIONS (10), DAUG_THREADS (all; the rows of training and index take 2). Run nothing beside it. It says for
# which instruction sets our loops are compiled (benchmarks/README.md).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=${1:-cpu_results}
all=(forward unet_256 bf16 training kernels targets map_kinds loss encoder tokenizer index graph metrics)
rows=("${@:2}")
[[ ${#rows[@]} -gt 0 ]] || rows=("${all[@]}")
for row in "${rows[@]}"; do
  [[ " ${all[*]} index_large large " == *" $row "* ]] || { echo "cpu.sh: no row named $row" >&2; exit 2; }
done
python=${DAUG_PEERS_PYTHON:-}
export DAUG_THREADS=${DAUG_THREADS:-$(nproc)}
DAUG_PEER_FILES=$(mktemp -d)
export DAUG_PEER_FILES
trap 'rm -rf "$DAUG_PEER_FILES"' EXIT
failed=()

# ours PART REPETITIONS PROGRAM FILTER [OPTIONS...]: what fails, of ours or a peer's, costs its own part alone
ours() {
  "build/benchmarks/bench_$3" --benchmark_filter="$4" --benchmark_repetitions="$2" \
    --benchmark_enable_random_interleaving=true --benchmark_display_aggregates_only=true "${@:5}" \
    --benchmark_out="$out/runs/$1.unfinished" --benchmark_out_format=json &&
    mv "$out/runs/$1.unfinished" "$out/runs/$1.json" || failed+=("$1")
}

# beside_peer PART REPETITIONS PROGRAM FILTER PEER [ARGUMENTS...]: half of ours, the peer, the other half
beside_peer() {
  if [[ -z $python ]]; then ours "${@:1:4}"; return; fi
  ours "$1.before" $((($2 + 1) / 2)) "$3" "$4"
  "$python" "benchmarks/peers/bench_$5_peers.py" --files "$DAUG_PEER_FILES" --repetitions "$2" \
    --out "$out/runs/$1.peer.json" "${@:6}" || failed+=("$1.peer")
  [[ $2 -lt 2 ]] || ours "$1.after" $(($2 / 2)) "$3" "$4"
}

run_row() {
  local n=${REPETITIONS:-10}
  rm -f "$out/runs/$1".*
  case $1 in
    forward) beside_peer forward "$n" translator 'forward/unet_(64|128)(_plain)?/' translator --sides 64 128 ;;
    unet_256) beside_peer unet_256 "$n" translator 'forward/unet_256(_plain)?/' translator --sides 256 ;;
    bf16) ours bf16 "$n" translator 'forward/unet_(64|128)_(bf16|plain)/' ;;
    training) DAUG_THREADS=2 ours training "$n" translator '^training/' ;;
    kernels)
      ours kernels "$n" kernels '(nchw|channels_last)_(fused|operators)|solver_update|encoder_maps' \
        --benchmark_min_time=0.1 ;;
    targets) ours targets "$n" translator '^targets/' ;;
    map_kinds) ours map_kinds "$n" heatmap '^map_kind/' ;;
    loss)
      beside_peer loss "$n" loss '(hybrid_loss/clip_tiled|run/clip_(one|two)_products?)/B:(4096|16384)/' loss \
        --batches 4096 16384 ;;
    encoder) beside_peer encoder "$n" encoder '^forward_16/' encoder ;;
    tokenizer)
      if [[ -n $python ]]; then
        DAUG_VOCABULARY=$("$python" benchmarks/peers/bench_tokenizer_peers.py --vocabulary) || unset DAUG_VOCABULARY
        export DAUG_VOCABULARY
      fi
      beside_peer tokenizer "$n" tokenizer \
        '(encode_77|tokenize_each|tokenize_beyond_ascii|tokenize_broken/[a-z0-9_]+)/open_clip:1' tokenizer ;;
    index) beside_peer index "$n" index '^(search/storage:3|opening/alone/items:100000)/' index ;;
    graph) ours graph "$n" graph . --benchmark_min_time=0.01 ;;  # a thousand queries an iteration
    metrics) beside_peer metrics "$n" metrics '^(auroc_bootstrap|map_at_10|tied_ndcg)/' metrics ;;
    index_large)
      export DAUG_BENCH_LARGE=1
      # Without interleaving, for which an index would be made anew at every change of the size.
      ours index_large 3 index '^(by_size|during_changes)/' --benchmark_enable_random_interleaving=false
      beside_peer index_large.opening 3 index '^opening/alone/items:1000000/' index --open 1000000
      unset DAUG_BENCH_LARGE ;;
    large)
      export DAUG_BENCH_LARGE=1
      ours large.loss 3 loss 'hybrid_loss/clip_tiled/B:(16384|65536)/'
      ours large.targets 3 translator '^targets/.*side:64'
      ours large.map_kinds 3 heatmap '^map_kind/.*side:64'
      unset DAUG_BENCH_LARGE ;;
  esac
}

cmake --preset default -DDAUG_BUILD_BENCHMARKS=ON ${DAUG_PEER_HNSWLIB:+"-DDAUG_PEER_HNSWLIB=$DAUG_PEER_HNSWLIB"}
cmake --build build --target bench_{translator,kernels,heatmap,loss,encoder,tokenizer,index,graph,metrics}
mkdir -p "$out/runs"

# What our loops may use is settled when they are compiled (src/kernels/cpu/targets.h), the best of it at run time.
compiled="for $(uname -m)"
[[ $compiled != *x86_64 ]] || compiled="for plain code, SSE4 and AVX2, not for AVX-512 and AMX (DAUG_AVX512 is off)"
if grep -qiE '^DAUG_AVX512:[A-Z]+=(ON|1|TRUE|YES|Y)$' build/CMakeCache.txt; then
  compiled="for plain code, SSE4, AVX2, AVX-512 and AMX"
elif grep -qw avx512f /proc/cpuinfo 2>/dev/null; then
  compiled+=", which this processor has"
fi
compiled="Our kernels and searches are compiled $compiled"
echo "cpu.sh: $compiled"

for row in "${rows[@]}"; do run_row "$row"; done
python3 benchmarks/support/table.py cpu "$out/cpu" "$out"/runs/*.json --title "Speed on a processor" \
  --note "$compiled${python:+, with peers}${failed[*]:+, FAILED: ${failed[*]}}"
[[ ${#failed[@]} -eq 0 ]]
