"""From an untrained network to a trained one: loss, schedule, checkpoints, loop."""
