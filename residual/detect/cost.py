"""What a described detector costs, by arithmetic: parameters and multiply-adds for one image, part by part.

Multiply-adds count convolutions and fully connected layers, as in residual/models/cost.py; cutting regions out, pasting
masks and choosing among boxes are left out.  Norms count with scale and shift, though `frozen` fixes them.
Shapes: an image of `side` x `side` pixels, P regions, K classes, A anchors at each place of a map.
"""

from dataclasses import dataclass, replace

from residual.detect.card import Described
from residual.detect.cascade import CascadeDescription
from residual.detect.faster_rcnn import DetectorDescription
from residual.detect.localize import LocalizerDescription
from residual.detect.masks import MaskDescription
from residual.detect.proposals import ProposalDescription
from residual.detect.pyramid import PyramidDescription
from residual.models.cost import block, half, stages
from residual.models.description import Description, units

CLASSIFIERS = 224  # pixels, for which trunks are described that classify photographs; detectors see larger ones
SIDE = 600  # pixels, which they see
CELLS, FEWER = 14, 7  # a side of a region's cut: for the last stage of a residual network, for fully connected layers
VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and 3x3 convolutions, a pooling between
HIDDEN = 4096  # neurons of VGG-16's fc6 and fc7

Cost = tuple[int, int]  # parameters, and multiply-adds of one time
Maps = list[int]  # the side of each


@dataclass(frozen=True, kw_only=True)
class Part:
    """A row of a detector's table.

    times: how often it is done for an image: once, or for each region; macs: of all times together.
    output: of one time: height, width and channels of a map, or how many numbers.
    """

    name: str
    times: int
    output: tuple[int, ...]
    parameters: int
    macs: int


def side_of(described: Described) -> int:
    """The side, pixels, of the image to count for: 600, or what a trunk for small images was described for."""
    trunk = described.trunk
    return trunk.image if isinstance(trunk, Description) and trunk.image != CLASSIFIERS else SIDE


def regions_of(described: Described) -> int:
    """How many regions of an image are judged in testing, at most; by a localizer, for each class that it is asked."""
    return described.candidates if isinstance(described, LocalizerDescription) else described.proposals.after[1]


def parts(described: Described, side: int, regions: int) -> list[Part]:
    """The parts in the order in which an image goes through them; the columns add up to the whole.

    A localizer is asked for one class.  Masks are made of as many answers as there may be, after all regions.
    """
    match described:
        case DetectorDescription():
            return _faster_rcnn(described, side, regions)
        case CascadeDescription():
            return _cascade(described, side, regions)
        case LocalizerDescription():
            return _localizer(described, side, regions)


def _faster_rcnn(told: DetectorDescription, side: int, regions: int) -> list[Part]:
    classes, context = len(told.classes), told.regions.context
    if told.pyramid is None:
        rows, channels, maps = _shared(told.trunk, side)
        stage = _stage(told.trunk, told.regions.pooled, "head")
    else:
        assert isinstance(told.trunk, Description)
        rows, channels, maps = _pyramid(told.trunk, told.pyramid, side)
        hidden = told.pyramid.hidden
        stage = _part("head: two layers", (hidden,), _layer(channels * FEWER**2, hidden), _layer(hidden, hidden))
    rows.append(_proposer(told.proposals, channels, maps))
    rows.append(_repeated(stage, regions + context))  # the whole image is a region too
    rows.append(_judges("head: class and box", stage.output[-1] * (1 + context), classes, times=regions))
    if told.masks is not None:
        most = told.regions.most
        if not told.masks.convs:  # what the last stage saw of the answers' boxes, looked at again
            rows.append(_repeated(replace(stage, name="masks: the stage again", parameters=0), most))
        rows.append(_masks(told.masks, stage.output, channels, classes, times=most))
    return rows


def _cascade(told: CascadeDescription, side: int, regions: int) -> list[Part]:
    classes, mask = len(told.classes), told.mask**2
    rows, channels, maps = _shared(told.trunk, side)
    times = regions * (2 if told.stages == 5 else 1)
    boxed = _stage(told.trunk, told.regions.pooled, "box")
    masked = _stage(told.trunk, told.regions.pooled, "mask")
    outline = (_layer(channels * told.pooled**2, told.hidden), _layer(told.hidden, mask))
    seen = 2 * boxed.output[-1]
    return [
        *rows,
        _proposer(told.proposals, channels, maps),
        _part("mask: two layers", (told.mask, told.mask), *outline, times=times),
        _repeated(boxed, times),
        _repeated(masked, times),
        _judges("class and box", seen, classes, times=times),
        _part("class of the mask", (classes + 1,), _layer(seen, classes + 1), times=times),
    ]


def _localizer(told: LocalizerDescription, side: int, regions: int) -> list[Part]:
    classes, anchors = told.trunk.classes, told.anchors
    first, second = _rows(told.trunk, side), _rows(told.trunk, told.side)
    place, _, channels = first[-1].output
    numbers, width = 5 * anchors, told.width  # numbers of one class at each place
    learned, _ = _layer(width, numbers * classes)
    _, multiplied = _layer(width, numbers, 1, place)
    return [
        *(replace(part, name=f"first: {part.name}") for part in first),
        _part("first: convolution", _map(place, width), _layer(channels, width, 3, place)),
        _part("first: class and box", _map(place, numbers), (learned, multiplied)),
        *(_repeated(replace(part, name=f"second: {part.name}"), regions) for part in second),
        _part("second: class and box", (5 * classes,), _layer(channels, 5 * classes), times=regions),
    ]


# --- parts -----------------------------------------------------------------------------------------------------------


def _shared(trunk: Description | str, side: int) -> tuple[list[Part], int, Maps]:
    """What sees the image, the channels of its map, and the side of it."""
    if isinstance(trunk, Description):
        rows = _rows(trunk, side)[:-1]
    else:
        rows, c_in = [], 3
        for number, (channels, convs) in enumerate(VGG16, start=1):
            layers = [_layer(c_in if n == 0 else channels, channels, 3, side) for n in range(convs)]
            rows.append(_part(f"conv{number}", _map(side, channels), *layers))
            c_in, side = channels, side // 2
    return rows, rows[-1].output[-1], [rows[-1].output[0]]


def _rows(trunk: Description, side: int) -> list[Part]:
    """Stem and stages of a residual network, once."""
    *rows, _ = stages(trunk, side)
    return [
        Part(name=s.name, times=1, output=_map(s.side, s.channels), parameters=s.parameters, macs=s.macs) for s in rows
    ]


def _pyramid(trunk: Description, told: PyramidDescription, side: int) -> tuple[list[Part], int, Maps]:
    """The same of a pyramid, and its maps, the finest first."""
    rows = _rows(trunk, side)
    width, maps = told.width, [row.output[0] for row in rows[1:]]
    layers = [_layer(row.output[-1], width, 1, row.output[0]) for row in rows[1:]]
    layers += [_layer(width, width, 3, each) for each in maps]
    return [*rows, _part("pyramid", _map(maps[0], width), *layers)], width, [*maps, half(maps[-1])]


def _proposer(told: ProposalDescription, channels: int, maps: Maps) -> Part:
    """The region proposal network, the same on every map."""
    numbers = 5 * told.anchors
    learned = _layer(channels, told.width, 3)[0] + _layer(told.width, numbers)[0]
    multiplied = sum(
        _layer(channels, told.width, 3, each)[1] + _layer(told.width, numbers, 1, each)[1] for each in maps
    )
    return _part("proposal network", _map(maps[0], numbers), (learned, multiplied))


def _stage(trunk: Description | str, pooled: int | None, of: str) -> Part:
    """What each region goes through: the last stage, or fc6 and fc7; once."""
    if not isinstance(trunk, Description):
        layers = (_layer(VGG16[-1][0] * FEWER**2, HIDDEN), _layer(HIDDEN, HIDDEN))
        return _part(f"{of}: fc6 and fc7", (HIDDEN,), *layers)
    side, last, costs = pooled or CELLS, len(trunk.depths) - 1, []
    for unit in units(trunk):
        if unit.stage == last:
            costs.append(block(trunk, unit, side))
            side = half(side) if unit.stride == 2 else side
    return _part(f"{of}: stage {last + 1}", _map(side, trunk.outputs[-1]), *costs)


def _judges(name: str, width: int, classes: int, *, times: int) -> Part:
    """A score for each class and for nothing, four numbers of a box for each class."""
    return _part(name, (5 * classes + 1,), _layer(width, 5 * classes + 1), times=times)


def _masks(told: MaskDescription, seen: tuple[int, ...], channels: int, classes: int, *, times: int) -> Part:
    """Convolutions, if any, then twice the side, and a mask for each class.  seen: what is known of a region."""
    side, c_in = (told.pooled, told.width) if told.convs else (seen[0], seen[-1])
    layers = [_layer(told.width if n else channels, told.width, 3, side) for n in range(told.convs)]
    layers += [_layer(c_in, told.width, 2, side), _layer(told.width, classes, 1, 2 * side)]  # four places for each
    return _part("masks: head", _map(2 * side, classes), *layers, times=times)


# --- sums ------------------------------------------------------------------------------------------------------------


def _layer(c_in: int, c_out: int, kernel: int = 1, side: int = 1) -> Cost:
    """A convolution with biases whose weights are all used at side x side places; or a fully connected layer."""
    weights = c_in * c_out * kernel**2
    return weights + c_out, weights * side**2


def _part(name: str, output: tuple[int, ...], *layers: Cost, times: int = 1) -> Part:
    learned, multiplied = (sum(each) for each in zip(*layers, strict=True))
    return Part(name=name, times=times, output=output, parameters=learned, macs=times * multiplied)


def _repeated(part: Part, times: int) -> Part:
    """What is counted once, for each region."""
    return replace(part, times=times, macs=times * part.macs)


def _map(side: int, channels: int) -> tuple[int, int, int]:
    return side, side, channels
