"""From nothing to a word error rate on LibriSpeech."""
