"""Tables of every make, by hypothesis: sound ones written oddly, and noise."""

import csv
import io
import math
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from configs.errors import UserError
from tests.chaos.case import Case, Kind, Seen, main_of

EXAMPLES = 12
_SITES = ("torso", "head/neck", "lower extremity", "palms/soles", "anterior torso", "")
_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a table is written. decimal: the sign in numbers; ending: what follows the names of images."""

    separator: str
    line: str
    encoding: str
    quoting: int
    decimal: str
    ending: str
    blanks: int
    spaces: bool


STYLES = st.builds(
    Style,
    separator=st.sampled_from([",", ";", "\t"]),
    line=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    decimal=st.sampled_from([".", ","]),
    ending=st.sampled_from(["", ".jpg", ".JPG"]),
    blanks=st.integers(0, 3),
    spaces=st.booleans(),
)
PEOPLE = st.lists(
    st.fixed_dictionaries(
        {
            "sex": st.sampled_from(["male", "female", ""]),
            "age_approx": st.sampled_from(["", "0", "45", "62.5", "90.0"]),
            "anatom_site_general_challenge": st.sampled_from(_SITES),
            "diagnosis": st.sampled_from(["nevus", "unknown", "melanoma"]),
            "note": _TEXT,
        }
    ),
    min_size=12,
    max_size=12,
)


def written(rows: list[dict[str, str]], columns: list[str], style: Style) -> bytes:
    """The bytes of a table in that style; characters that the encoding lacks become question marks."""
    found = io.StringIO()
    writer = csv.writer(found, delimiter=style.separator, lineterminator=style.line, quoting=style.quoting)
    writer.writerow(columns)
    for row in rows:
        padded = {name: f" {value} " if style.spaces and value else value for name, value in row.items()}
        writer.writerow([padded[name] for name in columns])
    text = found.getvalue() + style.line * style.blanks
    mark = b"\xff\xfe" if style.encoding == "utf-16-le" else b""
    return mark + text.encode(style.encoding, errors="replace")


def _download(place: Path, case: Case) -> Callable[..., None]:
    """train.csv of 2020 in any style: its values as they were meant, or refused."""

    @given(people=PEOPLE, style=STYLES, order=st.permutations(range(8)))
    def one(people: list[dict[str, str]], style: Style, order: list[int]) -> None:
        rows = [
            {
                "image_name": f"ISIC_{number:07d}{style.ending}",
                "patient_id": f"IP_{number // 2:07d}",
                "target": str(int(number % 4 == 0)),
                "benign_malignant": "malignant" if number % 4 == 0 else "benign",
                **person,
                "age_approx": person["age_approx"].replace(".", style.decimal),
                "diagnosis": "melanoma" if number % 4 == 0 else person["diagnosis"].replace("melanoma", "nevus"),
            }
            for number, person in enumerate(people)
        ]
        names = list(rows[0])
        columns = [names[each] for each in order] + names[8:]
        (place / "train.csv").write_bytes(written(rows, columns, style))
        if not merged(place):
            return
        table = pd.read_csv(place / "master.csv", dtype="str", keep_default_na=False).set_index("image_name")
        assert len(table) == len(rows), f"{len(table)} of {len(rows)} rows"
        for row, person in zip(rows, people, strict=True):
            found = table.loc[row["image_name"].partition(".")[0]]
            assert found["target"] == row["target"]
            assert found["patient"] == row["patient_id"]
            assert found["sex"] == person["sex"]
            assert number_of(found["age"]) == number_of(person["age_approx"])
            assert found["site"] == person["anatom_site_general_challenge"].replace("anterior ", "")

    del case
    return one


def _noise(place: Path, case: Case) -> Callable[..., None]:
    """Bytes and words that are no table."""
    sound = (case.world.downloads / "2020" / "train.csv").read_bytes()
    words = st.sampled_from([b"image_name", b"target", b"ISIC_0000000", b",", b";", b'"', b"\n", b"\r", b"\0", b"\xff"])
    pieces = st.lists(
        st.one_of(words, st.binary(max_size=8), st.integers(0, len(sound)).map(lambda n: sound[n : n + 60]))
    )

    @given(
        content=st.one_of(
            st.binary(max_size=200), pieces.map(b"".join), pieces.map(lambda some: sound + b"".join(some))
        )
    )
    def one(content: bytes) -> None:
        (place / "train.csv").write_bytes(content)
        merged(place)

    return one


def _cells(place: Path, case: Case) -> Callable[..., None]:
    """A sound table with a few cells of anything: refused, or no other cell is changed by it."""
    lines = [line.split(",") for line in (case.world.downloads / "2020" / "train.csv").read_text().split("\n") if line]
    anything = st.one_of(
        _TEXT, st.sampled_from(["-1", "nan", "1e400", "'", '"', "=1+1", "٣", "1.0", "TRUE", " ", "0x1"])
    )

    @given(
        changes=st.lists(
            st.tuples(st.integers(1, 8), st.integers(0, len(lines[0]) - 1), anything), min_size=1, max_size=3
        )
    )
    def one(changes: list[tuple[int, int, str]]) -> None:
        rows = [list(line) for line in lines]
        for row, column, value in changes:
            rows[row][column] = value
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        (place / "train.csv").write_text(text.getvalue())
        if not merged(place):
            return
        table = pd.read_csv(place / "master.csv", dtype="str", keep_default_na=False)
        assert len(table) == len(rows) - 1, f"{len(table)} of {len(rows) - 1} rows"
        untouched = [row for number, row in enumerate(rows[1:], 1) if number not in {each[0] for each in changes}]
        for row in untouched:
            found = table[table["image_name"] == row[lines[0].index("image_name")]]
            assert list(found["target"]) == [row[lines[0].index("target")]]

    return one


def _others(place: Path, case: Case) -> Callable[..., None]:
    """Predictions of others in any style: the scores as they were meant, or refused."""
    scores = st.lists(st.floats(0, 1, width=32), min_size=24, max_size=24, unique=True)

    @given(scores=scores, style=STYLES, notes=st.lists(_TEXT, min_size=24, max_size=24))
    def one(scores: list[float], style: Style, notes: list[str]) -> None:
        rows = [
            {
                "image_name": f"ISIC_{number:07d}",
                "target": str(number % 2),
                "fold": str(number % 3),
                "p": f"{score:.9f}".replace(".", style.decimal),
                "note": note,
            }
            for number, (score, note) in enumerate(zip(scores, notes, strict=True))
        ]
        (place / "others.csv").write_bytes(written(rows, list(rows[0]), style))
        out = place / "judged.csv"
        words = [str(place / "others.csv"), "--score", "p", "--fold", "fold", "--draws", "100", "--out", str(out)]
        if not quiet("judge", words):
            return
        table = pd.read_csv(out).set_index("key")
        assert len(table) == len(rows), f"{len(table)} of {len(rows)} rows"
        for row, score in zip(rows, scores, strict=True):
            assert abs(table.loc[row["image_name"], "raw"] - score) < 1e-6

    del case
    return one


def number_of(text: str) -> float:
    """A number, -1 for nothing."""
    return -1.0 if text == "" or math.isnan(float(text)) else float(text)


def merged(download: Path) -> bool:
    """Whether prep/merge.py takes a download; UserError is its way to refuse one."""
    words = ["--isic2020", str(download), "--out", str(download / "master.csv"), "--folds", "2", "--workers", "1"]
    return quiet("merge", words)


def quiet(command: str, words: list[str]) -> bool:
    """Run a command in this process; False where it refuses."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            main_of(command)(words)
    except UserError:
        return False
    return True


def _by_hypothesis(make: Callable[[Path, Case], Callable[..., None]], case: Case) -> Seen:
    """Several examples in one case; hypothesis then finds the smallest one that fails."""
    counted = 0
    test = make(case.place, case)
    inner: Any = test.hypothesis.inner_test  # type: ignore[attr-defined]

    def counting(*args: Any, **values: Any) -> None:
        nonlocal counted
        counted += 1
        inner(*args, **values)

    test.hypothesis.inner_test = counting  # type: ignore[attr-defined]
    phases = [Phase.generate, Phase.shrink]
    chosen = settings(
        max_examples=EXAMPLES, database=None, deadline=None, phases=phases, suppress_health_check=list(HealthCheck)
    )
    try:
        seed(case.rng.randrange(2**32))(chosen(test))()
    except AssertionError:
        return Seen(verdict="silent", words="read otherwise", detail=traceback.format_exc()[-3000:], tries=counted)
    except Exception:
        return Seen(verdict="traceback", words="traceback", detail=traceback.format_exc()[-3000:], tries=counted)
    return Seen(verdict="ok", words="read as written, or refused in one line", tries=counted)


KINDS = [
    Kind(
        injected=name,
        expected="read as written, or refused in one line",
        attempt=partial(_by_hypothesis, make),
        quick=True,
    )
    for name, make in (
        ("tables in every separator, encoding, quoting and order", _download),
        ("noise as a table", _noise),
        ("cells of anything", _cells),
        ("predictions of others in every separator, encoding and quoting", _others),
    )
]
