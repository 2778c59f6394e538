"""The colours of every picture: legible to the colour-blind, on white."""

INK, MUTED = "#1f2933", "#7b8794"
COLOURS = ("#0b6e99", "#d1495b", "#66a182", "#edae49", "#6c4f9e", "#5c677d")
