"""Listen, Attend and Spell: speech recognition from audio to characters."""
