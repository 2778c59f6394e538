"""Typed settings of every command, their YAML recipes, and command-line parsing."""
