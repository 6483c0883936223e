"""Learning from recordings without text: labels by a model, chosen by confidence."""
