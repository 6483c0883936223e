"""`asr tune`: find settings of the search for a model."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.cli.options import (
    add_command,
    add_settings,
    check_output,
    number,
    own_process,
)
from asr.wording import counted

if TYPE_CHECKING:
    from asr.evaluation.tuning import Plan, Trial


def add(commands: Any) -> None:
    """Add `asr tune`."""
    parser = add_command(
        *(commands, "tune", _tune),
        "try settings of the search on a part of a manifest, and find the best",
        "asr tune data/dev.jsonl exp/run decoding.lm_weight=0.8,1.0 "
        "decoding.word_bonus=-2,-1 --write",
    )
    parser.add_argument(
        "manifest",
        type=Path,
        help="what to try them on: neither training data nor a test set",
    )
    parser.add_argument("model", type=Path, help="a model's or a run's folder")
    add_settings(
        parser,
        "values to try, with commas; all combinations are tried, and what is not named "
        "is the model's own (default: decoding.lm_weight=0,0.8,1 "
        "decoding.word_bonus=-2,-1; without a language model "
        "decoding.ctc_weight=0.2,0.3,0.4)",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="write the best into the model's decoding.json, from where all commands "
        "take it; run `asr calibrate` afterwards (default: only print it)",
    )
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="write all rows into this JSON file"
    )
    parser.add_argument(
        "--language-model",
        type=Path,
        metavar="FOLDER",
        help="of a word n-gram (default: the bundled one); decoding.lm_weight=0 tunes "
        "for a search without",
    )
    parser.add_argument(
        "--utterances", **number(130, "how many, spread evenly (default: 130)")
    )
    parser.add_argument(
        "--processes", **number(None, "worker processes (default: one a core)")
    )


def _tune(args: argparse.Namespace) -> None:
    from asr.evaluation.tuning import best, plan_trials, trials
    from asr.inference.search_settings import save_decoding
    from asr.model.storage import DECODING, find_model_to_change

    own_process()
    if args.table:
        check_output(args.table, args.manifest)
    if args.write:
        find_model_to_change(args.model)  # before hours of trials
    plan = plan_trials(
        args.manifest,
        args.model,
        _choices(args.settings),
        language_model=args.language_model,
        num_utterances=args.utterances,
    )
    print(
        f"{counted(len(plan.combinations), 'combination')}, "
        f"{counted(len(plan.utterances), 'utterance')}, {plan.situation.description}"
    )
    widths = [max(len(name), 6) for name in plan.names]
    print(
        "  ".join(f"{n:>{w}}" for n, w in zip(plan.names, widths, strict=True)), end=""
    )
    print("  seconds  %WER", flush=True)
    tried: list[Trial] = []
    for trial in trials(plan, args.processes):
        tried.append(trial)
        values = [_shown(trial, name) for name in plan.names]
        print(
            "  ".join(f"{v:>{w}}" for v, w in zip(values, widths, strict=True)), end=""
        )
        print(f"  {trial.seconds:7.1f}  {trial.errors}", flush=True)
        if args.table:
            _write_table(args, plan, tried)
    chosen = best(tried)
    print("best:", *(f"decoding.{name}={_shown(chosen, name)}" for name in plan.names))
    place = plan.folder / DECODING
    if args.write:
        save_decoding(plan.folder, plan.situation, chosen.decoding)
        print(f"wrote {place} ({plan.situation})")
    else:
        print(f"{place} stays as it is (--write puts the best there)")


def _shown(trial: "Trial", name: str) -> str:
    value = getattr(trial.decoding, name)
    return "null" if value is None else f"{value:g}"


def _choices(settings: list[str]) -> dict[str, list[Any]]:
    """Read decoding.key=value,value,… as values by name.

    Raises:
        ConfigError: an argument is not of this form.
    """
    from asr.config import parse_settings

    found = dict[str, list[Any]]()
    for setting in settings:
        key, equals, values = setting.partition("=")
        for value in values.split(","):
            one_setting = [f"{key}{equals}{value}"]
            for name, one in parse_settings("decoding", one_setting).items():
                found.setdefault(name, []).append(one)
    return found


def _write_table(args: argparse.Namespace, plan: "Plan", tried: "list[Trial]") -> None:
    from asr.folders import write_bytes

    about = {
        "manifest": str(args.manifest),
        "model": str(plan.folder),
        "language_model": args.language_model and str(args.language_model),
        "situation": plan.situation,
        "utterances": len(plan.utterances),
        "rows": [trial.to_dict() for trial in tried],
    }
    write_bytes(args.table, (json.dumps(about, indent=2) + "\n").encode())
