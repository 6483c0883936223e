"""Let espeak-ng speak German sentences: a corpus as people bring it, a file a sentence.

    python recipes/german/speak.py exp/german/recordings

writes 000.wav and 000.txt, and so on: sentences with umlauts, ß, capitals and
punctuation, in three voices. The same seed makes the same sentences. It needs
`pip install espeakng-loader`, which brings the program's library along.

Source: https://github.com/espeak-ng/espeak-ng, speak_lib.h.
"""

import argparse
import ctypes
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from asr.cli.scripts import run_main
from asr.errors import CorpusError

NUMBER = 300
"""Sentences that are spoken."""
_WHO = (
    *("der Bäcker", "die Ärztin", "mein Großvater", "unsere Nachbarin", "Frau Müller"),
    *("das Mädchen", "der König", "Herr Weiß", "ein Schüler", "die Köchin"),
)
_DOES = ("grüßt", "hört", "sieht", "sucht", "fürchtet", "malt", "zählt", "kennt")
_WHAT = (
    *("die Vögel", "den Hügel", "die Straße", "das Frühstück", "ein altes Buch"),
    *("die Brücke", "süße Kirschen", "den Fuß des Berges", "ein Schloss am Meer"),
    *("die Äpfel", "den Jäger", "zwölf Häuser"),
)
_WHEN = (
    *("am Morgen", "im Frühling", "übermorgen", "seit fünf Jahren", "heute Abend"),
    *("ohne Grund", "jeden Tag", "zu Hause", "außer sonntags"),
)
_FORMS = (
    *("{who} {does} {what} {when}.", "{when} {does} {who} {what}."),
    *("Warum {does} {who} {what}?", "Ja, {who} {does} {what}!"),
)
_VOICES = ("de", "de+f2", "de+m3")
_SYNCHRONOUS, _BY_CHARACTER, _UTF8 = 2, 1, 1  # of speak_lib.h
_RATE, _PITCH = 1, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Speak what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="speak", description="Let espeak-ng speak German sentences."
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--number", type=int, default=NUMBER, metavar="N")
    options = parser.parse_args(arguments)
    return run_main("speak", lambda: speak(options.folder, options.number))


def speak(folder: Path, number: int, seed: int = 0) -> None:
    """Write recordings and their texts.

    Args:
        folder: for the files; made if it is missing.
        number: of sentences.
        seed: of the sentences and of how they are spoken.

    Raises:
        CorpusError: espeak-ng is missing, or the folder cannot be written.
    """
    voice = Voice()
    rng = random.Random(f"german {seed}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place, sentence in zip(range(number), sentences(rng), strict=False):
            samples = voice.say(
                sentence,
                rng.choice(_VOICES),
                words_a_minute=rng.randint(140, 180),
                pitch=rng.randint(35, 65),
            )
            soundfile.write(folder / f"{place:03d}.wav", samples, voice.rate)
            text = folder / f"{place:03d}.txt"
            text.write_text(f"{sentence}\n", encoding="utf-8")
    except OSError as error:
        raise CorpusError(f"{folder}: cannot be written ({error.strerror})") from error


def sentences(rng: random.Random) -> Iterator[str]:
    """Make up sentences, each once."""
    seen = set[str]()
    while True:
        sentence = rng.choice(_FORMS).format(
            who=rng.choice(_WHO),
            does=rng.choice(_DOES),
            what=rng.choice(_WHAT),
            when=rng.choice(_WHEN),
        )
        sentence = sentence[0].upper() + sentence[1:]
        if sentence not in seen:
            seen.add(sentence)
            yield sentence


class Voice:
    """The library of espeak-ng, ready to speak.

    Raises:
        CorpusError: it is not installed.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader  # type: ignore[import-untyped]
        except ImportError as error:
            raise CorpusError(
                "espeak-ng is missing (pip install espeakng-loader)"
            ) from error
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self.rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
        if self.rate <= 0:
            raise CorpusError("espeak-ng cannot start (its data are missing)")
        self._pieces = list[npt.NDArray[np.int16]]()
        kind = ctypes.CFUNCTYPE(
            *(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int),
            ctypes.c_void_p,
        )
        self._callback = kind(self._receive)  # must live as long as the library
        self._library.espeak_SetSynthCallback(self._callback)

    def say(
        self, text: str, voice: str, *, words_a_minute: int, pitch: int
    ) -> npt.NDArray[np.int16]:
        """Speak a text; return (N,) samples at `rate`."""
        self._library.espeak_SetVoiceByName(voice.encode())
        self._library.espeak_SetParameter(_RATE, words_a_minute, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        content = text.encode()
        self._pieces.clear()
        self._library.espeak_Synth(
            *(content, len(content) + 1, 0, _BY_CHARACTER, 0, _UTF8, None, None)
        )
        return np.concatenate(self._pieces)

    def _receive(
        self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: int
    ) -> int:
        if count:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


if __name__ == "__main__":
    sys.exit(main())
