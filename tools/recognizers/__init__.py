"""Recognisers that `tools/bench --users` compares, each a program of its own."""
