"""Writes the page of `benchmarks.gpu`: what is correct, what fits, how fast it is, and which items failed."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

Finding = dict[str, Any]
Cases = dict[str, dict[str, Any]]
# Largest errors that rounding explains, relative to the norm: of a net's gradient or logits by precision, and of a
# trained head's logits in float32.
ROUNDING = {"float32": 1e-4, "tf32": 5e-2, "bfloat16": 4e-1}
HEADS_ERROR = 1e-3
SIZES, BACKBONES = (32, 84, 200), ("alexnet", "vgg", "resnet")
PRECISIONS = ("bfloat16", "tf32")


def page(findings: Sequence[Finding], items: Sequence[str]) -> str:
    """The page as Markdown.

    Args:
        findings: the lines of `gpu.jsonl`; a later line replaces an earlier one of the same case or item.
        items: names of all items, in order.
    """
    cases: defaultdict[str, Cases] = defaultdict(dict)
    ends: dict[str, Finding] = {}
    for finding in findings:
        if "case" in finding:
            cases[finding["item"]][finding["case"]] = finding["numbers"]
        else:
            ends[finding["item"]] = finding
    lines = _head(cases["versions"], cases["peaks"])
    lines += _checks(cases)
    lines += _extremes(cases)
    lines += _convolutions(cases["convolutions"])
    lines += _speeds(cases)
    lines += _forecast(cases)
    lines += _ends(ends, items)
    return "\n".join([*lines, ""])


def _head(versions: Cases, peaks: Cases) -> list[str]:
    machine = versions.get("machine")
    if machine is None:
        return ["# GPU: it does not start"]
    name = machine.get("gpu", "none, tried on a CPU")
    facts = [f"torch {machine['torch']}", f"Python {machine['python']}", f"{machine['cores']} cores", machine["date"]]
    if "gpu" in machine:
        facts = [f"{machine['GiB']} GiB", f"CUDA {machine['cuda']}", f"cuDNN {machine['cudnn']}", *facts]
    lines = [f"# GPU: {name}", "", ", ".join(facts) + "."]
    reached = [f"{kind} {numbers['tflops']:.1f} TFLOP/s" for kind, numbers in peaks.items() if "tflops" in numbers]
    if "copy" in peaks:
        reached.append(f"copies {peaks['copy']['gb_per_second']:.0f} GB/s, read and written")
    return [*lines, "", f"Reached by large matrices: {'; '.join(reached)}."] if reached else lines


def _checks(cases: defaultdict[str, Cases]) -> list[str]:
    rows = []
    for item, what in (("gradients", "gradient of a first step"), ("evaluation", "logits of an evaluation")):
        for case, numbers in cases[item].items():
            limit = ROUNDING[case.rpartition(", ")[2]]
            remark = f"error {numbers['median']:.1e} (median net), {numbers['worst']:.1e} (worst)"
            rows.append((f"{what}: {case}", numbers["median"] <= limit, remark))
    for case, numbers in cases["graphs"].items():
        remark = f"{numbers['captured']} graphs; from eager steps {numbers['from_eager']:.1e}"
        remark += ", the same bits" if numbers["same_bits_as_eager"] else ""
        rows.append((f"graphs twice, bit for bit: {case}", numbers["same_bits_twice"], remark))
    for case, numbers in cases["resume"].items():
        rows.append((f"restart, bit for bit: {case}", numbers["same_bits"] and numbers["same_history"], ""))
    for case, numbers in cases["heads agree"].items():
        remark = f"error {numbers['from_loop']:.1e}" + (
            "" if numbers["same_bits_twice"] else "; another time other bits"
        )
        rows.append((f"head on fused members: {case}", numbers["from_loop"] <= HEADS_ERROR, remark))
    for case, numbers in cases["halves"].items():
        rows.append((case, "left_out" not in numbers, numbers.get("left_out") or "; ".join(numbers["layouts"])))
    if not rows:
        return []
    lines = ["", "## Is it right?", "", "| what | | |", "|---|---|---|"]
    return lines + [f"| {what} | {'yes' if good else '**no**'} | {remark} |" for what, good, remark in rows]


def _extremes(cases: defaultdict[str, Cases]) -> list[str]:
    lines = []
    for item, item_cases in list(cases.items()):
        if item.startswith("extremes"):
            for case, numbers in item_cases.items():
                times = [f"{numbers[f'{name}: s an epoch']:.2f}" for name in ("eager", "graph")]
                peaks = [str(numbers.get(f"{name}: peak GiB", "")) for name in ("eager", "graph")]
                left = str(numbers.get("afterwards: held GiB", ""))
                sane = "yes" if numbers["finite"] else "**no**"
                columns = [f"{item.partition(': ')[2]}, {case}", *times, *peaks, left, str(numbers["captured"]), sane]
                lines.append(f"| {' | '.join(columns)} |")
    if not lines:
        return []
    return [
        "", "## Do the largest fit?", "",
        "Ten runs of five nets; an epoch is its steps, augmentation and an evaluation of 360 images.", "",
        "| | s an epoch, eager | graph | peak GiB, eager | graph | GiB held afterwards | graphs | finite |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
        *lines,
    ]  # fmt: skip


def _convolutions(cases: Cases) -> list[str]:
    forms = list(dict.fromkeys(name for numbers in cases.values() for name in numbers))
    if not forms:
        return []
    lines = [
        "", "## Which form of the convolutions?", "",
        "Milliseconds of a forward and a backward pass of fifty nets on ten images; the fastest is bold.", "",
        f"| layer | {' | '.join(forms)} |", f"|---|{'---:|' * len(forms)}",
    ]  # fmt: skip
    for case, numbers in cases.items():
        times = {
            name: values["forward ms"] + values["backward ms"] for name, values in numbers.items() if "apart" in values
        }
        fastest = min(times, key=lambda name: times[name], default=None)
        shown = [f"{times[name]:.2f}" if name in times else "failed" for name in forms]
        shown = [f"**{text}**" if name == fastest else text for name, text in zip(forms, shown, strict=True)]
        lines.append(f"| {case} | {' | '.join(shown)} |")
    return lines


def _speeds(cases: defaultdict[str, Cases]) -> list[str]:
    rows = []
    for item, item_cases in list(cases.items()):
        if not item.startswith("speed: "):
            continue
        name = item.removeprefix("speed: ")
        naive = cases["naive loops"].get(name, {})
        for case, numbers in item_cases.items():
            step, image = numbers["step ms"], numbers["evaluated image µs"]
            faster = [
                naive[key] / value if naive else 0 for key, value in (("step ms", step), ("evaluated image µs", image))
            ]
            times = [f"{value:.1f}" if value else "" for value in faster]
            more = [numbers.get(key, "") for key in ("augmentation ms", "s to begin", "peak GiB")]
            shown = [f"{value:.2f}" if isinstance(value, float) else str(value) for value in more]
            rows.append(
                f"| {name}: {case} | {step:.2f} | {times[0]} | {image:.0f} | {times[1]} | {' | '.join(shown)} |"
            )
    if not rows:
        return []
    lines = [
        "", "## How fast is it?", "",
        "Per run, of ten at once (the naive loop: of one); batches of ten images and five nets.", "",
        "| | ms a step | times faster | µs an image evaluated | times faster | ms of augmentation a step "
        "| s to begin | peak GiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *rows,
    ]  # fmt: skip
    lines += ["", "The forms of the convolutions that programs chose when they began, where not all are grouped:", ""]
    for item, item_cases in list(cases.items()):
        chosen = {case: numbers["forms"] for case, numbers in item_cases.items() if numbers.get("forms")}
        lines += [f"- {item.partition(': ')[2]}, {case}{forms}" for case, forms in chosen.items()]
    if cases["heads"]:
        lines += [
            "", "Of a fusion head of one run:", "", "| | ms a tuned step | µs an image evaluated |", "|---|---:|---:|",
            *(f"| {case} | {n['step ms']:.2f} | {n['evaluated image µs']:.0f} |" for case, n in cases["heads"].items()),
        ]  # fmt: skip
    for case, numbers in cases["kernels"].items():
        lines += ["", f"The longest kernels of an epoch, {case}:", ""]
        lines += [f"- {share:.1%}, {calls} calls: `{kernel}`" for kernel, share, calls in numbers["kernels"]]
    return lines


def _forecast(cases: defaultdict[str, Cases]) -> list[str]:
    measured = {
        (backbone, size): cases[f"speed: {backbone} at {size}"]
        | {"naive loop": cases["naive loops"].get(f"{backbone} at {size}", {})}
        | {
            f"{precision}, heads": cases["heads"].get(f"{backbone} at {size}, {precision}", {})
            for precision in PRECISIONS
        }
        for backbone in BACKBONES
        for size in SIZES
    }
    wanted = [f"{precision}, {kind}" for precision in PRECISIONS for kind in ("graph", "heads")] + ["naive loop"]
    if not all(item_cases.get(case) for item_cases in measured.values() for case in wanted):
        return ["", "No forecast of `paper`: not all speeds are measured."]
    try:
        hours = {precision: forecast(measured, precision) for precision in PRECISIONS}
    except ImportError as error:
        return [
            "",
            f"No forecast of `paper` here ({error}): call `python -m benchmarks.gpu --page` where fdl is installed.",
        ]
    lines = [
        "", "## Forecast for one seed of `paper`", "",
        "From the nearest measured size of each backbone: members in programs of ten runs, heads of one run at a time, "
        "maps at the rate of the naive loop.", "", "| | members, hours | heads | maps |", "|---|---:|---:|---:|",
    ]  # fmt: skip
    return lines + [
        f"| {precision} | {' | '.join(f'{value:.1f}' for value in hours_by_kind.values())} |"
        for precision, hours_by_kind in hours.items()
    ]


def forecast(measured: dict[tuple[str, int], Cases], precision: str) -> dict[str, float]:
    """Hours of one seed of the preset `paper`, by "members", "heads" and "maps".

    Args:
        measured: results of the items on speed, by backbone and image size.
        precision: "bfloat16" or "tf32".
    """
    from fdl.core.protocol import DATASETS
    from fdl.core.settings import load
    from fdl.training import costs

    rates: dict[tuple[str, int, str], tuple[float, float]] = {}
    for (backbone, size), item_cases in measured.items():
        dataset = {32: "cifar10", 84: "miniimagenet", 200: "neu"}[size]
        net = costs.count(costs.Shape(backbone, dataset, len(DATASETS[dataset].classes), size, 1.0))
        kinds = {"members": f"{precision}, graph", "heads": f"{precision}, heads", "maps": "naive loop"}
        for kind, case in kinds.items():
            numbers = item_cases[case]
            step = numbers["step ms"] + numbers.get("augmentation ms", 0.0)
            # FLOP/s in training (a step has 50 passes: 5 nets, 10 images) and in evaluation (5 nets)
            rates[backbone, size, kind] = (
                50 * net.training / max(step / 1e3, 1e-9), 5 * net.forward / (numbers["evaluated image µs"] / 1e6)
            )  # fmt: skip
    settings = partial(load, Path(__file__).parents[1] / "params.yaml", preset="paper")
    params, without = settings(overrides={"seeds": [0]}), settings(overrides={"seeds": [0], "heads": []})
    hours = {"members": 0.0, "heads": 0.0, "maps": 0.0}
    for cell in params.cells():
        with_heads, members = costs.work(params, cell), costs.work(without, cell)
        net = costs.count(with_heads.shape)
        size = min(SIZES, key=lambda size: abs(size - with_heads.shape.image_size))
        images = {  # trained, and evaluated
            "members": (members.trained, members.evaluated),
            "heads": (with_heads.trained - members.trained, with_heads.evaluated - members.evaluated),
            "maps": (0, with_heads.mapped),
        }
        for kind, (trained, evaluated) in images.items():
            training, forward = rates[cell.backbone, size, kind]
            hours[kind] += (trained * net.training / training + evaluated * net.forward / forward) / 3600
    return hours


def _ends(ends: dict[str, Finding], items: Sequence[str]) -> list[str]:
    lines = ["", "## Items", ""]
    for item in items:
        end = ends.get(item, {"ended": "not begun", "seconds": 0.0, "output": []})
        lines.append(f"- {item}: {end['ended']}, {end['seconds']:.0f} s")
        if end["output"]:
            lines += ["", "  ```", *(f"  {line}" for line in end["output"]), "  ```", ""]
    return lines
