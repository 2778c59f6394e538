"""From uint8 pixels and a meta vector to logits, and the losses that train them."""
