"""The HTTP door: transcription for every client that knows OpenAI's audio API."""
