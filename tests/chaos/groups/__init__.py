"""The groups of faults, by name."""

from collections.abc import Sequence

from tests.chaos.case import Kind
from tests.chaos.groups import (
    bits,
    bombs,
    checkpoints,
    disks,
    endurance,
    kills,
    limits,
    numbers,
    ranks,
    strange,
    tables,
    writers,
)

GROUPS: dict[str, Sequence[Kind]] = {
    "bits": bits.KINDS,
    "bombs": bombs.KINDS,
    "checkpoints": checkpoints.KINDS,
    "disks": disks.KINDS,
    "endurance": endurance.KINDS,
    "kills": kills.KINDS,
    "limits": limits.KINDS,
    "numbers": numbers.KINDS,
    "ranks": ranks.KINDS,
    "strange": strange.KINDS,
    "tables": tables.KINDS,
    "writers": writers.KINDS,
}
