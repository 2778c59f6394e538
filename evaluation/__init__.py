"""Tables of predictions in, numbers out; knows no model."""
