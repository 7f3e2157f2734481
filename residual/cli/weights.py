"""residual weights inspect|convert: whose file is this, and what does it expect?"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from residual.cli.terminal import next_step, printable, refuse_new_file

app = typer.Typer(help="Say whose a file of weights is; bring it into our form.", rich_markup_mode=None)


@app.command("inspect")
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of weights or a run folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every tensor.")] = False,
) -> None:
    """Say whose file it is and what it expects.

    Which network is in it, for which images and classes.  Nothing in the file is executed.
    """
    from residual.weights.sources import inspect as look

    found = look(file)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _tell(found)
    if "problem" in found:
        raise ValueError(found["problem"])
    if not as_json:
        print(next_step("evaluate", file, "--data", "DIR"))


@app.command("convert")
def convert(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Somebody's file of weights.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The .safetensors file to write.")],
) -> None:
    """Write the weights in our form.

    Our form is a safetensors file that carries network, classes and preprocessing.
    """
    refuse_new_file(target)
    from residual.weights.sources import convert as write

    card = write(source, target)
    print(f"{target}: {card.name}, {len(card.classes)} classes")
    print(next_step("evaluate", target, "--data", "DIR"))


def _tell(found: dict[str, Any]) -> None:
    lines = [
        f"{found['file']}: {found['bytes']:,} bytes, {len(found['tensors'])} tensors",
        f"  sha256   {found['sha256']}",
        f"  layout   {found['layout']} ({found['container']})",
    ]
    if "card" in found:
        card = found["card"]
        model, images = card["model"], card["preprocessing"]
        how = "as they are" if images["resize"] is None else f"shorter side {images['resize']}, centre cropped"
        mean = "one per pixel" if len(images["mean"]) > 3 else _numbers(images["mean"])
        lines += [
            f"  network  {card['name']}: {model['block']} blocks {model['depths']}, shortcut {model['shortcut']}",
            f"  classes  {len(card['classes'])}: {', '.join(card['classes'][:10])}",
            f"  images   {images['channels']}, {images['size']}x{images['size']} ({how})",
            f"  mean     {mean}   std {_numbers(images['std'])}",
            *(f"  origin   {name}: {value}" for name, value in card["history"].items()),
        ]
    for line in lines:
        print(printable(line))


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
