"""The data: what the pictures look like, how large they are, who has melanoma, and what goes with what."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from configs.colours import COLOURS, INK, MUTED
from evaluation.discrimination import wilson_interval
from evaluation.subgroups import AGE_BANDS, MISSING, age_bands
from report.case import Case
from report.gallery import gallery, pixels
from report.page import Cell, Picture, Section, Table
from report.style import finish, panels

_SHOWN = 6  # pictures in a line


def section(case: Case) -> Section:
    """The reference figures of the data set, of its training rows."""
    rows = case.rows.iloc[: len(case.shards)]
    rows = rows[rows["split"] == "train"]
    melanomas = int((rows["target"] == 1).sum())
    shares = ", ".join(f"{name} {(part['target'] == 1).mean():.1%}" for name, part in _by_source(rows))
    return Section(
        title="The data",
        lead=f"{len(rows):,} training images, {melanomas:,} of them melanomas ({melanomas / len(rows):.1%}; {shares}). "
        "Whatever tells the sources apart tells something about melanoma, without being a sign of it.",
        parts=[
            sample_images(case, rows),
            target_distribution(rows),
            metadata_analysis(rows),
            image_properties(rows),
            feature_correlation(rows),
            _table_of_folds(rows),
            _table_of_properties(rows),
        ],
    )


def source_name(source: int) -> str:
    """2019 or 2020, or outside for other sets."""
    return str(source or "outside")


def in_order(values: pd.Series) -> list[str]:
    """The distinct values: bands of age from young to old, others by name, "missing" last."""
    bands = AGE_BANDS
    return sorted(values.unique(), key=lambda name: (name == MISSING, bands.index(name) if name in bands else 0, name))


def _by_source(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for source, part in rows.groupby("source"):
        yield source_name(int(str(source))), part


def sample_images(case: Case, rows: pd.DataFrame) -> Picture:
    """Training pictures drawn at random, a line for each source and target."""
    rng = np.random.default_rng(case.config.seed)
    images, words, titles = [], [], []
    for name, part in _by_source(rows):
        for target, what in ((1, "melanoma"), (0, "no melanoma")):
            some = part[part["target"] == target]
            if some.empty:
                continue
            titles.append(f"{name}, {what} ({len(some):,})")
            chosen = np.sort(rng.choice(some.index.to_numpy(), min(_SHOWN, len(some)), replace=False))
            blank = np.full_like(pixels(case.shards, int(chosen[0])), 255)
            found = [pixels(case.shards, int(row)) for row in chosen]
            names = [str(rows.loc[row, "diagnosis"])[:22] for row in chosen]
            images += found + [blank] * (_SHOWN - len(found))
            words += names + [""] * (_SHOWN - len(found))
    return Picture(
        name="sample_images",
        figure=gallery(images, words, titles, lines=1),
        caption="Training images drawn at random, as the models see them, with their diagnoses. Look for what differs "
        "between the lines besides the lesion: colour, magnification, dark corners, rulers, hair.",
    )


def target_distribution(rows: pd.DataFrame) -> Picture:
    """Images and share of melanoma by source."""
    figure, (counts, shares) = panels(2, width=3.6, height=3.0)
    parts = [("all", rows), *_by_source(rows)]
    for place, (_, part) in enumerate(parts):
        melanomas = int((part["target"] == 1).sum())
        found = wilson_interval(melanomas, len(part))
        counts.bar(place, len(part) - melanomas, color=COLOURS[0], label="no melanoma" if place == 0 else None)
        counts.bar(
            place, melanomas, bottom=len(part) - melanomas, color=COLOURS[1], label="melanoma" if place == 0 else None
        )
        counts.text(place, len(part), f"{melanomas:,}", ha="center", va="bottom", fontsize=8, color=COLOURS[1])
        shares.bar(place, found.value, color=COLOURS[1])
        shares.plot([place, place], [found.low, found.high], color=INK, linewidth=1.5)
        shares.text(place + 0.06, found.high, f"{found.value:.1%}", va="bottom", fontsize=8, color=INK)
    for axis in (counts, shares):
        axis.set_xticks(range(len(parts)), [name for name, _ in parts])
    counts.legend(frameon=False, fontsize=8)
    finish(counts, "images (melanomas)")
    finish(shares, "share of melanoma, 95 % interval")
    return Picture(
        name="target_distribution",
        figure=figure,
        caption="Melanomas are rare, and not equally rare in each source: a model that only recognises the source "
        "already ranks images better than chance (see the shortcut audit).",
    )


def metadata_analysis(rows: pd.DataFrame) -> Picture:
    """Age, sex and site by target."""
    figure, axes = panels(4, rows=2, width=3.8, height=3.0)
    melanoma = rows["target"] == 1
    for target, colour, name in ((0, COLOURS[0], "no melanoma"), (1, COLOURS[1], "melanoma")):
        age = rows["age"][(rows["target"] == target) & rows["age"].notna()]
        if len(age):
            weights = np.full(len(age), 1 / len(age))
            axes[0].hist(age, bins=list(range(0, 95, 5)), weights=weights, color=colour, alpha=0.55, label=name)
    axes[0].legend(frameon=False, fontsize=8)
    finish(axes[0], "age, share of each class", "years")
    for axis, values, title in (
        (axes[1], pd.Series(age_bands(rows["age"]), rows.index), "melanoma by age"),
        (axes[2], rows["sex"], "melanoma by sex"),
        (axes[3], rows["site"], "melanoma by site"),
    ):
        _shares(axis, values.fillna("missing").astype(str), melanoma, title)
    return Picture(
        name="metadata_analysis",
        figure=figure,
        caption="Share of melanoma by age, sex and site, with 95 % intervals and the number of images. Age tells most. "
        "A missing value tells something too where it is missing more often in one source.",
    )


def _shares(draw: Any, values: pd.Series, melanoma: pd.Series, title: str) -> None:
    """Horizontal bars of the share of melanoma for each value, with Wilson's intervals."""
    names = in_order(values)
    for place, name in enumerate(reversed(names)):
        chosen = values == name
        found = wilson_interval(int(melanoma[chosen].sum()), int(chosen.sum()))
        draw.barh(place, found.value, color=COLOURS[1] if name != "missing" else MUTED, height=0.6)
        draw.plot([found.low, found.high], [place, place], color=INK, linewidth=1.5)
        draw.text(found.high, place, f" {int(chosen.sum()):,}", va="center", fontsize=8, color=MUTED)
    draw.set_yticks(range(len(names)), [name.replace("extremity", "extr.") for name in reversed(names)])
    draw.margins(x=0.15)
    finish(draw, title)


def image_properties(rows: pd.DataFrame) -> Picture:
    """Sizes of the original pictures in pixels and bytes, by source."""
    figure, (size, weight) = panels(2, width=3.8, height=3.2)
    for (name, part), colour in zip(_by_source(rows), (COLOURS[0], COLOURS[3], COLOURS[4]), strict=False):
        counted = part.groupby(["width", "height"]).size().reset_index(name="images")
        area = 8 + 120 * counted["images"] / len(part)
        size.scatter(counted["width"], counted["height"], s=area, color=colour, alpha=0.6, label=name, linewidths=0)
        known = part["file_bytes"][part["file_bytes"] > 0]
        if len(known):
            steps = np.geomspace(known.min(), max(known.max(), known.min() + 1), 30).tolist()
            weight.hist(
                known, bins=steps, weights=np.full(len(known), 1 / len(known)), color=colour, alpha=0.55, label=name
            )
    for axis in (size, weight):
        axis.legend(frameon=False, fontsize=8)
    weight.set_xscale("log")
    finish(size, "original size; area: share of images", "width, pixels", "height, pixels")
    finish(weight, "size of the file, share of images", "bytes")
    return Picture(
        name="image_properties",
        figure=figure,
        caption="Size of the original pictures in pixels and in bytes. Sizes differ by source and clinic, so they hint "
        "at the label. Stored pictures are all of one size, but sharpness and compression still show the original's.",
    )


def features(rows: pd.DataFrame) -> pd.DataFrame:
    """Numbers that a correlation can be computed of, float64; missing where the table has none."""
    positive = rows["file_bytes"].where(rows["file_bytes"] > 0)
    found = {
        "melanoma": rows["target"],
        "source 2020": rows["source"] == 2020,
        "age": rows["age"],
        "male": (rows["sex"] == "male").where(rows["sex"].notna()),
        "site: head/neck": (rows["site"] == "head/neck").where(rows["site"].notna()),
        "site: torso": (rows["site"] == "torso").where(rows["site"].notna()),
        "site missing": rows["site"].isna(),
        "age missing": rows["age"].isna(),
        "images of patient": np.log1p(rows["n_images"].astype("float64")),
        "file size": np.log(positive.astype("float64")),
        "pixels": np.log((rows["width"].astype("float64") * rows["height"]).where(rows["width"] > 0)),
        "aspect ratio": (rows["width"] / rows["height"]).where(rows["height"] > 0),
    }
    return pd.DataFrame(found).astype("float64")


def feature_correlation(rows: pd.DataFrame) -> Picture:
    """Spearman's rank correlation of every two features."""
    table = features(rows)
    table = table.loc[:, table.nunique() > 1]
    found = table.corr(method="spearman").to_numpy()
    figure, (axis,) = panels(1, width=6.4, height=5.6)
    shown = axis.imshow(found, cmap="PuOr", vmin=-1, vmax=1)
    for (line, column), value in np.ndenumerate(found):
        if not np.isnan(value):
            colour = "white" if abs(value) > 0.6 else INK
            axis.text(column, line, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    axis.set_xticks(range(len(table.columns)), table.columns, rotation=45, ha="right")
    axis.set_yticks(range(len(table.columns)), table.columns)
    finish(axis, "rank correlation (Spearman)")
    axis.grid(visible=False)
    figure.colorbar(shown, shrink=0.8)
    return Picture(
        name="feature_correlation",
        figure=figure,
        caption="Rank correlations of what the tables and files say. The first line is what goes with melanoma; the "
        "second, what goes with the source. What is strong in both is a candidate for a shortcut.",
    )


def _table_of_folds(rows: pd.DataFrame) -> Table:
    lines: list[dict[str, Cell]] = []
    for (fold, subsource), part in rows.groupby(["fold", "subsource"]):
        lines.append(
            {
                "fold": str(fold),
                "sub-source": str(subsource),
                "images": len(part),
                "melanomas": int((part["target"] == 1).sum()),
                "groups": int(part["group"].nunique()),
            }
        )
    caption = "Images, melanomas and groups (patients, lesions, duplicates) by fold and sub-source"
    return Table(name="folds", caption=caption, rows=lines, folded=True)


def _table_of_properties(rows: pd.DataFrame) -> Table:
    lines: list[dict[str, Cell]] = []
    for name, part in _by_source(rows):
        for column in ("width", "height", "file_bytes"):
            values = part[column][part[column] > 0].astype("float64")
            at = values.quantile([0, 0.05, 0.5, 0.95, 1]).tolist()
            heads = ("least", "5 %", "median", "95 %", "most")
            cells = {head: int(value) if value == value else None for head, value in zip(heads, at, strict=True)}
            lines.append({"source": name, "property": column.replace("_", " "), **cells})
    caption = "Original pictures: width and height in pixels, size of the file in bytes"
    return Table(name="image_properties", caption=caption, rows=lines, folded=True)
