"""Adapting a model to recordings of one's own: what `asr adapt` does, step by step."""
