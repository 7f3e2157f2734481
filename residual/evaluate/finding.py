"""What images say about one setting of somebody's weights, and how sure that is."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["sound", "faulty", "cannot tell"]

SURE = 2.5  # standard deviations over images that make a verdict


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the images say about one setting.

    margin: by how much the found value is better than the claimed one or, where that stands, than its nearest rival;
        in standard deviations over images.
    needed: about how many images would tell, where these cannot.
    """

    setting: str
    claimed: str
    found: str
    verdict: Verdict
    margin: float
    because: str
    needed: int | None = None
