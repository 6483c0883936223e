#!/usr/bin/env bash
# From a folder of recordings with their texts to a recogniser of them:
#   recipes/own_corpus/run.sh RECORDINGS [MINUTES]
# RECORDINGS  holds x.wav and x.txt, or is anything else that `asr prepare` reads
# MINUTES     to train (default: 10)
# LM_TEXT=sentences.txt builds a language model of a text, one sentence a line.
# Everything is written below exp/own in the current folder; what was stopped goes on.
set -euo pipefail
python=${PYTHON:-python}
work=exp/own

if [ $# -lt 1 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
words=()

"$python" -m asr prepare "$1" $work/data --split 80:10:10 --normalize english
"$python" -m asr data info $work/data/train.jsonl --page $work/train.html
"$python" -m asr adapt bundled $work/data $work/run --minutes "${2:-10}"
if [ -n "${LM_TEXT:-}" ]; then
    "$python" -m asr lm build "$LM_TEXT" $work/lm --alphabet-of $work/run --dev $work/data/dev.jsonl
    words=(--language-model $work/lm)
fi
"$python" -m asr calibrate $work/data/dev.jsonl $work/run "${words[@]}" ||
    echo "run.sh: goes on with the confidence of the model that was adapted" >&2
"$python" -m asr decode $work/data/test.jsonl $work/decoded --model $work/run "${words[@]}"
"$python" -m asr score $work/data/test.jsonl $work/decoded/hypotheses.jsonl
"$python" -m asr report $work/data/test.jsonl $work/decoded/hypotheses.jsonl --output $work/test.html
