"""The network: listener, attention, speller, and the CTC head beside them."""
