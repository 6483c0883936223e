"""Transcription without torch: graphs in onnxruntime, all else in numpy (extra `onnx`).

`asr export RUN FOLDER --onnx` makes the folder (`export`, which needs torch), and
`OnnxRecognizer` (see `recognizer`) or `asr transcribe --model FOLDER` uses it. The
search is a small twin of `asr.decoding` and `asr.lm` over numpy; tests hold both
together.
"""
