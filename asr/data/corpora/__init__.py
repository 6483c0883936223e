"""Corpora as others keep them, each format a module that lists what there is to learn.

A module's `read` returns the subsets of a corpus: what was said in which recording,
before anybody has opened one. `asr.data.prepare` makes manifests of them.
"""
