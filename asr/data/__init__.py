"""From a manifest to batches: utterances, their features, and their order."""
