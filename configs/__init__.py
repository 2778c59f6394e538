"""Typed settings of every command, their YAML recipes, and how a command line becomes one of them."""
