"""PocketSphinx, with the American English model of its wheel and its defaults."""

from importlib.metadata import version
from typing import Any

from tools.recognizers.protocol import Ready, model_folder, samples_of, serve


def load(settings: "dict[str, Any]") -> Ready:
    """Load the decoder."""
    from pocketsphinx import Decoder, get_model_path

    folder = model_folder(settings, get_model_path("en-us"))
    decoder = Decoder(
        hmm=f"{folder}/en-us",
        lm=f"{folder}/en-us.lm.bin",
        dict=f"{folder}/cmudict-en-us.dict",
        loglevel="ERROR",
    )

    def transcribe(path: str) -> str:
        decoder.start_utt()
        decoder.process_raw(samples_of(path), full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return str(found.hypstr) if found else ""

    return Ready(f"pocketsphinx {version('pocketsphinx')}, en-us", [folder], transcribe)


if __name__ == "__main__":
    serve(load)
