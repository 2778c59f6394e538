"""The folder of a synthetic data set: made completely or not at all, never over other files."""

import json
import shutil
from pathlib import Path

import pandas as pd

from configs.errors import UserError
from configs.files import written_whole
from configs.prep import SyntheticConfig
from prep.synth.cases import make_cases, pictures, plant_rulers, write_tables
from prep.synth.lesion import draw_all

RECIPE = 1  # raise it when the same settings give other bytes
SETTINGS = "settings.json"  # written last: a folder that holds it is complete


def make(config: SyntheticConfig) -> pd.DataFrame:
    """Make the set that `config` asks for, unless OUT holds it already; return its rows (see make_cases).

    Raises UserError where OUT holds anything else.
    """
    out = Path(config.out).resolve()
    settings: dict[str, int | str]
    settings = {name: getattr(config, name) for name in ("train", "test", "size", "seed")} | {"recipe": RECIPE}
    cases = make_cases(train=config.train, test=config.test, seed=config.seed)
    if config.plant == "rulers":
        settings["plant"] = config.plant
        cases = plant_rulers(cases, seed=config.seed)
    if _holds(out, settings):
        print(f"{config.out} holds this data set already")
        return cases
    partial = out.with_name(f"{out.name}.partial")
    if partial.exists():  # what an interrupted run left, if it is nothing else
        strange = {entry.name for entry in partial.iterdir()} - {"2019", "2020", "truth.csv", SETTINGS}
        if strange:
            what = f"{min(strange)}, which this command did not write"
            raise UserError(f"{partial} holds {what}: move it away or choose another --out")
        shutil.rmtree(partial)
    write_tables(cases, partial)
    draw_all(pictures(cases, partial), seed=config.seed, size=config.size, workers=config.workers)
    with written_whole(partial / SETTINGS) as file:
        file.write((json.dumps(settings, indent=2) + "\n").encode())
    partial.rename(out)
    return cases


def _holds(out: Path, settings: dict[str, int | str]) -> bool:
    """Whether `out` is complete and made with `settings`; False where nothing is there."""
    if not out.exists():
        return False
    try:
        found = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found != settings:
        what = "no synthetic data set" if found is None else f"another set ({found})"
        raise UserError(f"{out} exists and holds {what}; choose another folder with --out, or remove this one")
    return True
