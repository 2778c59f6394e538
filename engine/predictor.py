"""An ensemble that was judged, opened again: from the run folder and ensemble.json, or from an exported bundle."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file

from configs.errors import UserError
from configs.infer import InferConfig
from engine.judging import ENSEMBLE, OOF, SCHEMA_VERSION, read_oof, record_sha256
from engine.members import LoadedMember, Member, find_members, load_member
from engine.network import rebuilt_network
from engine.picture_statistics import STATISTICS
from evaluation.discrimination import Floats
from evaluation.familiarity import Familiarity
from evaluation.shipped import Ensemble, rank_references
from prep.files import file_sha256
from prep.stage import Encoding

SUMS = "SHA256SUMS"
_AGAIN = "run python infer.py --ensemble again"


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A judged ensemble, ready to predict.

    record: ensemble.json; members: in the order of record["members"]; references: the out-of-fold scores that each
    member's are ranked against; oof: what oof.parquet says of each out-of-fold row; encoding: how pictures are stored
    before they are predicted; familiarity: None if it could not be fitted.
    """

    record: dict[str, Any]
    ensemble: Ensemble
    members: list[LoadedMember]
    references: dict[str, Floats]
    oof: pd.DataFrame
    encoding: Encoding
    familiarity: Familiarity | None


def open_predictor(config: InferConfig, device: torch.device) -> Predictor:
    """Open the bundle, or the members below --runs with the ensemble.json in --out.

    Raises UserError if a file is missing or damaged, or if a member was trained again after it was judged.
    """
    folder = Path(config.out if config.bundle is None else config.bundle)
    if config.bundle is not None:
        check_sums(folder, [ENSEMBLE, OOF])
    record = read_record(folder)
    if config.bundle is None:
        members = _of_runs(config, record, folder, device)
    else:
        check_sums(folder, [f"{entry['name']}.safetensors" for entry in record["members"]])
        members = [_of_bundle(folder, entry, device) for entry in record["members"]]
    ensemble = Ensemble.from_dict(record["ensemble"])
    table, oof = read_oof(folder / OOF, ensemble.models)
    familiarity = record["familiarity"]
    if familiarity is not None and tuple(familiarity["names"]) != STATISTICS:
        raise UserError(f"{folder / ENSEMBLE} has other picture statistics than this version: {_AGAIN}")
    return Predictor(
        record=record,
        ensemble=ensemble,
        members=members,
        references=rank_references(oof, ensemble.members),
        oof=table,
        encoding=Encoding(**record["encoding"]),
        familiarity=None if familiarity is None else Familiarity.from_dict(familiarity),
    )


def read_record(folder: Path) -> dict[str, Any]:
    """ensemble.json. Raises UserError if it or oof.parquet is missing or damaged, or not of this version."""
    path = folder / ENSEMBLE
    if not path.is_file():
        raise UserError(f"{path} does not exist: run python infer.py --ensemble first, which judges and calibrates")
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): {_AGAIN}") from error
    if not isinstance(record, dict) or record.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{path} is not of this version ({SCHEMA_VERSION}): {_AGAIN}")
    if record.get("sha256") != record_sha256(record):
        raise UserError(f"{path} is damaged, or was changed by hand (its SHA-256 is not the one in it): {_AGAIN}")
    if not (folder / OOF).is_file() or file_sha256(folder / OOF) != record["oof_sha256"]:
        raise UserError(f"{folder / OOF} is missing or damaged (its SHA-256 is not the one in {ENSEMBLE}): {_AGAIN}")
    return record


def check_sums(folder: Path, names: Sequence[str]) -> None:
    """Raise UserError unless the files have the SHA-256 that the bundle's list says."""
    path = folder / SUMS
    if not path.is_file():
        raise UserError(f"{folder} is no bundle (no {SUMS}): make one with python infer.py --export {folder}")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    known = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in names:
        if not (folder / name).is_file() or known.get(name) != file_sha256(folder / name):
            raise UserError(
                f"{folder / name} is missing or damaged (its SHA-256 is not the one in {SUMS}): copy it again"
            )


def _of_runs(config: InferConfig, record: dict[str, Any], folder: Path, device: torch.device) -> list[LoadedMember]:
    there = {member.name: member for member in find_members(Path(config.runs))}
    members = []
    for entry in record["members"]:
        if entry["name"] not in there:
            raise UserError(f"{folder / ENSEMBLE} has the member {entry['name']}, {config.runs} has not: {_AGAIN}")
        loaded = load_member(there[entry["name"]], record["checkpoint"], device)
        if loaded.sha256 != entry["sha256"]:
            raise UserError(
                f"{loaded.path} is not the file that {folder / ENSEMBLE} judged (SHA-256 {loaded.sha256}, then "
                f"{entry['sha256']}): {_AGAIN}"
            )
        members.append(loaded)
    return members


def _of_bundle(folder: Path, entry: dict[str, Any], device: torch.device) -> LoadedMember:
    path = folder / f"{entry['name']}.safetensors"
    size = entry["facts"]["size"]
    network, objective = rebuilt_network(entry["config"], load_file(path), size=size, device=device, path=path)
    described = {name: entry[name] for name in ("name", "model", "fold", "config", "facts")}
    return LoadedMember(
        member=Member(folder=folder, **described),
        path=path,
        sha256=entry["sha256"],
        chosen=entry["chosen"],
        finished=True,
        network=network,
        objective=objective,
    )
