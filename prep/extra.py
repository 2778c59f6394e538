"""An outside set's table -> the columns of prep/tables.py: tables of anybody, and the layouts of known sets.

ISIC archive downloads (isic-cli), HAM10000, PAD-UFES-20, ISIC 2024 and MILK10k are read as they come: prep/columns.py
lists what they call a column.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from configs.csvtext import read_text
from configs.errors import UserError, note
from configs.files import is_there
from prep import layout
from prep.columns import CANCER, DIAGNOSES, EXTRA_TABLES, KEY, LESION, LINKS, PERSON_OUTSIDE, PLACES, TRUTH_OF, spelled
from prep.csvfile import NAME, header_of, read_csv, require_rows, whole_numbers
from prep.diagnosis import melanoma_of_words
from prep.tables import OUTSIDE, typed

OWN = "extra_"
"""In front of an outside set's ids, so that they meet none of the downloads'."""
# Ids that mean the same patient or lesion in every table of the ISIC archive.
_OF_THE_ARCHIVE = r"(?:IP|IL|HAM|BCN|MSK\d?)_\d+"


def read_extra(csv: Path, split: str) -> pd.DataFrame:
    """An outside set's rows, in the columns of prep/tables.py; `split` is train or extra, `csv` a table or its folder.

    An image is a path relative to the CSV, or the name of an image below its folder. The target is the table's, or what
    the words of its diagnoses say. Rows that share an id in any column of a patient or group share `patient`, those
    that share one of a lesion `lesion`; where they train, ids of the archive join the downloads' too. Notes say what
    was read. Raises UserError.
    """
    if csv.is_dir():
        csv = _table_of(csv)
    headers = list(read_text(csv, "give the CSV of an outside set").columns)
    links = {kind: [header for header in headers if spelled(header) in names] for kind, names in LINKS.items()}
    diagnoses = [header for name in DIAGNOSES if (header := header_of(headers, [name], csv))]
    columns = {"image": ["image", *KEY["image_name"]], "target": ["target"]} | PERSON_OUTSIDE
    columns |= {header: [header] for header in [*links["patient"], *links["lesion"], *diagnoses]}
    rows = read_csv(csv, columns, [name for name in columns if name != "image"], pattern=".+")
    ids = {kind: _owned(joined(rows[names]), split) for kind, names in links.items()}
    truth = _classes_beside(csv, rows, headers)
    words = rows[diagnoses] if truth is None else pd.DataFrame({"class": truth})
    target = _target(csv, rows, words, given=header_of(headers, ["target"], csv) is not None)
    _say(csv, rows, links, target)
    stems, paths = _images(csv, rows["image"])
    diagnosis = words.bfill(axis=1).iloc[:, 0] if words.shape[1] else pd.Series(np.nan, rows.index, dtype="str")
    site = rows["site"].where(~rows["site"].str.lower().isin(PLACES), rows["site"].str.lower().replace(PLACES))
    named = rows.assign(site=site, image_name=stems, patient_id=ids["patient"], lesion_id=ids["lesion"])
    named = named.assign(diagnosis=diagnosis, target=target.astype("int64").astype("str"))
    found = typed(named, csv, source=OUTSIDE, split=split, folder=str(csv.resolve().parent))
    return found.assign(file=paths)


def joined(ids: pd.DataFrame) -> pd.Series:
    """One id for the rows that any of several columns joins, directly or through other rows; str, missing without one.

    It is the first, in sorting order, of the ids in the first column that has one.
    """
    if ids.shape[1] == 0:
        return pd.Series(np.nan, ids.index, dtype="str")
    if ids.shape[1] == 1:
        return ids.iloc[:, 0]
    ends, nodes = [], len(ids)
    for name in ids:
        known = np.flatnonzero(ids[name].notna())
        place, names = pd.factorize(ids[name].iloc[known])
        ends.append(np.stack([known, nodes + place]))
        nodes += len(names)
    row, node = np.concatenate(ends, axis=1)
    graph = coo_array((np.ones(len(row), dtype=np.int8), (row, node)), shape=(nodes, nodes))
    component = connected_components(graph, directed=False)[1][: len(ids)]
    firsts = ids.groupby(component).transform("min")
    return firsts.bfill(axis=1).iloc[:, 0]


def _table_of(folder: Path) -> Path:
    found = layout.find_table(folder, EXTRA_TABLES)
    if found is None:
        raise UserError(f"--extra {folder} holds none of {', '.join(EXTRA_TABLES)}: name the table itself")
    return found


def _owned(ids: pd.Series, split: str) -> pd.Series:
    """Ids that cannot meet the downloads', unless they are the archive's and the rows train beside the downloads'."""
    shared = ids.str.fullmatch(_OF_THE_ARCHIVE).fillna(False).astype(bool) & (split == "train")
    return ids.where(shared, OWN + ids)


def _classes_beside(csv: Path, rows: pd.DataFrame, headers: list[str]) -> pd.Series | None:
    """The class of each row by the one-hot table beside MILK10k's metadata, None where there is no such table."""
    beside = csv.with_name(csv.name.replace(*TRUTH_OF))
    lesion = header_of(headers, LESION["lesion_id"], csv)
    if beside == csv or lesion is None or not is_there(beside):
        return None
    truth = read_text(beside)
    key = header_of(truth.columns, LESION["lesion_id"], beside)
    if key is None:
        raise UserError(f"{beside} lacks the column lesion_id; it has {', '.join(truth.columns)}")
    onehot = truth.drop(columns=key).apply(pd.to_numeric, errors="coerce")
    require_rows(
        (onehot.eq(1).sum(axis=1) == 1) & onehot.isin((0, 1)).all(axis=1), truth[key], beside, key, "a single 1"
    )
    require_rows(~truth[key].duplicated(), truth[key], beside, key, "each lesion once")
    known = onehot.idxmax(axis=1).set_axis(truth[key])
    require_rows(rows[lesion].isin(known.index), rows[lesion], csv, lesion, f"a lesion of {beside.name}")
    note(f"{csv}: classes are read from {beside.name}")
    return rows[lesion].map(known).astype("str")


def _target(csv: Path, rows: pd.DataFrame, words: pd.DataFrame, *, given: bool) -> pd.Series:
    """1 for melanoma and 0 for the rest, by the table's target or the words of its diagnoses."""
    said = melanoma_of_words(words)
    names = ", ".join(map(str, words.columns))
    text = words.bfill(axis=1).iloc[:, 0] if words.shape[1] else rows["image"]
    wanted = (
        "a diagnosis that says whether it is melanoma: remove such rows, or add a column target (1 melanoma, 0 not)"
    )
    if not given:
        if not words.shape[1]:
            raise UserError(f"{csv} lacks the column target (1 melanoma, 0 not), and has none of a diagnosis")
        require_rows(said.notna(), text, csv, names, wanted)
        note(f"{csv}: target is what {names} {'say' if ',' in names else 'says'} of melanoma")
        return said
    target = whole_numbers(rows, "target", (0, 1), csv)
    contradicted = (said == 1 - target) & said.notna()
    if any(spelled(str(name)) == CANCER for name in words):
        require_rows((target == 0) | said.notna(), text, csv, names, wanted)
        require_rows((target == 1) | (said != 1), text, csv, names, "no melanoma where target is 0")
        kept = f"{int((said * target).sum()):,} of its {target.sum():,}"
        note(f"{csv}: target counts all cancers: {kept} are melanoma by {names}, the others become 0")
        return target * said.fillna(0)
    if contradicted.any():
        first = f"first {rows['image'][contradicted].iloc[0]} ({text[contradicted].iloc[0]})"
        note(f"{csv}: target is taken, which must be melanoma alone; {contradicted.sum():,} diagnoses differ, {first}")
    return target


def _say(csv: Path, rows: pd.DataFrame, links: dict[str, list[str]], target: pd.Series) -> None:
    """What was read from which column, and what is missing."""
    known = [f"{kind} from {', '.join(names)}" for kind, names in links.items() if names]
    note(f"{csv}: image from {rows.attrs['image']}, {', '.join(known) or 'no column of a patient, lesion or group'}")
    if not (target == 1).any():
        note(f"{csv}: none of its {len(target):,} rows is a melanoma")


def _images(csv: Path, names: pd.Series) -> tuple[pd.Series, pd.Series]:
    """The names without folder and ending, and the exact path of each image that has one beside the table."""
    ending = names.str.lower().str.endswith(layout.ENDINGS)
    stems = names.where(~ending, names.map(lambda name: Path(name).stem))
    require_rows(~stems.duplicated(), names, csv, "image", "each file name once, whatever its folder")
    wanted = "a file name of letters, digits, - and _, and one of " + ", ".join(layout.ENDINGS)
    require_rows(stems.str.fullmatch(NAME), names, csv, "image", wanted)
    paths = names.map(lambda name: str(csv.parent / name))
    exact = ending & (names.str.contains("/") | paths.map(lambda path: Path(path).exists()))
    return stems, paths.where(exact).astype("str")
