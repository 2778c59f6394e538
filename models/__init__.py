"""From uint8 pixels and a meta vector to one logit, and the loss that trains it."""
