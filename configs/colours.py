"""The colours of every figure: on white, distinguishable for colour-blind readers."""

INK, MUTED = "#1f2933", "#7b8794"
COLOURS = ("#0b6e99", "#d1495b", "#66a182", "#edae49", "#6c4f9e", "#5c677d")
