"""Pictures changed at will and scored again, each by the members that were not trained on it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch

from configs.infer import InferConfig
from configs.schema import Checkpoint, MetaKind
from engine.distributed import Ranks, joined_ranks
from engine.evaluate import no_statistics
from engine.inference import kinds_of, score_members
from engine.members import LoadedMember, load_member
from evaluation.combination import rank_against, weighted_mean
from evaluation.discrimination import Floats
from loaders.batch import Batch
from loaders.shards import ShardSet
from prep.diagnosis import CLASSES
from report.artefacts.detectors import Pixels
from report.case import Case

Change = Callable[[Pixels, int], Pixels]
"""A picture, uint8 RGB [H, H, 3], and a seed -> the picture, changed."""
Indices = npt.NDArray[np.int64]

_BATCH = 32


def unchanged(pixels: Pixels, seed: int) -> Pixels:  # noqa: ARG001
    """The picture itself."""
    return pixels


def pictures(shards: ShardSet, rows: Indices) -> Iterator[Pixels]:
    """The pictures of `rows` [n] of the shard set, one by one: uint8 RGB [H, H, 3]."""
    for row in rows.tolist():
        yield simplejpeg.decode_jpeg(shards.jpeg(row))


def ranks_of(case: Case) -> AbstractContextManager[Ranks]:
    """This process on the device that the report is to use."""
    return joined_ranks(case.config.device)


def unseen_by(case: Case, ranks: Ranks) -> Iterator[tuple[int, list[LoadedMember]]]:
    """Each fold that was judged, and the members that were not trained on it, loaded one fold at a time."""
    checkpoint: Checkpoint = "last" if case.record is None else case.record["checkpoint"]
    for fold in np.unique(case.judgement.oof.fold).tolist():
        yield (
            fold,
            [
                load_member(member, checkpoint, ranks.device).folded()
                for member in case.members
                if member.fold == fold and member.model in case.judgement.oof.models
            ],
        )


def scores_of(case: Case, chosen: Indices, changes: Sequence[Change], ranks: Ranks) -> Floats:
    """Combined score of each out-of-fold sample in `chosen` [n] under each of C changes, float64 [C, n].

    One view. Samples are numbered as in the judgement; a sample's number is the seed of its changes.
    """
    oof = case.judgement.oof
    scores = np.full((len(oof.models), len(changes), len(chosen)), np.nan)
    for fold, members in unseen_by(case, ranks):
        places = np.flatnonzero(oof.fold[chosen] == fold)
        if not len(places) or not members:
            continue
        kinds = kinds_of(each.member for each in members)
        batches = _batches(case, chosen[places], changes, kinds, ranks)
        found = score_members(InferConfig(views=1), members, batches, kinds, ranks, describe=no_statistics)
        for each, probability in zip(members, found.probability[:, 0], strict=True):
            scores[oof.models.index(each.member.model)][:, places] = probability.reshape(len(changes), -1)
    combined = [_combined(case, scores[:, number], oof.fold[chosen]) for number in range(len(changes))]
    return np.array(combined)


def _batches(
    case: Case, chosen: Indices, changes: Sequence[Change], kinds: Sequence[MetaKind], ranks: Ranks
) -> Iterator[Batch]:
    """Every change of every chosen sample; index: change x samples + sample."""
    rows = case.index[chosen]
    meta = np.concatenate([case.shards.meta(kind)[rows] for kind in kinds], axis=1)
    for start in range(0, len(chosen), _BATCH):
        part = np.arange(start, min(start + _BATCH, len(chosen)))
        originals = list(pictures(case.shards, rows[part]))
        for number, change in enumerate(changes):
            seeds = chosen[part].tolist()
            changed = [change(pixels, seed) for pixels, seed in zip(originals, seeds, strict=True)]
            yield Batch(
                epoch=0,
                step=0,
                image=torch.from_numpy(np.stack(changed)),
                meta=torch.from_numpy(meta[part]),
                target=torch.full((len(part),), -1.0),
                diagnosis=torch.full((len(part),), CLASSES.index("unknown")),
                index=torch.from_numpy(number * len(chosen) + part),
                valid=torch.ones(len(part), dtype=torch.bool),
            ).to(ranks.device)


def _combined(case: Case, scores: Floats, fold: Indices) -> Floats:
    """The models' scores [M, n] as one [n], on the scale of the judgement's combined score and thresholds."""
    judgement = case.judgement
    if judgement.combine == "rank":
        ranked = np.full_like(scores, np.nan)
        for model, known in enumerate(judgement.oof.scores):
            for number in np.unique(fold):
                reference = known[(judgement.oof.fold == number) & ~np.isnan(known)]
                places = (fold == number) & ~np.isnan(scores[model])
                if places.any():
                    ranked[model, places] = rank_against(reference, scores[model, places])
        scores = ranked
    return weighted_mean(scores, judgement.fitted.weights)
