"""The gradients of one batch, in every way to compute them."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch

from configs.schema import Inputs, ModelConfig, OptimConfig
from engine.distributed import joined_ranks
from engine.network import build_network
from engine.optim import create_optimizer
from engine.precision import autocast_of, chosen_dtype
from engine.prepare_step import _captured, _compiled, blank_batch, prepare
from engine.step import Gradients, Iteration
from loaders.batch import TENSORS, Batch
from loaders.order import Partition
from models.fusion import FusionModel

SIZE, SAMPLES = 32, 12


def network(device: str, backbone: str = "tiny", inputs: Inputs = "both") -> tuple[FusionModel, Gradients]:
    """Without dropout, so that every way must give the same gradients."""
    torch.manual_seed(0)
    config = ModelConfig(inputs=inputs, head_drop=0.0, meta_drop=0.0)
    place = torch.device(device)
    model, objective = build_network(
        backbone, config, OptimConfig(), "melanoma", size=SIZE, weights="none", device=place, positive_weight=3.0
    )
    unscaled = torch.amp.GradScaler(device, enabled=False)
    return model, Gradients(network=model, objective=objective, autocast=nullcontext, scaler=unscaled, samples=SAMPLES)


def iteration(model: FusionModel, step: Gradients) -> Iteration:
    optimizer = create_optimizer(model, OptimConfig(), capturable=next(model.parameters()).is_cuda)
    parameters = list(model.parameters())
    return Iteration(gradients=step, optimizer=optimizer, average=None, parameters=parameters, clip_grad=0.0)


def batch(device: str) -> Batch:
    generator = torch.Generator().manual_seed(1)
    blank = blank_batch(SAMPLES, SIZE, 11, torch.device("cpu"))
    drawn = replace(
        blank,
        image=torch.randint(0, 256, blank.image.shape, dtype=torch.uint8, generator=generator),
        meta=torch.randn(blank.meta.shape, generator=generator),
        valid=torch.arange(SAMPLES) < 10,
    )
    return drawn.to(torch.device(device))


def gradients(model: FusionModel) -> dict[str, torch.Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def assert_the_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], tolerance: float) -> None:
    assert one.keys() == two.keys()
    largest = max(float(value.abs().max()) for value in one.values())
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=tolerance * largest, rtol=0.0, msg=name)


def test_parts_add_up_to_the_whole_batch() -> None:
    model, step = network("cpu")
    model.eval()  # with running statistics, which splitting does not change
    whole = step(batch("cpu"))
    expected = gradients(model)
    parts = replace(step, parts=3)(batch("cpu"))
    torch.testing.assert_close(parts, whole)
    assert_the_same(expected, gradients(model), 1e-5)


@pytest.mark.parametrize("world", [2, 3, 5, 7])
def test_the_mean_over_ranks_with_unequal_shares_is_that_of_the_batch(world: int) -> None:
    model, step = network("cpu")
    model.eval()
    whole, given = step(batch("cpu")), batch("cpu")
    expected = gradients(model)
    losses, found = [], []
    for rank in range(world):
        partition = Partition(samples=SAMPLES, batch_size=SAMPLES, rank=rank, world_size=world)
        places, counts = (torch.from_numpy(array) for array in partition.positions(0))
        share = {name: getattr(given, name)[places] for name in TENSORS}
        share["valid"] &= counts
        losses.append(replace(step, samples=partition.mean_share)(replace(given, **share)))
        found.append(gradients(model))
    torch.testing.assert_close(torch.stack(losses).mean(), whole)
    mean = {name: torch.stack([one[name] for one in found]).mean(0) for name in expected}
    assert_the_same(expected, mean, 1e-5)


def test_parts_may_differ_by_one_sample() -> None:
    model, step = network("cpu")
    model.eval()
    whole = step(batch("cpu"))
    expected = gradients(model)
    torch.testing.assert_close(replace(step, parts=5)(batch("cpu")), whole)
    assert_the_same(expected, gradients(model), 1e-5)


def test_a_step_starts_from_no_gradient() -> None:
    model, step = network("cpu")
    model.eval()
    step(batch("cpu"))
    once = gradients(model)
    step(batch("cpu"))
    assert_the_same(once, gradients(model), 0.0)


def test_loss_scaling_scales_the_gradients_alone() -> None:
    model, step = network("cpu")
    model.eval()
    plain = step(batch("cpu"))
    once = gradients(model)
    scaled = replace(step, scaler=torch.amp.GradScaler("cpu", init_scale=8.0))(batch("cpu"))
    assert torch.equal(plain, scaled)
    assert_the_same({name: 8 * value for name, value in once.items()}, gradients(model), 1e-6)


@pytest.mark.long
def test_a_compiled_step_gives_the_gradients_of_an_eager_one() -> None:
    model, step = network("cpu", inputs="meta")  # the branch that compiles in seconds
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with joined_ranks("cpu") as ranks:
        compiled = prepare(iteration(model, step), model, batch("cpu"), ranks, compiling=True, capturing=False)
    assert compiled.compiled
    assert not compiled.remarks
    for name, value in model.state_dict().items():  # the trial step left no trace
        assert torch.equal(value, before[name]), name
    assert not gradients(model)
    loss = compiled.iteration(batch("cpu"))
    found = gradients(model)
    model.load_state_dict(before)
    torch.testing.assert_close(loss, step(batch("cpu")))
    assert_the_same(gradients(model), found, 1e-4)


def test_without_a_compiler_training_continues_and_says_why() -> None:
    model, step = network("cpu", inputs="image")  # not compiled before in this process
    no_compiler = {"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}
    with (
        joined_ranks("cpu") as ranks,
        torch._inductor.config.patch(no_compiler),
        torch._functorch.config.patch(enable_autograd_cache=False),
    ):
        eager = prepare(iteration(model, step), model, batch("cpu"), ranks, compiling=True, capturing=False)
    (remark,) = eager.remarks
    assert remark.startswith("speed.compile: continuing without it, because torch.compile failed: ")
    assert "no-such-compiler" in remark
    assert not eager.compiled
    assert eager.iteration(batch("cpu")).isfinite()


class Branching(torch.nn.Module):
    """Looks at a value within the forward pass, which cannot be compiled as one graph."""

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor, meta: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(image, meta)
        return logits if logits.sum() > 0 else 2 * logits


def test_a_graph_break_is_a_remark_and_no_silence() -> None:
    model, step = network("cpu", inputs="meta")
    broken = Branching(model)
    eager, remark = _compiled(broken, replace(step, network=broken), batch("cpu"))
    assert remark.startswith("speed.compile: continuing without it, because torch.compile failed: Unsupported: ")
    assert eager is broken


def test_all_networks_of_a_large_grid_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch.compiler.reset()
    for number in range(10):  # torch gives up after eight
        model, step = network("cpu", inputs="meta")
        model.head.drop = number / 10
        compiled, remark = _compiled(model, step, batch("cpu"))
        assert compiled is not model, remark


def resized(given: Batch, size: int) -> Batch:
    return replace(given, image=given.image[:, :size, :size].contiguous())


def test_every_size_of_images_is_compiled_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[int, ...]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        compiled.extend(tuple(one.shape) for one in inputs if one.dtype == torch.uint8)
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch.compiler.reset()
    model, step = network("cpu", inputs="image")
    given, smaller = batch("cpu"), resized(batch("cpu"), 24)
    with joined_ranks("cpu") as ranks:
        done = prepare(iteration(model, step), model, given, ranks, compiling=True, capturing=False, others=[smaller])
    assert done.compiled, done.remarks
    before = list(compiled)
    assert {shape[1] for shape in before} == {SIZE, 24}
    for each in (smaller, given, smaller):
        assert done.iteration(each).isfinite()
    assert compiled == before


@pytest.mark.parametrize(("kind", "timed"), [("cpu", False), ("cuda", True)])
def test_cudnn_times_its_algorithms_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch, kind: str, timed: bool) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    model, step = network("cpu")
    with joined_ranks("cpu") as ranks:
        ranks = replace(ranks, device=torch.device(kind))
        prepare(iteration(model, step), model, batch("cpu"), ranks, compiling=False, capturing=False)
    assert torch.backends.cudnn.benchmark == timed


def test_without_a_gpu_no_graph_is_captured() -> None:
    model, step = network("cpu")
    with joined_ranks("cpu") as ranks:
        eager = prepare(iteration(model, step), model, batch("cpu"), ranks, compiling=False, capturing=True)
    assert eager.remarks == ["speed.cuda_graph: continuing without it, because there is no GPU"]
    assert not eager.captured
    assert isinstance(eager.iteration, Iteration)


def test_auto_precision_is_float32_on_a_cpu() -> None:
    cpu = torch.device("cpu")
    assert chosen_dtype("auto", cpu) == torch.float32
    assert chosen_dtype("bf16", cpu) == torch.bfloat16
    with autocast_of(torch.bfloat16, cpu)():
        assert torch.is_autocast_enabled("cpu")
    with autocast_of(torch.float32, cpu)():
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("compiling", [False, True])
def test_a_replayed_graph_gives_the_gradients_of_an_eager_step(compiling: bool) -> None:
    model, step = network("cuda")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with joined_ranks("cuda") as ranks:
        graphed = prepare(iteration(model, step), model, batch("cuda"), ranks, compiling=compiling, capturing=True)
    assert not graphed.remarks
    for _ in range(2):  # the second replay starts from no gradient, too
        model.load_state_dict(before)
        loss = graphed.iteration(batch("cuda")).clone()
        found = gradients(model)
    model.load_state_dict(before)
    torch.testing.assert_close(loss, step(batch("cuda")), atol=1e-3, rtol=1e-3)
    assert_the_same(gradients(model), found, 1e-2)  # TF32 and other algorithms


@pytest.mark.gpu
def test_dropout_in_a_graph_is_a_function_of_the_seed() -> None:
    model, step = network("cuda")
    model.head.drop = 0.5
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = []
    with joined_ranks("cuda") as ranks:
        graphed = prepare(iteration(model, step), model, batch("cuda"), ranks, compiling=False, capturing=True)
    assert not graphed.remarks
    for seed in (5, 6, 5):
        model.load_state_dict(before)
        torch.manual_seed(seed)
        losses.append(float(graphed.iteration(batch("cuda"))))
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["auto", "fp16"])
def test_half_precision_is_close_to_single(precision: str) -> None:
    model, step = network("cuda")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = step(batch("cuda"))
    model.load_state_dict(before)
    dtype = chosen_dtype(precision, torch.device("cuda"))  # type: ignore[arg-type]
    assert dtype != torch.float32
    half = replace(step, autocast=autocast_of(dtype, torch.device("cuda")))(batch("cuda"))
    torch.testing.assert_close(half, loss, atol=0.05, rtol=0.05)


class Synchronising(torch.nn.Module):
    """Waits for the device within the forward pass, which a capture does not allow."""

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor, meta: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(image, meta)
        logits.sum().item()
        return logits


@pytest.mark.gpu
def test_a_step_that_cannot_be_captured_runs_eagerly() -> None:
    model, step = network("cuda")
    model.head.drop = 0.5
    step = replace(step, network=Synchronising(model))
    graphed, remark = _captured(iteration(model, step), model, batch("cuda"))
    assert "continuing without it, because capturing failed" in remark
    assert graphed(batch("cuda")).isfinite()
