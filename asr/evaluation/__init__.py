"""What a trained model is worth, and what it is set to."""
