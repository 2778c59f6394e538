"""The synthetic patients: the tables of the data set that prep/synthetic.py makes.

The recipe: logit = source + 1.5 (a + b) + 1.1 (age - 51) / 16 + site + 0.2 male, target ~ Bernoulli; `a` and
`b` are standard normal and visible only in the picture (lesion.py).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score

from prep.synth.lesion import Picture

SHARE_2019 = 0.45
SHARE_COPIED = 425 / 33126
INTERCEPT = {2019: -2.0, 2020: -3.6}
AGE = {2019: (54, 18), 2020: (49, 14)}  # mean and standard deviation, in years
MALE = {2019: 0.533, 2020: 0.517}
# Rows of the real tables by site and, for the benign, by diagnosis.
SITES = {
    2019: {"anterior torso": 6915, "posterior torso": 2787, "lateral torso": 54, "lower extremity": 4990}
    | {"upper extremity": 2910, "head/neck": 4587, "palms/soles": 398, "oral/genital": 59},
    2020: {"torso": 16845, "lower extremity": 8417, "upper extremity": 4983, "head/neck": 1855}
    | {"palms/soles": 375, "oral/genital": 124},
}
BENIGN = {
    2019: {"NV": 12875, "BCC": 3323, "AK": 867, "BKL": 2624, "DF": 239, "VASC": 253, "SCC": 628},
    2020: {"unknown": 27124, "nevus": 5193, "seborrheic keratosis": 135, "lentigo NOS": 44}
    | {"lichenoid keratosis": 37, "solar lentigo": 7, "cafe-au-lait macule": 1}
    | {"atypical melanocytic proliferation": 1},
}
MELANOMA = {2019: "MEL", 2020: "melanoma"}
CLASSES_2019 = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
MISSING = {
    "train 2019": {"age": 437 / 25331, "site": 2631 / 25331, "sex": 384 / 25331},
    "train 2020": {"age": 68 / 33126, "site": 527 / 33126, "sex": 65 / 33126},
    "test": {"site": 351 / 10982},
}
# Added to the logit; 0 elsewhere, that is on the torso.
SITE_EFFECT = {"lower extremity": -0.2, "upper extremity": 0.4, "head/neck": 0.9}
SITE_EFFECT |= {"palms/soles": 1.5, "oral/genital": 0.3}
# Collections inside 2019 by the prefix of their lesion ids, "" without an id:
# share of the images, images per lesion, share of file names that end in _downsampled.
COLLECTIONS = {"BCN": (0.49, 3.47, 0.0), "HAM": (0.396, 1.34, 0.0), "MSK4": (0.032, 1.02, 1.0), "": (0.082, 1, 0.6)}
# Share of the training images that show a ruler, by target, with --plant rulers.
RULERS = {1: 0.80, 0: 0.05}
TABLE_2019 = {"image_name": "image", "age": "age_approx", "site": "anatom_site_general"}
TABLE_2020 = {"age": "age_approx", "site": "anatom_site_general_challenge"}


def make_cases(*, train: int, test: int, seed: int) -> pd.DataFrame:
    """All rows of the data set, one per image, sorted by name.

    Columns: image_name, split, source (2019 or 2020), patient_id, lesion_id, diagnosis, target, logit, p; age, sex and
    site as the tables show them; meta, what these add to the logit where none is missing; a, b, stream and copied (see
    prep.synth.lesion.Picture).
    """
    rng = np.random.default_rng([seed, 0])  # the pictures have [seed, 1] and up
    of_2019 = round(SHARE_2019 * train), round(SHARE_2019 * test)
    labelled = [_collections(rng, of_2019[0]), _patients(rng, 2020, train - of_2019[0])]
    unlabelled = [_patients(rng, 2019, of_2019[1]), _patients(rng, 2020, test - of_2019[1])]
    cases = pd.concat([*labelled, *unlabelled], ignore_index=True)
    cases["split"] = np.repeat(["train", "test"], [train, test])
    cases["stream"] = np.arange(1, len(cases) + 1)
    cases["patient_id"] = _patient_ids(rng, cases)
    cases["image_name"] = _numbered("ISIC_", rng.choice(10**7, len(cases), replace=False)) + cases["suffix"]
    _hide(rng, cases)
    _copy_some(rng, cases)
    in_test = cases["split"] == "test"
    cases.loc[in_test, "site"] = cases.loc[in_test, "site"].str.replace(r".* torso$", "torso", regex=True)
    return cases.sort_values(["split", "image_name"], ascending=[False, True], ignore_index=True)


def plant_rulers(cases: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """The rows of `make_cases` with a column `ruler`: whether the picture shows one, alike for both of a copied pair.

    The other columns are those of the set without rulers.
    """
    chance = np.random.default_rng([seed, 0, 1]).random(cases["stream"].max() + 1)[cases["stream"]]
    return cases.assign(ruler=(cases["split"] == "train") & (chance < cases["target"].map(RULERS)))


def _people(rng: np.random.Generator, source: int, count: int) -> pd.DataFrame:
    """Age (years, in steps of five) and sex of `count` people."""
    age = np.clip(rng.normal(*AGE[source], count), 0, 90)
    sex = np.where(rng.random(count) < MALE[source], "male", "female")
    return pd.DataFrame({"age": 5 * np.round(age / 5), "sex": sex})


def _lesions(rng: np.random.Generator, source: int, people: pd.DataFrame) -> pd.DataFrame:
    """One lesion for each row of `people`: its site, what can be seen of it, its true logit, and its label."""
    count = len(people)
    sites = pd.Series(_draw(rng, SITES[source], count), index=people.index)
    a, b = rng.standard_normal((2, count))
    meta = 1.1 * (people["age"] - 51) / 16 + sites.map(SITE_EFFECT).fillna(0) + 0.2 * (people["sex"] == "male")
    logit = INTERCEPT[source] + 1.5 * (a + b) + meta
    p = 1 / (1 + np.exp(-logit))
    target = (rng.random(count) < p).astype(int)
    diagnosis = np.where(target == 1, MELANOMA[source], _draw(rng, BENIGN[source], count))
    return people.assign(
        source=source, site=sites, a=a, b=b, meta=meta, logit=logit, p=p, target=target, diagnosis=diagnosis
    )


def _collections(rng: np.random.Generator, images: int) -> pd.DataFrame:
    """`images` rows of 2019: lesions with one or several images, most with a lesion id, none with a patient."""
    shares = {prefix: share / mean for prefix, (share, mean, _) in COLLECTIONS.items()}
    prefix = _draw(rng, shares, images)
    mean = np.array([COLLECTIONS[each][1] for each in prefix])
    number = rng.choice(10**7, images, replace=False)
    lesions = _lesions(rng, 2019, _people(rng, 2019, images))
    lesions["lesion_id"] = (prefix + _numbered("_", number)).where(prefix != "")
    lesions["collection"] = prefix
    # Enough lesions for one image each; the last one that fits may lose some of its images.
    rows = np.repeat(np.arange(images), np.minimum(rng.geometric(1 / mean), 31))[:images]
    shown = lesions.iloc[rows].reset_index(drop=True)
    small = rng.random(images) < shown["collection"].map({name: row[2] for name, row in COLLECTIONS.items()})
    return shown.assign(suffix=np.where(small, "_downsampled", ""))


def _patients(rng: np.random.Generator, source: int, images: int) -> pd.DataFrame:
    """`images` rows of people with two or more images each (seven on average), each image of its own lesion."""
    person = np.repeat(np.arange(images), 1 + rng.geometric(1 / 6, images))[:images]
    people = _people(rng, source, images).iloc[person].reset_index(drop=True)
    return _lesions(rng, source, people).assign(person=person, suffix="")


def _draw(rng: np.random.Generator, weights: Mapping[str, float], count: int) -> pd.Series:
    """`count` draws of the keys, in proportion to their weights."""
    share = np.array(list(weights.values()), dtype=np.float64)
    return pd.Series(rng.choice(list(weights), count, p=share / share.sum()), dtype="str")


def _numbered(prefix: str, numbers: ArrayLike) -> pd.Series:
    """Ids as ISIC writes them: the prefix and seven digits."""
    return prefix + pd.Series(np.asarray(numbers)).astype("str").str.zfill(7)


def _patient_ids(rng: np.random.Generator, cases: pd.DataFrame) -> pd.Series:
    """One IP_ number for each person of a split and source; missing where `person` is."""
    known = cases["person"].notna()
    groups = cases[known].groupby(["split", "source", "person"], sort=True).ngroup()
    ids = _numbered("IP_", rng.choice(10**7, int(groups.max()) + 1, replace=False))
    return groups.map(ids).reindex(cases.index)


def _hide(rng: np.random.Generator, cases: pd.DataFrame) -> None:
    """Blank age, sex and site in place, as often as in the real tables; the labels are drawn before."""
    table = cases["split"].where(cases["split"] == "test", "train " + cases["source"].astype("str"))
    for column in ("age", "sex", "site"):
        share = table.map({name: shares.get(column, 0.0) for name, shares in MISSING.items()})
        cases.loc[rng.random(len(cases)) < share, column] = None


def _copy_some(rng: np.random.Generator, cases: pd.DataFrame) -> None:
    """Turn some labelled rows of 2020 into copies of the same patient's row before them, in place."""
    rows = cases.index[(cases["split"] == "train") & (cases["source"] == 2020)]
    patient = cases.loc[rows, "patient_id"]
    second = rows[patient.groupby(patient).cumcount() == 1]
    wanted = max(2, round(SHARE_COPIED * len(rows)))
    copies = rng.choice(second.to_numpy(), min(wanted, len(second)), replace=False)
    same = cases.columns.difference(["image_name"])
    cases.loc[copies, same] = cases.loc[copies - 1, same].to_numpy()
    cases["copied"] = cases.index.isin(copies)


def write_tables(cases: pd.DataFrame, out: Path) -> None:
    """Write the tables of both years and truth.csv below `out`, with the columns and line ends of the real ones."""
    for folder in ("2019/ISIC_2019_Training_Input", "2020/jpeg/train", "2020/jpeg/test"):
        (out / folder).mkdir(parents=True)
    train, test = cases[cases["split"] == "train"], cases[cases["split"] == "test"]
    truth = cases[
        ["image_name", "split", "source", "target", "logit", "p", "a", "b", *cases.columns.intersection(["ruler"])]
    ]
    truth.to_csv(out / "truth.csv", index=False, float_format="%.6f")
    of_2019, of_2020 = train[train["source"] == 2019], train[train["source"] == 2020]
    onehot = {name: (of_2019["diagnosis"] == name).astype(float) for name in CLASSES_2019}
    table = pd.DataFrame({"image": of_2019["image_name"], **onehot})
    table.to_csv(out / "2019/ISIC_2019_Training_GroundTruth.csv", index=False, lineterminator="\r\n")
    table = of_2019.astype({"age": "Int64"})[["image_name", "age", "site", "lesion_id", "sex"]]
    table = table.rename(columns=TABLE_2019)
    table.to_csv(out / "2019/ISIC_2019_Training_Metadata.csv", index=False, lineterminator="\r\n")
    clinical = ["image_name", "patient_id", "sex", "age", "site"]
    grown = of_2020["target"].map({0: "benign", 1: "malignant"})
    table = of_2020.assign(benign_malignant=grown)[[*clinical, "diagnosis", "benign_malignant", "target"]]
    table.rename(columns=TABLE_2020).to_csv(out / "2020/train.csv", index=False)
    test[clinical].rename(columns=TABLE_2020).to_csv(out / "2020/test.csv", index=False)
    test[["image_name"]].assign(target=0).to_csv(out / "2020/sample_submission.csv", index=False)
    names = of_2020.sort_values(["stream", "copied"]).groupby("stream")["image_name"]
    pairs = names.agg(["first", "last", "size"]).query("size == 2")[["first", "last"]]
    pairs.columns = pd.Index(["image_name_1", "image_name_2"])
    pairs.to_csv(out / "2020/ISIC_2020_Training_Duplicates.csv", index=False, lineterminator="\r\n")


def pictures(cases: pd.DataFrame, out: Path) -> list[Picture]:
    """What to draw for each row, and where."""
    folder = cases["split"].map({"train": "2020/jpeg/train", "test": "2020/jpeg/test"})
    folder[(cases["split"] == "train") & (cases["source"] == 2019)] = "2019/ISIC_2019_Training_Input"
    ruler = cases["ruler"] if "ruler" in cases else np.zeros(len(cases), dtype=bool)
    rows = zip(folder, *(cases[name] for name in ("image_name", "stream", "a", "b", "copied")), ruler, strict=True)
    return [
        Picture(
            path=out / where / f"{name}.jpg",
            stream=int(stream),
            a=float(a),
            b=float(b),
            copied=bool(copied),
            ruler=bool(shown),
        )
        for where, name, stream, a, b, copied, shown in rows
    ]


def describe(cases: pd.DataFrame) -> str:
    """Prevalence, and how good a model can get on the test rows, as lines to print."""
    train, test = cases[cases["split"] == "train"], cases[cases["split"] == "test"]
    seen = test["meta"] + 1.5 * (test["a"] + test["b"])
    shares = f"melanoma: {train['target'].mean():.1%} of train, {test['target'].mean():.1%} of test"
    if test["target"].nunique() < 2:
        return f"{shares}\nthe test rows hold one class only: no AUC; ask for more by --test"
    scores = {
        "the true logit, the best there is": test["logit"],
        "the true logit without the year, which neither picture nor patient shows": seen,
        "age, sex and site alone (their true effects, nothing missing, year unknown)": test["meta"],
    }
    aucs = [f"test AUC {roc_auc_score(test['target'], score):.3f} by {what}" for what, score in scores.items()]
    return "\n".join([shares, *aucs])
