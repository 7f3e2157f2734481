"""Files of weights that others have published: where, under which hash, for which images, and what they claim.

Errors are the publishers' own, in percent, on ImageNet's validation images (one central crop) or CIFAR-10's test
images; nothing here was measured by us.

A claim travels with the file whose hash is the one that its publisher gives, and with no other.  Of SHA-256 most
give eight digits, in the file's name, Keras gives MD5: a damaged file or another one has those by chance once in
four thousand million, but who wants to can make one that has them.  So a hash tells which file this is, and makes
none trustworthy: each is read apart, as a stranger's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from residual.data.transforms import Preprocessing
from residual.weights import akamaster, imagenet
from residual.weights.files import BadWeights


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published file.

    hashes: how its SHA-256 (64 digits) or MD5 (32) may begin, the first one that of the file at `url`, others of
        the same weights in earlier files.
    top1, top5: error, percent.
    """

    network: str  # as its publisher calls it
    weights: str  # whose, and which: "torchvision/IMAGENET1K_V1"
    url: str
    hashes: tuple[str, ...]
    preprocessing: Preprocessing
    top1: float
    top5: float | None = None
    source: str  # of the errors
    algorithm: str = "sha256"

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def family(self) -> str:
        return self.weights.partition("/")[0]


def _torchvision(network: str, version: int, hashes: str, top1: float, top5: float) -> Published:
    first, *earlier = hashes.split()
    return Published(
        network=network,
        weights=f"torchvision/IMAGENET1K_V{version}",
        url=f"https://download.pytorch.org/models/{network}-{first}.pth",
        hashes=(first, *earlier),
        preprocessing=imagenet.TORCHVISION if version == 1 else imagenet.TORCHVISION_V2,
        top1=top1,
        top5=top5,
        source="torchvision 0.29, table of weights",
    )


def _timm(network: str, recipe: str, sha256: str, top1: float) -> Published:
    return Published(
        network=network,
        weights=f"timm/{recipe}_in1k",
        url="https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-rsb-weights/"
        f"{network}_{recipe}_0-{sha256}.pth",
        hashes=(sha256,),
        preprocessing=imagenet.TIMM,
        top1=top1,
        source="timm, results-imagenet.csv",
    )


def _keras(network: str, md5: str, top1: float, top5: float) -> Published:
    return Published(
        network=network,
        weights="keras/imagenet",
        url="https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
        f"{network}_weights_tf_dim_ordering_tf_kernels.h5",
        hashes=(md5,),
        algorithm="md5",
        preprocessing=imagenet.mean_subtracted((103.939, 116.779, 123.68)),
        top1=top1,
        top5=top5,
        source="README of keras-applications, df0e26c of 2018-12-04",  # since 2019-11 it gives accuracies
    )


def _akamaster(network: str, sha256: str, top1: float) -> Published:
    return Published(
        network=network,
        weights="akamaster/cifar10",
        url=f"https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/{network}-{sha256}.th",
        hashes=(sha256,),
        preprocessing=akamaster.PREPROCESSING,
        top1=top1,
        source="akamaster's README, 820f98c of 2020-05-16, best epoch by test error",
    )


PUBLISHED = (  # of several weights of one publisher for one network, the one to take unasked comes first
    _torchvision("resnet18", 1, "f37072fd 5c106cde", 30.242, 10.922),
    _torchvision("resnet34", 1, "b627a593 333f7ec4", 26.686, 8.58),
    _torchvision("resnet50", 2, "11ad3fa6", 19.142, 4.566),
    _torchvision("resnet50", 1, "0676ba61 19c8e357", 23.87, 7.138),
    _torchvision("resnet101", 2, "cd907fc2", 18.114, 4.22),
    _torchvision("resnet101", 1, "63fe2227 5d3b4d8f", 22.626, 6.454),
    _torchvision("resnet152", 2, "f82ba261", 17.716, 3.998),
    _torchvision("resnet152", 1, "394f9c45 b121ed2d", 21.688, 5.954),
    _torchvision("wide_resnet50_2", 2, "9ba9bcbe", 18.398, 4.242),
    _torchvision("wide_resnet50_2", 1, "95faca4d", 21.532, 5.914),
    _torchvision("wide_resnet101_2", 2, "d733dc28", 17.49, 3.98),
    _torchvision("wide_resnet101_2", 1, "32ee1156", 21.152, 5.716),
    _timm("resnet18", "a1", "d63eafa0", 28.50),
    _timm("resnet18", "a2", "b61bd467", 29.37),
    _timm("resnet18", "a3", "40c531c8", 31.75),
    _timm("resnet34", "a1", "46f8f793", 23.58),
    _timm("resnet34", "a2", "82d47d71", 24.48),
    _timm("resnet34", "a3", "a20cabb6", 27.00),
    _timm("resnet50", "a1", "14fe96d1", 19.618),
    _timm("resnet50", "a2", "a2746f79", 20.172),
    _timm("resnet50", "a3", "59cae1ef", 21.948),
    _timm("resnet101", "a1", "cdcb52a9", 18.51),
    _timm("resnet101", "a2", "6edb36c7", 18.66),
    _timm("resnet101", "a3", "1db14157", 20.16),
    _timm("resnet152", "a1", "2eee8a7a", 18.00),
    _timm("resnet152", "a2", "b4c6978f", 18.24),
    _timm("resnet152", "a3", "134d4688", 19.45),
    _keras("resnet50", "2cb95161c43110f7111970584f804107", 25.072, 7.94),
    _keras("resnet101", "f1aeb4b969a6efcfb50fad2f0c20cfc5", 23.58, 7.214),
    _keras("resnet152", "100835be76be38e30d865e96f2aaae62", 23.396, 6.882),
    _akamaster("resnet20", "12fca82f", 8.27),
    _akamaster("resnet32", "d509ac18", 7.37),
    _akamaster("resnet44", "014dd654", 6.90),
    _akamaster("resnet56", "4bfd9763", 6.61),
    _akamaster("resnet110", "1d1ed7c2", 6.32),
    _akamaster("resnet1202", "f3b1deed", 6.18),
)


def find(network: str, weights: str) -> Published:
    """The published file of a network: `weights` names a publisher, or one of its files ("timm/a2_in1k").

    The network is called as its publisher or as we call it ("resnet50_v1_5").  Refuses with what there is.
    """
    plain = network.removesuffix("_v1_5")
    for known in PUBLISHED:
        if known.network == plain and weights in (known.weights, known.family):
            return known
    there = [known.weights for known in PUBLISHED if known.network == plain]
    if not there:
        names = ", ".join(dict.fromkeys(known.network for known in PUBLISHED))
        raise BadWeights(f"no published weights of {network!r} are known; there are some of: {names}")
    raise BadWeights(f"no weights {weights!r} of {network} are known; there are: {', '.join(there)}")


def by_hash(hashes: Mapping[str, str]) -> Published | None:
    """The published file whose hash is among these, by algorithm; None if none is."""
    for known in PUBLISHED:
        if hashes.get(known.algorithm, "").startswith(known.hashes):
            return known
    return None


def claim(known: Published) -> dict[str, Any]:
    """What a published file says of itself, as plain JSON values for a card's history."""
    return {
        "network": known.network,
        "weights": known.weights,
        "url": known.url,
        "top1_error": known.top1,
        "top5_error": known.top5,
        "said_by": known.source,
    }
