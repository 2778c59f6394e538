"""Pictures that are in no shard set: one lesion and its honest answer, or a folder of them."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from configs.errors import UserError
from configs.files import written_whole
from configs.infer import InferConfig
from engine.distributed import Ranks, joined_ranks
from engine.inference import Found, kinds_of, partition_of, score_members, with_bar
from engine.judging import prediction_table
from engine.predictor import Predictor, open_predictor
from loaders.pictures import PictureFiles
from prep.facts import facts_of_csv, facts_of_options
from prep.layout import ENDINGS
from prep.metadata import meta_vectors

NOTICE = "A research tool, not a medical device: nothing here is fit for use on patients."


def predict_files(config: InferConfig) -> None:
    """Predict --image or --images, print or write the answers.

    Raises UserError if there is nothing to predict, or if an --image cannot be used.
    """
    paths = config.image or _files_below(Path(config.images or ""))
    with joined_ranks(config.device, timeout=config.timeout) as ranks:
        predictor = open_predictor(config, ranks.device)
        predictor = replace(predictor, members=[member.folded() for member in predictor.members])
        config = replace(config, views=predictor.record["views"])  # those that it was calibrated with
        if config.meta is None:
            facts = facts_of_options(paths, sex=config.sex, age=config.age, site=config.site)
        else:
            facts = facts_of_csv(paths, Path(config.meta))
            if ranks.first:
                print(f"{config.meta}: {facts['in_csv'].sum():,} of the {len(paths):,} images have a row")
        table = answers(config, predictor, paths, facts, ranks)
        if not ranks.first:
            return
        if config.image:
            _print_answers(config, predictor, table, facts)
        out = config.csv if config.image else str(Path(config.out) / "images.csv")
        if out is not None:
            Path(out).parent.mkdir(parents=True, exist_ok=True)
            with written_whole(Path(out)) as file:
                file.write(table.to_csv(index=False).encode())
            bad = int((table["reason"] != "").sum())
            print(f"{out}: {len(table):,} images, {bad} of them without a prediction (column reason)")
        if config.explain:
            from engine.explain import explain_files

            explain_files(config, predictor, paths, facts)
        print(NOTICE)


def answers(
    config: InferConfig, predictor: Predictor, paths: Sequence[str | Path], facts: pd.DataFrame, ranks: Ranks
) -> pd.DataFrame:
    """One row per file, in their order, the same on every rank.

    Columns: image; reason, why there is no prediction, else empty; calibrated and the rest of
    `engine.judging.prediction_table`; above_melanomas, above_others: shares of the out-of-fold melanomas and others
    with a lower score; sensitivity_80 ...: whether it passes that operating point.
    """
    kinds = kinds_of(each.member for each in predictor.members)
    meta = np.hstack([meta_vectors(kind, facts) for kind in kinds])
    partition = partition_of(len(paths), config.batch_size, ranks)
    threads = config.loader.threads or ranks.threads
    files = PictureFiles(
        paths,
        predictor.encoding,
        ranks.device,
        threads=threads,
        prefetch=config.loader.prefetch,
        max_pixels=config.max_pixels,
    )
    with closing(files.batches(partition, meta)) as batches:
        shown = with_bar(batches, partition.steps, f"{len(paths):,} images", ranks)
        found = score_members(config, predictor.members, shown, kinds, ranks)
    reasons = ranks.merge(files.reasons)
    names = [each.member.name for each in predictor.members]
    probability = dict(zip(names, found.probability, strict=True))
    part = Found(index=found.index, probability=probability, statistics=found.statistics)
    table = pd.DataFrame(
        prediction_table(config, predictor.ensemble, predictor.references, part, predictor.familiarity)
    )
    oof, melanoma = predictor.oof["raw"].to_numpy(), predictor.oof["target"].to_numpy() == 1
    for name, scores in (("above_melanomas", oof[melanoma]), ("above_others", oof[~melanoma])):
        table[name] = np.searchsorted(np.sort(scores), table["raw"].to_numpy()) / len(scores)
    for point in predictor.ensemble.operating_points:
        table[f"sensitivity_{point.wanted * 100:.0f}"] = table["raw"] >= point.threshold
    table = table.set_axis(found.index).reindex(np.arange(len(paths)))
    table.insert(0, "image", [str(path) for path in paths])
    table.insert(1, "reason", [reasons.get(row, "") for row in range(len(paths))])
    return table


def _files_below(folder: Path) -> list[str]:
    """The image files below a folder, sorted. Raises UserError if there are none."""
    if not folder.is_dir():
        raise UserError(f"--images {folder}: no such folder")
    found = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not found:
        raise UserError(f"--images {folder} has no {', '.join(ENDINGS)} files below it")
    return found


def _print_answers(config: InferConfig, predictor: Predictor, table: pd.DataFrame, facts: pd.DataFrame) -> None:
    bad = table[table["reason"] != ""]
    if len(bad) == len(table):
        raise UserError(f"{bad['image'].iloc[0]} cannot be used: {bad['reason'].iloc[0]}")
    for row, (_, answer) in enumerate(table.iterrows()):
        print("\n".join(_answer_lines(config, predictor, answer, facts.iloc[row])))
    if any(each.member.meta == "reference" for each in predictor.members):
        print("warning: the reference meta vector is used, in which a single lesion counts as n_images = 1")


def _answer_lines(config: InferConfig, predictor: Predictor, answer: pd.Series, facts: pd.Series) -> list[str]:
    """What is said of one picture."""
    if answer["reason"]:
        return [f"{answer['image']}: cannot be used: {answer['reason']}"]
    known = [
        f"{name} {facts[name]:g}" if name == "age" else str(facts[name])
        for name in ("age", "sex", "site")
        if pd.notna(facts[name])
    ]
    names = [each.member.name for each in predictor.members]
    scores = answer[names].astype(float)
    place = f"prevalence {config.prevalence:.2%}" if config.prevalence else "the prevalence of the training images"
    lines = [
        f"{answer['image']} ({', '.join(known) or 'no metadata'})",
        f"  probability of melanoma {answer['calibrated']:.3f} at {place}; uncalibrated {answer['raw']:.3f}",
        f"  {len(names)} members say {scores.min():.3f} to {scores.max():.3f}; standard deviation over views "
        f"{answer['spread_views']:.3f}",
        f"  scores above {answer['above_melanomas']:.0%} of the out-of-fold melanomas and {answer['above_others']:.0%} "
        "of the others",
    ]
    for point in predictor.ensemble.operating_points:
        passed = "at or above" if answer[f"sensitivity_{point.wanted * 100:.0f}"] else "below"
        lines.append(
            f"  {passed} the threshold of {point.wanted:.0%} sensitivity (specificity {point.specificity.value:.0%})"
        )
    if answer["flips"]:
        lines.append("  warning: whether it passes 90 % sensitivity depends on how the picture is turned")
    familiarity = predictor.familiarity
    if familiarity is not None and answer["unusual"]:
        rate = familiarity.false_alarms.value
        lines.append(
            f"  warning: this does not look like the training pictures ({rate:.1%} of these are called so as well): "
            "do not trust the answer"
        )
    return lines
