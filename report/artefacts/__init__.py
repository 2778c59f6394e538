"""Artefacts in the pictures: found, drawn on, and what they do to the scores."""
