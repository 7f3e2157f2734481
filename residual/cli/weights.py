"""residual weights: whose file is this, what does it expect, and how does it come here and go back?"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from residual.cli.doctor import doctor
from residual.cli.terminal import next_step, printable, refuse_new_file, working

app = typer.Typer(
    help="Say whose a file of weights is; convert it; fetch published ones.",
    rich_markup_mode=None,
)
examine = app.command("doctor")(doctor)
Layout = Annotated[
    str | None,
    typer.Option("--layout", help="Whose names these are, where two share them (timm, torchvision)."),
]


@app.command("inspect")
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of weights or a run folder.")],
    layout: Layout = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every tensor.")] = False,
) -> None:
    """Say whose file it is and what it expects.

    Which network is in it, for which images and classes.  Nothing in the file is executed.
    """
    from residual.weights.sources import inspect as look

    found = look(file, layout=layout)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _tell(found)
    if "problem" in found:
        raise ValueError(found["problem"])
    if not as_json:
        if found["layout"] == "residual":
            print(next_step("evaluate", file, "--data", "DIR"))
        else:
            told = () if layout is None else ("--layout", layout)
            print(next_step("weights", "convert", file, f"{file.stem}-ours.safetensors", *told))


@app.command("convert")
def convert(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Somebody's file of weights.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The .safetensors file to write.")],
    layout: Layout = None,
    half: Annotated[bool, typer.Option("--half", help="Numbers of 16 bits: half of the size.")] = False,
) -> None:
    """Write the weights in our form.

    Our form is a safetensors file that carries network, classes and preprocessing.
    """
    refuse_new_file(target)
    if target.suffix != ".safetensors":
        raise ValueError(
            f"{target} would be a safetensors file by another name; call it {target.with_suffix('.safetensors')}, or "
            "write a torch.save file for torchvision or timm: residual weights export"
        )
    from residual.weights.sources import convert as write

    card = write(source, target, layout=layout, half=half)
    print(printable(f"{target}: {card.name}, {len(card.classes)} classes"))
    if "assumed" in card.history:
        print(printable(f"Assumed, for the file does not say: {card.history['assumed']}"))
    print(next_step("evaluate", target, "--data", "DIR"))


@app.command("export")
def export(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A file of weights or a run folder.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The .pth or .safetensors file to write.")],
    to: Annotated[str, typer.Option("--to", help="Whose names to write: torchvision or timm.")],
) -> None:
    """Write the weights for torchvision or timm.

    A bare state dict, to be loaded there by load_state_dict.  What was converted from them comes back bit for bit.
    """
    refuse_new_file(target)
    from residual.weights.sources import export as write

    card = write(source, target, layout=to)
    network = card.name.removesuffix("_v1_5")
    print(printable(f"{target}: {network} for {to}, {len(card.classes)} classes; load it there by load_state_dict"))
    print(next_step("weights", "inspect", target, "--layout", to))


@app.command("download")
def download(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="As its publisher calls it: resnet50.")],
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="Whose, and which: torchvision, timm/a2_in1k.")],
) -> None:
    """Fetch a file of weights that somebody has published.

    An interrupted download goes on where it ended, and the file is checked by its hash.  `residual weights list`
    names them all.
    """
    from residual.weights.sources import obtain

    with working(f"fetching {network}") as tell:
        path = obtain(network, weights, download=True, tell=tell)
    print(printable(str(path)))
    print(next_step("weights", "inspect", path))


@app.command("list")
def published(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List weights that come with residual, and published files.

    Each with the error that we measured, or that its publisher claims.
    """
    from residual.weights import trained
    from residual.weights.published import PUBLISHED, claim

    claims = [*map(trained.claim, trained.names()), *map(claim, PUBLISHED)]
    if as_json:
        print(json.dumps(claims, indent=2))
        return
    print("network           weights                      top-1  top-5   error in percent, and who says so")
    for one in claims:
        top1, top5 = (" " * 6 if error is None else f"{error:6.2f}" for error in (one["top1_error"], one["top5_error"]))
        print(f"{one['network']:<17} {one['weights']:<27} {top1} {top5}   {one['said_by']}")
    print(next_step("weights", "download", "resnet50", "torchvision"))


def _tell(found: dict[str, Any]) -> None:
    lines = [
        f"{found['file']}: {found['bytes']:,} bytes, {len(found['tensors'])} tensors",
        f"  sha256   {found['sha256']}",
        f"  layout   {found['layout']}" + (f" ({found['container']})" if found["container"] else ""),
    ]
    if "card" in found:
        card = found["card"]
        model, images = card["model"], card["preprocessing"]
        how = "as they are" if images["resize"] is None else f"shorter side {images['resize']}, centre cropped"
        mean = "one per pixel" if len(images["mean"]) > 3 else _numbers(images["mean"])
        lines += [
            f"  network  {card['name']}: {_network(model)}",
            f"  classes  {len(card['classes'])}: {', '.join(card['classes'][:10])}",
            f"  images   {images['channels']}, {images['size']}x{images['size']} ({how}, {images['interpolation']})",
            f"  mean     {mean}   std {_numbers(images['std'])}",
            *(f"  origin   {name}: {value}" for name, value in card["history"].items() if value != found.get(name)),
        ]
    if "published" in found:
        lines += [f"  claimed  {_claimed(found['published'])}"]
    for line in lines:
        print(printable(line))


def _network(model: dict[str, Any]) -> str:
    """Blocks and stages, and what tells ResNets of one shape apart."""
    parts = [f"{model['block']} blocks {model['depths']}", f"shortcut {model['shortcut']}"]
    if model["block"] == "bottleneck":
        parts.append(f"stride in the {'first 1x1' if model['stride_in'] == 'first' else '3x3'}")
    if model["order"] != "original":
        parts.append(f"order {model['order']}")
    if model["stem_pool"] == "ceil":
        parts.append("pooling without a border")
    return ", ".join(parts)


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _claimed(said: dict[str, Any]) -> str:
    errors = [f"top-{k} error {said[f'top{k}_error']:g} %" for k in (1, 5) if said[f"top{k}_error"] is not None]
    return f"{said['network']} {said['weights']}: {', '.join(errors)} ({said['said_by']}; not measured by us)"
