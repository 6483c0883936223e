"""Runs of a training: what they learn from, begin with, and hold in their folders."""
