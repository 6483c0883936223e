"""From recordings to transcripts, with a trained model."""
