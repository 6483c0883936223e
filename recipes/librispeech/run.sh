#!/usr/bin/env bash
# From a LibriSpeech folder to a word error rate:
#
#   recipes/librispeech/run.sh CORPUS [STAGE…] [key=value…]
#
# CORPUS   holds train-clean-100/, dev-clean/, …, or a LibriSpeech/ folder that does
# STAGE    some of: prepare train decode score; all four by default
# key=value goes to the training, as in stages.2.training.minutes=200
#
# CONFIG=las_small takes another of configs/ (las_mini by default, two hours on two cores),
# CONFIG="las_mini las_mini_stage5" several; TEST=test-other another test set.
# Everything is written below exp/librispeech in the current folder; a run that was
# stopped goes on where it was.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python}
read -ra configs <<<"${CONFIG:-las_mini}"
last=${configs[-1]}
test=${TEST:-test-clean}
work=exp/librispeech

if [ $# -lt 1 ]; then
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
corpus=$1
shift
stages=() settings=()
for word; do
    case $word in
        prepare | train | decode | score) stages+=("$word") ;;
        *=*) settings+=("$word") ;;
        *)
            echo "run.sh: $word is no stage (prepare, train, decode, score) and no key=value" >&2
            exit 2
            ;;
    esac
done
[ ${#stages[@]} -gt 0 ] || stages=(prepare train decode score)

for stage in "${stages[@]}"; do
    echo "== $stage" >&2
    case $stage in
        prepare)
            "$python" "$here/prepare.py" "$corpus" "$work/data"
            if (cd "$here/configs" && grep -qE 'dev-clean\.(held|rest)' "${configs[@]/%/.yaml}"); then
                "$python" "$here/split_speakers.py" "$work/data/dev-clean.jsonl" --every 3
            fi
            ;;
        train)
            for config in "${configs[@]}"; do
                "$python" -m asr train "$here/configs/$config.yaml" "$work/$config" \
                    "${settings[@]}"
            done
            ;;
        decode)
            "$python" -m asr decode "$work/data/$test.jsonl" "$work/$last/$test" \
                --model "$work/$last"
            ;;
        score)
            "$python" -m asr score "$work/data/$test.jsonl" \
                "$work/$last/$test/hypotheses.jsonl" --details
            ;;
    esac
done
