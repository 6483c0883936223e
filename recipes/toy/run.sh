#!/usr/bin/env bash
# From nothing to a word error rate of 0 % in about two minutes on two cores:
#   recipes/toy/run.sh
# Everything is written below exp/toy in the current folder.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python}

"$python" "$here/make.py" exp/toy/data
"$python" -m asr train "$here/las.yaml" exp/toy/run
# Its words are no English: the bundled language model would mislead the search.
"$python" -m asr decode exp/toy/data/test.jsonl exp/toy/decoded --model exp/toy/run --lm-weight 0
"$python" -m asr score exp/toy/data/test.jsonl exp/toy/decoded/hypotheses.jsonl
