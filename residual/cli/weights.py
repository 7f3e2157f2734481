"""residual weights inspect|convert: whose file is this, and what does it expect?"""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Files of weights: whose they are, and into our form.", no_args_is_help=True)


@app.command("inspect")
def inspect(
    file: Annotated[Path, typer.Argument(help="A file of weights or a run folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every tensor.")] = False,
) -> None:
    """Say whose file it is, which network is in it and what images it expects; nothing in it is executed."""
    from residual.weights.sources import inspect as look

    found = look(file)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(f"{found['file']}: {found['bytes']:,} bytes, {len(found['tensors'])} tensors")
    print(f"  sha256   {found['sha256']}")
    print(f"  layout   {found['layout']} ({found['container']})")
    if "card" in found:
        card = found["card"]
        model, images = card["model"], card["preprocessing"]
        print(f"  network  {card['name']}: {model['block']} blocks {model['depths']}, shortcut {model['shortcut']}")
        print(f"  classes  {len(card['classes'])}: {', '.join(card['classes'][:10])}")
        how = "as they are" if images["resize"] is None else f"shorter side {images['resize']}, centre cropped"
        print(f"  images   {images['channels']}, {images['size']}x{images['size']} ({how})")
        many = len(images["mean"]) > 3
        print(f"  mean     {'one per pixel' if many else images['mean']}   std {images['std']}")
        for name, value in card["history"].items():
            print(f"  {name:8} {value}")
    if "problem" in found:
        print(f"  problem  {found['problem']}")
        raise typer.Exit(1)
    print(f"Next: residual evaluate {file} --data DIR")


@app.command("convert")
def convert(
    source: Annotated[Path, typer.Argument(help="Somebody's file of weights.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
) -> None:
    """Write the weights in our form: safetensors that carry network, classes and preprocessing."""
    if target.exists():
        raise ValueError(f"{target} exists and is not overwritten; name another file")
    from residual.weights.sources import convert as write

    card = write(source, target)
    print(f"{target}: {card.name}, {len(card.classes)} classes")
    print(f"Next: residual evaluate {target} --data DIR")
