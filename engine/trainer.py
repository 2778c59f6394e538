"""The trainer: the network, its loss, the optimiser and the step over them, built from a config."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from configs.errors import UserError
from configs.schema import TrainConfig
from engine.distributed import Ranks
from engine.network import build_network
from engine.optim import MovingAverage, Schedule, create_optimizer, load_optimizer
from engine.precision import autocast_of, chosen_dtype
from engine.prepare_step import CompiledNetwork, Speed, blank_batch, prepare
from engine.records import member_folder
from engine.step import Gradients, Iteration, Step, lead_over
from loaders.order import Partition
from models.backbones import takes_one_size
from models.fusion import FusionModel
from models.losses import Objective
from models.weights import cause
from prep.metadata import FEATURES


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """One rank's network and everything that changes its weights.

    average: the moving average of the weights, if the config asks for one; schedule: the learning rate; judge: the
    judged model as it is run, compiled if the step is; speed: how the step is run, for the records; remarks: what the
    user should know about that, to which an evaluation that cannot be compiled adds a line.
    """

    model: FusionModel
    objective: Objective
    autocast: Callable[[], AbstractContextManager[Any]]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage | None
    schedule: Schedule
    step: Step
    judge: nn.Module
    speed: Speed
    remarks: list[str]

    @property
    def judged_model(self) -> nn.Module:
        """The network that is evaluated and saved as best.pt: the moving average if there is one."""
        return self.model if self.average is None else self.average.model

    def tensors(self) -> dict[str, Any]:
        """What a checkpoint stores of the trainer; `build_trainer` loads it."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def is_finite(self) -> bool:
        """Whether all weights, their averages and running statistics are finite; waits for the device."""
        models = {id(one): one for one in (self.model, self.judged_model)}.values()
        values = [value for one in models for value in one.state_dict().values() if value.is_floating_point()]
        return bool(torch.stack([value.isfinite().all() for value in values]).all())


def build_trainer(
    config: TrainConfig,
    ranks: Ranks,
    *,
    size: int,
    partition: Partition,
    positive_weight: float,
    speed: Speed,
    saved: dict[str, Any] | None = None,
) -> Trainer:
    """Build the trainer of a run on images of `size` x `size` pixels, some of which `config.progressive` makes smaller,
    with the batches of `partition`.

    saved: the `tensors` of a checkpoint to continue from, else the weights that the config asks for. Every rank must
    call it.
    """
    device = ranks.device
    if config.progressive.epochs and takes_one_size(config.backbone):
        raise UserError(
            f"backbone={config.backbone} takes images of one size only: give another one, or --progressive.epochs 0"
        )
    torch.manual_seed(config.seed)
    model, objective = build_network(
        config.backbone,
        config.model,
        config.optim,
        config.target,
        size=size,
        weights="none" if saved else config.weights,
        device=device,
        channels_last=speed.channels_last,
        positive_weight=positive_weight,
    )
    model.keep_activation_inputs()
    if config.sync_batchnorm and ranks.world_size > 1:
        model.share_batch_statistics()
    dtype = chosen_dtype(config.precision, device)
    # bf16 has the range of float32; fp16 gradients would vanish without scaling.
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    capturable = speed.cuda_graph and device.type == "cuda" and ranks.world_size == 1
    average = None
    if config.optim.ema:
        average = MovingAverage(model, copy.deepcopy(model), config.optim.ema, capturable=capturable)
    optimizer = create_optimizer(model, config.optim, capturable=capturable)
    if saved:
        try:
            model.load_state_dict(saved["model"])
            load_optimizer(optimizer, saved["optimizer"])
            if average is not None:
                average.model.load_state_dict(saved["average"])
            if saved["scaler"]:
                scaler.load_state_dict(saved["scaler"])
        # What torch raises for other names, shapes and parameter groups.
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise UserError(
                f"{member_folder(config)}: last.pt does not fit the network that its settings describe "
                f"({cause(error)}): train this member again with --resume never"
            ) from error
    local = partition.local_batch_size
    gradients = Gradients(
        network=model,
        objective=objective,
        autocast=autocast_of(dtype, device),
        scaler=scaler,
        samples=partition.mean_share,
        parts=config.accumulate,
    )
    sizes = [size, config.progressive.size] if config.progressive.epochs else [size]
    example, *others = (blank_batch(local, each, len(FEATURES[config.model.meta]), device) for each in sizes)
    iteration = Iteration(
        gradients=gradients,
        optimizer=optimizer,
        average=average,
        parameters=list(model.parameters()),
        clip_grad=config.optim.clip_grad,
    )
    ready = prepare(
        iteration, model, example, ranks, compiling=speed.compile, capturing=speed.cuda_graph, others=others
    )
    judge: nn.Module = model if average is None else average.model
    if ready.compiled:
        judge = CompiledNetwork(
            judge, local, lambda why: ready.remarks.append(f"speed.compile: evaluating without it, because {why}")
        )
    schedule = Schedule(optim=config.optim, steps_per_epoch=partition.steps, epochs=config.epochs)
    step = Step(
        iteration=ready.iteration,
        optimizer=optimizer,
        average=average,
        schedule=schedule,
        seed=config.seed,
        rank=ranks.rank,
        lead=lead_over(device),
    )
    return Trainer(
        model=model,
        objective=objective,
        autocast=gradients.autocast,
        optimizer=optimizer,
        scaler=scaler,
        average=average,
        schedule=schedule,
        step=step,
        judge=judge,
        speed=Speed(channels_last=model.channels_last, compile=ready.compiled, cuda_graph=ready.captured),
        remarks=ready.remarks,
    )
