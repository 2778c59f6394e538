"""Tables of predictions in, metrics out; independent of any model."""
