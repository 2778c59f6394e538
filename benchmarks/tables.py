"""A record of benchmarks/throughput.py as Markdown."""

from benchmarks.contenders import OURS
from benchmarks.record import TITLES, LoaderFigures, Record, Sweep, TrainingFigures, Work
from benchmarks.turns import Spread


def throughput(record: Record, plots: str) -> list[str]:
    """The lines of its section; `plots` is the beginning of its pictures' names."""
    config = record.config
    what = [*([f"`{record.training.backbone}`"] if record.training else []), *(["loaders"] if record.loaders else [])]
    what = what or ["the stream"]
    lines = [
        f"## Throughput of {' and '.join(what)}: {record.device}",
        "",
        f"{record.date}, torch {record.versions['torch']}, {record.images:,} training images of {record.size} px, "
        f"{record.mean_jpeg_bytes / 1000:.0f} KB each on average; {config['rounds']} rounds, at least "
        f"{config['seconds']:g} s a turn after its warm-up; the run took {record.seconds / 60:.0f} minutes, its own "
        f"process at most {record.peak_host_mib:,.0f} MiB.",
    ]
    if record.failed:
        lines += ["", f"It ended early: {record.failed}."]
    if record.training is not None:
        lines += ["", *_training(record.training)]
    if record.loaders:
        lines += ["", *_loaders(record, plots)]
    if record.limits is not None:
        lines += ["", *_limits(record)]
    if record.scaling:
        lines += ["", *_scaling(record.scaling, plots)]
    costs = record.costs
    return [
        *lines,
        "",
        f"Order and parameters of an epoch of 1,000,000 samples cost {costs['order_us']:.0f} + "
        f"{costs['params_us']:.0f} us a step of {config['loader_batch_size']} images, "
        f"the meter {costs['meter_us']:.0f} us.",
    ]


def _training(one: TrainingFigures) -> list[str]:
    how = ", ".join(f"{name} {value}" for name, value in one.speed.items() if name != "placement")
    gpu = f" Peak GPU memory {one.peak_gpu_gib:.1f} GiB." if one.peak_gpu_gib is not None else ""
    plain = f" | {one.plain_images_per_s:,.0f}" if one.plain_images_per_s else ""
    failed = f" The plain trainer failed: {one.plain_failed}." if one.plain_failed else ""
    stages = ", ".join(f"{stage} {spent:.0f}" for stage, spent in one.stage_us.items())
    return [
        f"### Training `{one.backbone}`: does the step wait for data?",
        "",
        f"Batches of {one.batch_size}, placement {one.placement}, cache {one.cache}; {how}.{gpu}",
        "",
        f"| loader alone | resident batch | replayed batches | real |{' plain trainer |' if plain else ''}",
        f"| --- | --- | --- | --- |{' --- |' if plain else ''}",
        "| " + " | ".join(rate.words(int(rate.median < 100)) for rate in one.images_per_s.values()) + f"{plain} |",
        "",
        f"Saturation (real / replayed) {one.saturation.words(3)}; contention (replayed / resident) "
        f"{one.contention.words(3)}; utilisation {one.utilisation.words(3)}; A/A control (resident, twice a round) "
        f"{one.noise:.3f}. The loader's stages, us an image: {stages}.{failed}",
        "",
        f"> {one.verdict}",
    ]


def _loaders(record: Record, plots: str) -> list[str]:
    controls = " and ".join(f"{control:.1%} ({TITLES[name]})" for name, control in record.noise.items())
    lines = [
        "### Loaders side by side",
        "",
        f"Batches of {record.config['loader_batch_size']}, uint8 NHWC on the training device, warm page cache, the "
        "same JPEGs; each in a process of its own, which is stopped while another one runs. Threads or workers: "
        f"{max(one.threads for one in record.loaders)} each. By the A/A control, our default measured twice a round, "
        f"the same thing may differ from itself by {controls}: smaller differences are ties.",
    ]
    for workload, title in TITLES.items():
        some = [one for one in record.loaders if one.workload == workload]
        if some:
            lines += ["", f"**{title.capitalize()}**", "", *_loader_table(some)]
            lines += ["", _ranking(some)]
    lines += ["", "What a batch holds besides its pictures:", "", *_contracts(record.loaders)]
    return [*lines, "", f"![Loaders side by side]({plots}_loaders.png)"]


def _contracts(loaders: list[LoaderFigures]) -> list[str]:
    """A line for all loaders of one adapter, with the versions that did the work."""
    names: dict[str, dict[str, None]] = {}
    versions: dict[str, dict[str, str]] = {}
    for one in loaders:
        if one.contract:
            names.setdefault(one.contract, {})[one.name] = None
            versions.setdefault(one.contract, {}).update(one.versions)
    return [
        f"- {'; '.join(names[contract])}: {contract} "
        f"({', '.join(f'{name} {version}' for name, version in versions[contract].items())})."
        for contract in names
    ]


def _loader_table(some: list[LoaderFigures]) -> list[str]:
    heads = ["loader", "images/s", "of bare decoding", "of ours", "first batch", "epoch's end", "CPU an image"]
    heads += ["memory", *(["GPU memory"] if any(one.gpu_mib is not None for one in some) else []), "disk"]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    some = sorted(some, key=lambda one: -(one.images_per_s.median if one.images_per_s else 0.0))
    for one in some:
        if one.images_per_s is None or one.of_limit is None:
            lines.append(f"| {one.name} | not measured: {one.failed} |{' |' * (len(heads) - 2)}")
            continue
        name = f"**{one.name}**" if one.name == OURS else one.name
        cells = [name, one.images_per_s.words(), one.of_limit.words(2), _beside(one), f"{one.first_batch_s:.2f} s"]
        cells += [
            "" if one.epoch_wait_ms is None else f"{one.epoch_wait_ms:.0f} ms",
            f"{one.cpu_us:.0f} us",
            "" if one.memory_mib is None else f"{one.memory_mib:,.0f} MiB",
            *([] if one.gpu_mib is None else [f"{one.gpu_mib:,.0f} MiB"]),
            "" if one.disk_mib is None else f"{one.disk_mib:,.0f} MiB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _beside(one: LoaderFigures) -> str:
    if one.of_ours is None or one.name == OURS:
        return ""
    return one.of_ours.words(2) + (", tie" if one.tie else "")


def _ranking(some: list[LoaderFigures]) -> str:
    """Who is faster than ours and why, or that nobody is."""
    others = [one for one in some if one.of_ours and one.kind == "peer"]
    faster = [one for one in others if one.of_ours and one.of_ours.median > 1 and not one.tie]
    ties = "; ".join(one.name for one in others if one.tie)
    if not others:
        return "No peer was measured."
    if not faster:
        return f"No peer is faster{f'; ties: {ties}' if ties else ''}."
    words = f"Faster than ours: {'; '.join(map(_faster, faster))}."
    kept = [one for one in some if one.kind == "ours" and one.pixels and one.of_ours]
    if kept and any(one.pixels for one in faster):
        words += f" What of ours decodes nothing either: {'; '.join(map(_faster, kept))}."
    return words + (f" Ties: {ties}." if ties else "")


def _faster(one: LoaderFigures) -> str:
    """Its rate beside ours, and why it may be higher."""
    assert one.of_ours is not None
    why = f": it reads pixels that were decoded before, {one.disk_mib or 0:,.0f} MiB on disk"
    return f"{one.name}, {one.of_ours.words(2)}{why if one.pixels and one.kind == 'peer' else ''}"


def _limits(record: Record) -> list[str]:
    limits = record.limits
    assert limits is not None
    memory = "; ".join(f"{threads} threads {one.words(1)}" for threads, one in limits.memory_gb_per_s.items())
    rows = [
        ("main memory, GB/s copied (read and written)", memory),
        (f"matrix product, {limits.precision}, TFLOP/s", limits.matmul_tflops.words(3)),
        ("GPU memory, GB/s copied", _maybe(limits.device_gb_per_s, 0)),
        ("pinned memory to the GPU, GB/s", _maybe(limits.to_device_gb_per_s, 1)),
        ("the GPU's JPEG decoder (DALI, mixed), images/s", _maybe(limits.nvjpeg_images_per_s, 0)),
    ]
    lines = ["### Limits of this machine", "", "| limit | measured |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in rows if value]
    trained = [record.training.work] if record.training else []
    works = [*trained, *(one for one in record.models if one.backbone not in [work.backbone for work in trained])]
    return [*lines, "", *_works(works)] if works else lines


def _maybe(one: Spread | None, digits: int) -> str:
    return "" if one is None else one.words(digits)


def _works(works: list[Work]) -> list[str]:
    lines = [
        "| model | size | parameters | forward | activations | step | of matrix product | moved | of copy rate |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in works:
        measured = one.flops_share is not None
        cells = [
            f"`{one.backbone}`",
            f"{one.size} px",
            f"{one.parameters_m:.2f} M",
            f"{one.gmacs:.2f} GMACs",
            f"{one.activations_m:.1f} M",
            f"{6 * one.gmacs:.2f} GFLOP an image",
            f"{one.flops_share:.2f}" if measured else "not measured",
            f"{one.step_gb * 1e3:.0f} MB an image" if measured else "not measured",
            f"{one.bandwidth_share:.2f}" if measured else "not measured",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [
        *lines,
        "",
        "A step counts as three forward passes; its bytes are what the operators of an eager step read and write, of "
        "which caches hold a part.",
    ]


def _scaling(sweeps: list[Sweep], plots: str) -> list[str]:
    lines = [
        "### How it grows",
        "",
        "Our default, the whole augmentation, one thing varied; the line is fitted to medians by relative errors. "
        "Sizes are of synthetic images; large sets repeat the samples of the small one, so that only the index grows.",
        "",
        "| varied | measured | line | off the line | memory |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in sweeps:
        points = "; ".join(f"{point.x:,g}: {point.y.words(int(point.y.median < 1000))}" for point in one.points)
        memory = "; ".join(f"{point.x:,g}: {point.memory_mib:,.0f} MiB" for point in one.points)
        off = "" if one.off is None else f"at most {one.off:.0%}"
        lines.append(f"| {one.x_label} | {one.y_label}: {points} | {one.meaning} | {off} | {memory} |")
    opened = [point for one in sweeps if one.name == "samples" for point in one.points]
    if opened and opened[-1].open_s is not None:
        lines += [
            "",
            f"A set of {opened[-1].x:,.0f} samples gives its first batch {opened[-1].open_s:.1f} s after opening.",
        ]
    return [*lines, "", f"![How it grows]({plots}_scaling.png)"]
