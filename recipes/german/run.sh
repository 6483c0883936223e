#!/usr/bin/env bash
# From nothing to a German recogniser, in a few minutes on two cores:
#   pip install espeakng-loader
#   recipes/german/run.sh
# Everything is written below exp/german in the current folder; a training that was
# stopped goes on where it was.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python}
work=exp/german

"$python" "$here/speak.py" $work/recordings
"$python" -m asr prepare $work/recordings $work/data --split 80:10:10 --split-by text
"$python" -m asr data info $work/data/train.jsonl
"$python" -m asr train "$here/las.yaml" $work/run
"$python" -m asr export $work/run $work/model
# The bundled language model is an English one, which is left out.
"$python" -m asr decode $work/data/test.jsonl $work/decoded --model $work/model
"$python" -m asr score $work/data/test.jsonl $work/decoded/hypotheses.jsonl
"$python" -m asr transcribe $work/recordings/000.wav --model $work/model
