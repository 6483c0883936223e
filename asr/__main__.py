"""`python -m asr` is the `asr` command."""

from asr.cli import run

if __name__ == "__main__":
    run()
