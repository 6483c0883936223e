"""Language models of words: n-grams, an LSTM beside them, and how both are made."""
