#!/usr/bin/env bash
# One round of pseudo-labels: recordings without text become training data.
#
#   recipes/pseudo_labels/run.sh MANIFEST [NUMBER]
#
# MANIFEST  recordings whose texts are known, so that the labels can be judged; their
#           texts are used for nothing else
# NUMBER    of recordings, spread over the manifest (150)
#
# MIN_CONFIDENCE=0.8 is what labels need to be kept. Everything is written below
# exp/pseudo_labels in the current folder. What comes then is said at the end.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python}
work=exp/pseudo_labels
least=${MIN_CONFIDENCE:-0.8}

if [ $# -lt 1 ]; then
    sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
mkdir -p "$work"
"$python" - "$1" "${2:-150}" "$work/references.jsonl" >"$work/recordings.txt" <<'PYTHON'
import sys
from asr.data.manifest import read_manifest, spread, write_manifest

some = spread(read_manifest(sys.argv[1]), int(sys.argv[2]))
write_manifest(sys.argv[3], some)
print("\n".join(utterance.audio for utterance in some))
PYTHON
mapfile -t recordings <"$work/recordings.txt"

"$python" -m asr transcribe "${recordings[@]}" -o "$work" -f manifest 2>"$work/notices.txt"
tail -n 1 "$work/notices.txt"
"$python" "$here/quality.py" "$work/manifest.jsonl" "$work/references.jsonl"

mv "$work/manifest.jsonl" "$work/all.jsonl"
"$python" - "$work/all.jsonl" "$work/labels.jsonl" "$least" <<'PYTHON'
import json, sys

with open(sys.argv[1], encoding="utf-8") as lines, open(sys.argv[2], "w", encoding="utf-8") as kept:
    kept.writelines(line for line in lines if json.loads(line)["confidence"] >= float(sys.argv[3]))
PYTHON
echo "labels with a confidence of $least or more: $work/labels.jsonl"
echo "next: asr train CONFIG RUN data.train='[$work/labels.jsonl,YOUR-TRUE-TEXTS.jsonl]' training.start=MODEL"
