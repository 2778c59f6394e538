"""What can be shown without a GPU of the step that a GPU runs: its operators, its graphs, its replay."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Self

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from configs.schema import ModelConfig, OptimConfig, TrainConfig
from engine.distributed import joined_ranks
from engine.network import build_network
from engine.optim import MovingAverage, Schedule, create_optimizer
from engine.precision import autocast_of
from engine.prepare_step import CapturedIteration, Speed, blank_batch, prepare
from engine.step import Gradients, Iteration, Lead, Step, lead_over
from engine.trainer import build_trainer
from loaders.batch import TENSORS, Batch
from loaders.order import Partition
from models.folding import folded
from models.fusion import FusionModel
from models.losses import Objective

aten = torch.ops.aten
CPU = torch.device("cpu")
BACKBONES = ("tiny", "efficientnet_b1", "efficientnet_b3", "efficientnet_b4", "resnest50")
SAMPLES, SIZE, FEATURES = 8, 64, 11
OPTIM = OptimConfig(ema=0.9, clip_grad=1.0, auxiliary_weight=0.5, warmup_epochs=0.0)


def network(backbone: str = "tiny") -> tuple[FusionModel, Objective]:
    """A network as the trainer builds it, and its objective."""
    torch.manual_seed(0)
    model, objective = build_network(
        backbone, ModelConfig(), OPTIM, "melanoma", size=SIZE, weights="none", device=CPU, positive_weight=3.0
    )
    model.keep_activation_inputs()
    return model, objective


def step_of(model: FusionModel, averaged: FusionModel, objective: Objective, *, capturable: bool = True) -> Step:
    """The step of a network and its average, not captured."""
    average = MovingAverage(model, averaged, OPTIM.ema, capturable=capturable)
    optimizer = create_optimizer(model, OPTIM, capturable=capturable)
    unscaled = torch.amp.GradScaler("cpu", enabled=False)
    iteration = Iteration(
        gradients=Gradients(network=model, objective=objective, autocast=nullcontext, scaler=unscaled, samples=SAMPLES),
        optimizer=optimizer,
        average=average,
        parameters=list(model.parameters()),
        clip_grad=OPTIM.clip_grad,
    )
    schedule = Schedule(optim=OPTIM, steps_per_epoch=3, epochs=3)
    return Step(
        iteration=iteration,
        optimizer=optimizer,
        average=average,
        schedule=schedule,
        seed=0,
        rank=0,
        lead=lead_over(next(model.parameters()).device),
    )


def batch(number: int) -> Batch:
    """A batch of a run with three steps per epoch; each number has its own pixels, facts and labels."""
    generator = torch.Generator().manual_seed(number)
    blank = blank_batch(SAMPLES, SIZE, FEATURES, CPU)
    return replace(
        blank,
        epoch=number // 3,
        step=number % 3,
        image=torch.randint(0, 256, blank.image.shape, dtype=torch.uint8, generator=generator),
        meta=torch.randn(blank.meta.shape, generator=generator),
        target=torch.randint(0, 2, (SAMPLES,), generator=generator).float(),
        diagnosis=torch.randint(0, 9, (SAMPLES,), generator=generator),
        index=torch.randint(0, 1000, (SAMPLES,), generator=generator),
        valid=torch.rand(SAMPLES, generator=generator) < 0.8,
    )


# ---- (a) the operators of a step, traced on fake tensors ----


class Operators(TorchDispatchMode):
    """Lists the operators that are called, and refuses one that waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.called: Counter[str] = Counter()
        self.cloned: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not aten._local_scalar_dense.default, "a value is copied to the host"
        result = func(*args, **(kwargs or {}))
        self.called[str(func).removeprefix("aten.")] += 1
        if func is aten.clone.default and result.is_floating_point():
            self.cloned.append(tuple(result.shape))
        return result


UPDATE = {"_foreach_add_.Scalar": 2, "_foreach_copy_.default": 1}
UPDATES = {
    False: {**UPDATE, "_fused_adamw_.default": 2, "_foreach_lerp_.Scalar": 1},
    True: {
        **UPDATE,
        "_fused_adamw_.tensor_lr": 2,
        "_foreach_sub.List": 1,
        "_foreach_mul_.Tensor": 1,
        "_foreach_add_.List": 1,
    },
}
"""All fused operators of a step, capturable or not: twice AdamW and its counts of steps, for the parameters with weight
decay and those without; once the average, of floating-point values and of batch counters."""


@pytest.mark.parametrize(("backbone", "capturable"), [*((name, True) for name in BACKBONES), ("tiny", False)])
def test_a_step_waits_for_nothing_and_clones_nothing(backbone: str, capturable: bool) -> None:
    real, objective = network(backbone)
    mode = FakeTensorMode()
    with FakeCopyMode(mode):
        model, averaged = copy.deepcopy(real), copy.deepcopy(real)
    with mode:
        step = step_of(model, averaged, objective, capturable=capturable)
        gradients = replace(step.iteration.gradients, autocast=autocast_of(torch.bfloat16, CPU))
        step = replace(step, iteration=replace(step.iteration, gradients=gradients))
        blank = blank_batch(SAMPLES, SIZE, FEATURES, CPU)
        step(blank)  # makes the moments
        with Operators() as operators:
            step(blank)
    assert operators.cloned == []
    fused = {name: number for name, number in operators.called.items() if name.startswith(("_f", "_amp"))}
    assert fused == UPDATES[capturable]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.stride() == parameter.stride(), name


def test_the_networks_of_a_trainer_keep_the_inputs_of_their_activations() -> None:
    config = TrainConfig(backbone="tiny", weights="none", optim=OPTIM)
    partition = Partition(samples=32, batch_size=SAMPLES)
    with joined_ranks("cpu") as ranks:
        trainer = build_trainer(config, ranks, size=SIZE, partition=partition, positive_weight=1.0, speed=Speed())
    assert trainer.judged_model is not trainer.model
    for model in (trainer.model, trainer.judged_model):
        assert not [name for name, module in model.named_modules() if getattr(module, "inplace", False)]


# ---- (b) one graph for the compiler: a break is an error already, and a second graph a recompilation ----


@pytest.mark.parametrize("backbone", ["tiny", *(pytest.param(name, marks=pytest.mark.long) for name in BACKBONES[1:])])
def test_training_and_evaluation_are_one_graph_each(backbone: str) -> None:
    torch.compiler.reset()
    graphs = []

    def passed_through(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    model, objective = network(backbone)
    compiled = torch.compile(model, dynamic=False, fullgraph=True, backend=passed_through)
    gradients = step_of(model, copy.deepcopy(model), objective).iteration.gradients
    gradients = replace(gradients, network=compiled, autocast=autocast_of(torch.bfloat16, CPU))
    for epoch in range(2):  # an evaluation between two epochs costs no compilation
        for number in range(2):
            gradients(batch(number))
            assert len(graphs) == 1 + epoch
        model.eval()
        with torch.inference_mode(), gradients.autocast():
            compiled(batch(0).image, batch(0).meta)
        model.train()
        assert len(graphs) == 2
    predicting = folded(model, batch(0).image[:1], batch(0).meta[:1])
    assert predicting is not model
    with torch.inference_mode(), gradients.autocast():
        torch.compile(predicting, dynamic=False, fullgraph=True, backend=passed_through)(batch(0).image, batch(0).meta)
    assert len(graphs) == 3


# ---- (c) the captured step, on a stand-in for a CUDA graph ----


class Recorder(TorchDispatchMode):
    """Records operators with their tensors and numbers, as a CUDA graph does; a copy to the host is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Call all of it again, on the same tensors, with the results where they were."""
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            for before, now in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(before, Tensor) and before.untyped_storage()._cdata != now.untyped_storage()._cdata:
                    before.copy_(now)


class Graph:
    """torch.cuda.CUDAGraph, as far as it is used."""

    def __init__(self) -> None:
        self.recorder = Recorder()

    def replay(self) -> None:
        self.recorder.replay()


class Stream:
    """torch.cuda.Stream, likewise; the optimiser asks the current one whether it is capturing."""

    capturing = False

    def wait_stream(self, other: Self) -> None:
        pass

    def is_capturing(self) -> bool:
        return Stream.capturing


@contextmanager
def recorded(graph: Graph, *, capture_error_mode: str) -> Iterator[None]:
    """torch.cuda.graph, likewise."""
    assert capture_error_mode == "thread_local"
    Stream.capturing = True
    try:
        with graph.recorder:
            yield
    finally:
        Stream.capturing = False


@pytest.fixture
def cuda_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams and graphs without CUDA."""

    def entered(_: Stream) -> AbstractContextManager[None]:
        return nullcontext()

    for name, stand_in in (("CUDAGraph", Graph), ("graph", recorded), ("Stream", Stream), ("stream", entered)):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.accelerator, "current_stream", Stream)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))


class Waiting(torch.nn.Module):
    """Waits for a value in the forward pass."""

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, meta: Tensor) -> Tensor:
        logits: Tensor = self.model(image, meta)
        return logits * float(logits.sum() > -torch.inf)


def everything(model: FusionModel, iteration: Iteration) -> dict[str, Any]:
    """All that a step changes, copied: weights, statistics, averages, moments, loss scale."""
    assert iteration.average is not None
    named = {f"model {name}": value for name, value in model.state_dict().items()}
    named |= {f"average {name}": value for name, value in iteration.average.model.state_dict().items()}
    for number, parameter in enumerate(iteration.parameters):
        named |= {f"{name} {number}": value for name, value in iteration.optimizer.state[parameter].items()}
    scale = iteration.gradients.scaler.state_dict()
    return {name: value.clone() for name, value in named.items()} | {f"scaler {name}": scale[name] for name in scale}


def assert_equal(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        same = torch.equal(value, two[name]) if isinstance(value, Tensor) else value == two[name]
        assert same, name


def twin_steps(*, parts: int = 1, scale: float = 0.0, samples: int = SAMPLES) -> list[tuple[FusionModel, Step]]:
    """Two networks with the same weights, and their steps; a scale above 0 is that of a GradScaler."""
    twins = []
    for _ in range(2):
        model, objective = network()
        step = step_of(model, copy.deepcopy(model), objective)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2, enabled=scale > 0)
        gradients = replace(step.iteration.gradients, parts=parts, scaler=scaler, samples=samples)
        twins.append((model, replace(step, iteration=replace(step.iteration, gradients=gradients))))
    return twins


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "in two parts": {"parts": 2},
    "scaled": {"scale": 8.0},
    "overflowing": {"scale": 2.0**127, "samples": 1},
}


@pytest.mark.usefixtures("cuda_graphs")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("before", [0, 2])  # steps of an earlier process, as of a run that is resumed
def test_replayed_steps_are_eager_ones_bit_for_bit(way: str, before: int) -> None:
    (eager_model, eager), (model, step) = twin_steps(**WAYS[way])
    iteration, blank = step.iteration, blank_batch(SAMPLES, SIZE, FEATURES, CPU)
    for number in range(before):
        eager(batch(number))
        step(batch(number))
    kept = everything(model, iteration)
    captured = CapturedIteration(iteration, model, blank)
    trained = everything(model, iteration)
    assert_equal({name: trained[name] for name in kept}, kept)  # all but the moments that were made
    replayed, skipped = replace(step, iteration=captured), 0
    for number in range(before, 8):
        given = batch(number)
        weights = [parameter.clone() for parameter in iteration.parameters]
        for parameter in iteration.parameters:
            parameter.grad.fill_(torch.pi)
        expected, loss = eager(given), replayed(given)
        assert torch.equal(loss, expected)
        for name in TENSORS:
            assert torch.equal(getattr(captured._static, name), getattr(given, name)), name
        assert_equal(everything(model, iteration), everything(eager_model, eager.iteration))
        same = [torch.equal(*pair) for pair in zip(weights, iteration.parameters, strict=True)]
        assert all(same) or not any(same)
        skipped += all(same)
        for one, two in zip(iteration.parameters, eager.iteration.parameters, strict=True):
            torch.testing.assert_close(one.grad, two.grad, rtol=0.0, atol=0.0, equal_nan=True)
    assert (0 < skipped < 8 - before) if way == "overflowing" else skipped == 0


@pytest.mark.usefixtures("cuda_graphs")
def test_each_size_of_images_has_a_graph_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replayed in any order, they train as eager steps do, bit for bit."""
    (eager_model, eager), (model, step) = twin_steps()

    def smaller(given: Batch) -> Batch:
        return replace(given, image=given.image[:, ::2, ::2].contiguous())

    def captured(iteration: Iteration, model: FusionModel, example: Batch) -> tuple[CapturedIteration, str]:
        return CapturedIteration(iteration, model, example), ""

    monkeypatch.setattr("engine.prepare_step._captured", captured)
    with joined_ranks("cpu") as ranks:
        blank = blank_batch(SAMPLES, SIZE, FEATURES, CPU)
        ready = prepare(step.iteration, model, blank, ranks, compiling=False, capturing=True, others=[smaller(blank)])
    assert ready.captured
    replayed = replace(step, iteration=ready.iteration)
    for number in range(5):
        given = batch(number) if number in (2, 4) else smaller(batch(number))
        assert torch.equal(replayed(given), eager(given))
        assert_equal(everything(model, step.iteration), everything(eager_model, eager.iteration))


@pytest.mark.usefixtures("cuda_graphs")
def test_where_one_size_cannot_be_captured_none_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    ((model, step), _) = twin_steps()
    answers = iter([(step.iteration, ""), (step.iteration, "speed.cuda_graph: no memory")])
    monkeypatch.setattr("engine.prepare_step._captured", lambda *_: next(answers))
    blank = blank_batch(SAMPLES, SIZE, FEATURES, CPU)
    with joined_ranks("cpu") as ranks:
        ready = prepare(step.iteration, model, blank, ranks, compiling=False, capturing=True, others=[blank])
    assert (ready.captured, ready.remarks) == (False, ["speed.cuda_graph: no memory"])
    assert isinstance(ready.iteration, Iteration)


@pytest.mark.usefixtures("cuda_graphs")
def test_a_captured_step_follows_the_seed() -> None:
    ((model, step), _), losses = twin_steps(), []
    captured = CapturedIteration(step.iteration, model, blank_batch(SAMPLES, SIZE, FEATURES, CPU))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for seed in (5, 6, 5):
        model.load_state_dict(weights)
        losses.append(float(replace(step, iteration=captured, seed=seed)(batch(0))))
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.usefixtures("cuda_graphs")
def test_a_value_on_the_host_cannot_be_captured() -> None:
    ((model, step), _) = twin_steps()
    network = Waiting(model)
    iteration = replace(step.iteration, gradients=replace(step.iteration.gradients, network=network))
    before = everything(model, iteration)
    with pytest.raises(RuntimeError, match="stream is capturing"):
        CapturedIteration(iteration, model, blank_batch(SAMPLES, SIZE, FEATURES, CPU))
    after = everything(model, iteration)
    assert_equal({name: after[name] for name in before}, before)
    assert not any(float(value.abs().sum()) for name, value in after.items() if name not in before)


# ---- (d) how far the host may be ahead, on a stand-in for a GPU that works only while the host waits for it ----


class IdleDevice:
    """Counts the steps that were queued, and those that are done because an event after them was waited for."""

    def __init__(self) -> None:
        self.queued = self.done = 0
        self.events: list[DeviceEvent] = []

    def event(self, *, blocking: bool) -> "DeviceEvent":
        assert blocking
        self.events.append(DeviceEvent(self))
        return self.events[-1]


class DeviceEvent:
    """torch.cuda.Event, as far as it is used."""

    def __init__(self, device: IdleDevice) -> None:
        self.device, self.after = device, 0

    def record(self) -> None:
        self.after = self.device.queued

    def synchronize(self) -> None:
        self.device.done = max(self.device.done, self.after)


def test_the_host_is_three_steps_ahead_at_most_and_never_waits_for_the_last_ones() -> None:
    device, seen = IdleDevice(), []

    def queue(_: Batch) -> Tensor:
        device.queued += 1
        return torch.zeros(())

    model, objective = network()
    step = step_of(model, copy.deepcopy(model), objective)
    step = replace(step, iteration=queue, lead=Lead(device.event))  # type: ignore[arg-type]
    for number in range(8):
        step(batch(number))
        seen.append(device.queued - device.done)
    assert seen == [1, 2, 3, 3, 3, 3, 3, 3]
    assert len(device.events) == 3  # used again and again


@pytest.mark.gpu
def test_on_a_gpu_replayed_steps_train_like_eager_ones() -> None:
    cuda, losses = torch.device("cuda"), []
    real, objective = network()
    real.head.drop = 0.0
    for capturing in (False, True):
        model = copy.deepcopy(real).to(cuda)
        step = step_of(model, copy.deepcopy(model), objective)
        model.eval()  # without dropout between the layers of the meta branch
        if capturing:
            captured = CapturedIteration(step.iteration, model, batch(0).to(cuda))
            step = replace(step, iteration=captured)
        losses.append([float(step(batch(0).to(cuda))) for _ in range(6)])
    assert losses[0][-1] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
