"""`asr live`: text of what is said into a microphone, while it is said."""

import argparse
import shutil
import sys
from typing import Any

from asr.cli.options import (
    add_command,
    add_device,
    add_search,
    add_settings,
    checked,
    load_recognizer,
    one_line,
)


def add(commands: Any) -> None:
    """Add `asr live`."""
    parser = add_command(
        *(commands, "live", run),
        "transcribe a microphone while somebody speaks; Ctrl-C ends it",
        "asr live > notes.txt",
    )
    parser.add_argument(
        "--list-devices", action="store_true", help="list the microphones, and exit"
    )
    parser.add_argument(
        "--device-name",
        metavar="NAME",
        help="of the microphone: its number, its name or a part of it (default: the "
        "system's)",
    )
    add_pause(parser)
    add_search(parser)
    add_device(parser)
    add_settings(parser, "settings of the search")


def add_pause(parser: argparse._ActionsContainer) -> None:
    """Add how long a pause is."""
    parser.add_argument(
        "--pause",
        type=float,
        metavar="SECONDS",
        help="of silence after which a text is final (default: 0.5)",
    )


def run(args: argparse.Namespace) -> int:
    """Transcribe a microphone; return the exit status."""
    from asr.audio import PCMStream
    from asr.audio.microphone import devices, find_device, recording
    from asr.cli.listening import Blocks, Lines, Screen, is_terminal, listen
    from asr.inference.live import LiveConfig

    if args.list_devices:
        for one in devices():
            mark = "*" if one.is_default else " "
            print(one_line(f"{mark} {one.number:2}  {one.name} ({one.rate} Hz)"))
        return 0
    shows_provisional = is_terminal()
    config = checked(LiveConfig, pause=args.pause)
    if not shows_provisional:
        config = LiveConfig(config.pause, interval=None)
    device = find_device(args.device_name)
    stream = checked(PCMStream, rate=device.rate)
    recognizer = load_recognizer(args)
    blocks = Blocks()
    lines = Lines(lambda segment: one_line(segment.text))
    screen = Screen(sys.stdout, lambda: shutil.get_terminal_size().columns)
    with recording(device, blocks.put):
        print(one_line(f"asr: listening to {device.name}"), file=sys.stderr)
        show = screen.show if shows_provisional else lines.show
        listen(blocks, stream, recognizer, config, show)
        if shows_provisional:
            screen.end()
    return 0
