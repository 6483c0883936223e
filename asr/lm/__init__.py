"""Language models: word n-grams, an LSTM beside them, and what estimates and trains them."""
