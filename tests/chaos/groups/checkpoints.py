"""Checkpoints and weights files whose content is sound for torch, but not for the run."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch

from engine.checkpoint import save_checkpoint
from models.backbones import create_backbone
from tests.chaos.case import SAME, Case, Kind, Seen, crashed, judged, refused
from tests.chaos.digests import member_digest, outputs_digest
from tests.chaos.world import MEMBER, SIZE, infer_words, train_words

Content = dict[str, Any]
_STRANGE: tuple[Any, ...] = (None, True, -1, 10**12, 1.5, float("nan"), "", "é", [], {}, [1], {"a": 1}, torch.zeros(2))


def _missing(content: Content, rng: Random) -> str:
    name = rng.choice(sorted(content))
    del content[name]
    return f"without {name}"


def _missing_weight(content: Content, rng: Random) -> str:
    name = rng.choice(sorted(content["model"]))
    del content["model"][name]
    return f"without weight {name}"


def _unknown(content: Content, rng: Random) -> str:
    inner = rng.choice([content, content["model"], content["config"]])
    inner["unknown"] = rng.choice(_STRANGE)
    return "with an unknown field"


def _shape(content: Content, rng: Random) -> str:
    name = rng.choice(sorted(content["model"]))
    content["model"][name] = torch.zeros(3, 3)
    return f"with another shape of {name}"


def _type(content: Content, rng: Random) -> str:
    name = rng.choice(sorted(content["model"]))
    content["model"][name] = content["model"][name].to(torch.complex64)
    return f"with complex numbers in {name}"


def _strange(content: Content, rng: Random) -> str:
    name = rng.choice(sorted(content))
    content[name] = rng.choice(_STRANGE)
    return f"with {name} = {str(content[name])[:40]!r}"


def _architecture(content: Content, rng: Random) -> str:
    content["config"]["backbone"] = rng.choice(["test_vit.r160_in1k", "tf_efficientnet_lite0", "nothing", "../x"])
    return f"of {content['config']['backbone']}"


def _other_network(content: Content, _: Random) -> str:
    content["model"] = create_backbone("test_vit.r160_in1k", size=SIZE, weights="none").module.state_dict()
    return "with the weights of another network"


def _not_finite(content: Content, rng: Random) -> str:
    weights = {name: value for name, value in content["model"].items() if value.is_floating_point() and value.numel()}
    name = rng.choice(sorted(weights))
    value = rng.choice([float("nan"), float("inf"), float("-inf")])
    changed = weights[name].flatten()
    changed[rng.randrange(len(changed))] = value
    content["model"][name] = changed.view(weights[name].shape)
    return f"with {value} in {name}"


def _bits(content: Content, rng: Random) -> str:
    weights = {name: value for name, value in content["model"].items() if value.dtype == torch.float32}
    name = rng.choice(sorted(weights))
    number = weights[name].flatten().view(torch.int32)
    number[rng.randrange(len(number))] ^= 1 << rng.randrange(20, 31)
    content["model"][name] = number.view(torch.float32).view(weights[name].shape)
    return f"with a bit of {name} flipped, saved again"


CHANGES: dict[str, Callable[[Content, Random], str]] = {
    "a key missing": _missing,
    "a weight missing": _missing_weight,
    "an unknown field": _unknown,
    "a weight of another shape": _shape,
    "a weight of another type": _type,
    "a strange value": _strange,
    "another architecture": _architecture,
    "another network's weights": _other_network,
    "a weight that is not finite": _not_finite,
    "a bit of a weight flipped": _bits,
}


def _changed(change: Callable[[Content, Random], str], path: Path, rng: Random) -> str:
    """Change a checkpoint's content, and save it as torch does: or, where that can still be told, with a new seal."""
    content = torch.load(path, weights_only=True)
    what = change(content, rng)
    if change is _bits or rng.random() < 0.3:
        torch.save(content, path)
    else:
        save_checkpoint(content, path)
        what += ", sealed"
    return f"{path.name} {what}"


def _infer(change: Callable[[Content, Random], str], case: Case) -> Seen:
    runs, out, name = case.copy(case.world.runs), case.place / "out", case.rng.choice(["last.pt", "best.pt"])
    what = _changed(change, runs / MEMBER / name, case.rng)
    more = ["--checkpoint", "best"] if name == "best.pt" else []
    ended = case.run("infer", *infer_words(runs, case.world.shards, out, "--ensemble", *more))
    wanted = case.world.digests["best" if more else "infer"]
    return judged(ended, f"{what}; infer", same=lambda: outputs_digest(out) == wanted, name=name)


def _resume(change: Callable[[Content, Random], str], case: Case) -> Seen:
    out = case.copy(case.world.half)
    name = case.rng.choice([path.name for path in sorted((out / MEMBER).glob("*.pt"))])
    what = _changed(change, out / MEMBER / name, case.rng)
    ended = case.run("train", *train_words(case.world.shards, out))
    same = lambda: member_digest(out / MEMBER) == case.world.digests["train"]  # noqa: E731
    # A best.pt that is lost leaves pred_best empty, and training says so.
    said = "warning: " if name == "best.pt" else ""
    return judged(ended, f"{what}; train again", same=same, name=name, said=said)


def _weights(form: str, case: Case) -> Seen:
    """A --weights file in a form that people have."""
    state = torch.load(case.world.weights, weights_only=True)
    path, out = case.place / "weights.pth", case.place / "out"
    good = form in FORMS_TAKEN
    if form == "a web page":
        path.write_text("<!DOCTYPE html><html><head><title>404</title></head><body>Not found</body></html>")
    elif form == "a pointer of git-lfs":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 4123\n")
    elif form == "a pickled network":
        torch.save(create_backbone("tiny", size=SIZE, weights="none").module, path)
    else:
        torch.save(FORMS[form](state), path)
    ended = case.run("train", *train_words(case.world.shards, out, "--weights", str(path)))
    bad = crashed(ended, form)
    if bad is not None:
        return bad
    if "weights_only" in ended.output:
        return Seen(verdict="silent", words="advises to load code", detail=ended.output[-1500:])
    if ended.code:
        seen = refused(ended, form, path.name)
        return seen if not good else Seen(verdict="loss", words="refused, but sound", detail=seen.detail)
    if not good:
        return Seen(verdict="silent", words="taken", detail=ended.output[-1500:])
    same = member_digest(out / MEMBER) == case.world.digests["weights"]
    return Seen(verdict="ok", words="taken") if same else Seen(verdict="silent", words="other weights", detail=form)


FORMS_TAKEN: dict[str, Callable[[Content], Any]] = {
    "names with module.": lambda state: {f"module.{name}": value for name, value in state.items()},
    "names with _orig_mod.": lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    "in state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "in model": lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
    "no num_batches_tracked": lambda state: {k: v for k, v in state.items() if not k.endswith("batches_tracked")},
}
FORMS: dict[str, Callable[[Content], Any]] = {
    **FORMS_TAKEN,
    "a list": lambda state: list(state.values()),
    "a number": lambda _: 3,
    "another network": lambda _: create_backbone("test_vit.r160_in1k", size=SIZE, weights="none").module.state_dict(),
    "half of it": lambda state: dict(list(state.items())[::2]),
    "not finite": lambda state: {name: value / 0 for name, value in state.items()},
}
_EXPECTED = f"refused in one line that names the file, or {SAME}"
KINDS = [
    *(
        Kind(injected=f"{name}, {reader}", expected=_EXPECTED, attempt=partial(attempt, change), quick=True)
        for reader, attempt in (("before infer", _infer), ("before resuming", _resume))
        for name, change in CHANGES.items()
    ),
    *(
        Kind(
            injected=f"--weights: {form}",
            expected="taken" if form in FORMS_TAKEN else "refused in one line that names the file",
            attempt=partial(_weights, form),
            quick=True,
            once=True,
        )
        for form in (*FORMS, "a web page", "a pointer of git-lfs", "a pickled network")
    ),
]
