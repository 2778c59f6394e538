"""Numbers that are not finite: in options, in meta vectors, in the loss, in predictions of others."""

from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tests.chaos.case import REFUSED, Case, Kind, Seen, crashed, judged, refused
from tests.chaos.world import infer_words, lesion_words, train_words

VALUES = ("nan", "inf", "-inf", "1e400", "-1e400", "1e308")


def _option(option: str, case: Case) -> Seen:
    """A number of the command line. The greatest double is a finite number, and no useful one."""
    value, out = case.rng.choice(VALUES), case.place / "out"
    lesion = option in ("--age", "--prevalence")
    if lesion:
        answer = case.place / "answer.csv"
        words = lesion_words(case.world.image, case.world.runs, case.world.outputs, answer, f"{option}={value}")
    else:
        words = train_words(case.world.shards, out, f"{option}={value}")
    ended = case.run("infer" if lesion else "train", *words)
    bad = crashed(ended, f"{option}={value}")
    if bad is not None:
        return bad
    if ended.code:
        return refused(ended, f"{option}={value}")
    finite = "nan" not in ended.output.lower().replace("2019 nan", "").replace("2020 nan", "")
    if finite and option != "--age":
        return Seen(verdict="ok", words="finite results", detail=f"{option}={value}: {ended.output[-500:]}")
    return Seen(verdict="silent", words="taken", detail=f"{option}={value}: {ended.output[-1500:]}")


def _loss(case: Case) -> Seen:
    """A learning rate that throws the weights out of the finite numbers."""
    out = case.place / "out"
    rate = 10 ** case.rng.uniform(10, 37)
    ended = case.run("train", *train_words(case.world.shards, out, "--optim.lr", f"{rate:g}"))
    bad = crashed(ended, f"lr {rate:g}")
    if bad is not None:
        return bad
    if ended.code:
        return refused(ended, f"lr {rate:g}")
    return Seen(verdict="ok", words="finite results", detail=ended.output[-500:])


def _meta(case: Case) -> Seen:
    """One value of a meta vector in samples.parquet; the file is sound but for that."""
    shards, out = case.copy(case.world.shards), case.place / "out"
    path = shards / "samples.parquet"
    table = pq.read_table(path)
    column = table.schema.get_field_index("meta_clinical")
    values = np.stack(table["meta_clinical"].to_pylist()).astype(np.float32)
    values[case.rng.randrange(len(values)), case.rng.randrange(values.shape[1])] = float(case.rng.choice(VALUES[:3]))
    field = table.schema.field(column)
    pq.write_table(table.set_column(column, field, pa.array(values.tolist(), field.type)), path)
    ended = case.run("infer", *infer_words(case.world.runs, shards, out, "--ensemble"))
    return judged(ended, "a meta value that is not finite", same=lambda: False, name=path.name)


def _predictions(case: Case) -> Seen:
    """Predictions of others with a value that is no probability."""
    path, rows = case.place / "others.csv", 40
    frame = pd.DataFrame({"image_name": [f"ISIC_{row:07d}" for row in range(rows)], "target": [0, 1] * (rows // 2)})
    frame["fold"], frame["p"] = [row % 3 for row in range(rows)], np.linspace(0.01, 0.99, rows)
    frame["p"] = frame["p"].astype(object)
    value = case.rng.choice(["nan", "inf", "-inf", "", "1e400", "2", "-0.5", "0,5", "high", "None"])
    frame.loc[case.rng.randrange(rows), "p"] = value
    frame.to_csv(path, index=False)
    ended = case.run("judge", path, "--score", "p", "--fold", "fold", "--draws", "100")
    bad = crashed(ended, f"p = {value!r}")
    if bad is not None:
        return bad
    if ended.code:
        return refused(ended, f"p = {value!r}", path.name)
    told = "note:" in ended.output or value in ("2", "-0.5")  # a score may be any number
    return Seen(verdict="ok" if told else "silent", words="judged", detail=f"p = {value!r}: {ended.output[-800:]}")


_OPTIONS = ("--optim.lr", "--optim.weight-decay", "--optim.positive-weight", "--optim.warmup-epochs")
_OPTIONS += ("--augment.hue", "--model.head-drop", "--optim.clip-grad", "--optim.ema", "--age", "--prevalence")
KINDS = [
    *(
        Kind(
            injected=f"{option} that is not finite",
            expected=f"{REFUSED}, or finite results",
            attempt=partial(_option, option),
            quick=True,
        )
        for option in _OPTIONS
    ),
    Kind(
        injected="a learning rate of 1e10 and more", expected=f"{REFUSED}, or finite results", attempt=_loss, quick=True
    ),
    Kind(injected="a meta vector that is not finite", expected=REFUSED, attempt=_meta, quick=True),
    Kind(injected="predictions of others that are no number", expected=REFUSED, attempt=_predictions, quick=True),
]
