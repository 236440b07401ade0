"""Claims that papers make about their systems, and whether the runs support them.

A claim is a difference in accuracy, in points, that is above 0 if the claim is true.
Each seed gives one difference: both sides have seen the same images in the same order.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from scipy import stats

RULE = (
    "The difference is taken within each seed, and a 95 % interval is computed for "
    "the mean over the seeds (Student's t). If it lies above 0, the claim is "
    "**confirmed** at this budget; if it lies below 0, it is **contradicted**; if it "
    "contains 0, or there are fewer than three seeds, the claim is **undecided**. "
    "Accuracies are those on `test[5000:]`. The interval covers only what differs "
    "between seeds (order of images, augmentation, random parts of a method). It does "
    "not say that another network, data set or budget would give the same result."
)
FEWEST = 3
CONFIRMED = "confirmed"
REFUTED = "contradicted"
UNDECIDED = "undecided"
SLICE = "test[5000:]"

Runs = Mapping[tuple[str, float, int], Mapping[str, Any]]
"""Results by arm, target and seed."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """The claim that `arm` ends with a higher accuracy than `versus`.

    Args:
        text: The claim in words.
        source: Paper that makes the claim.
        arm: Name of the arm.
        versus: Name of the arm that it is compared with; `None` for the pretrained
            network.
        allowance: Points of accuracy that `arm` may lose.
        window: Name of a cost, and the smallest and largest share of it that must
            have been removed for the claim to apply; `None` for any.
        grows: Whether the claim is instead that the difference is larger at the
            largest target than at the smallest.
    """

    text: str
    source: str
    arm: str
    versus: str | None = None
    allowance: float = 0.0
    window: tuple[str, float, float] | None = None
    grows: bool = False


ADJUSTMENT = "Chen et al., CVPR 2020"
ASCP = "Niu et al., 2022"
BN = "Oh et al., WACV 2022"
CROSS_FILTER = "Lyu et al., 2020"
ORTHOREG = "Lubana et al., 2020"
SKETCH = "Lin et al., 2020"
ATTENUATION = "Mousa-Pasandi et al., ICIP 2020"
DUPLICATION = "Ikuta et al., IWAIT 2024"
HGS = "Mitsuno and Kurita, 2020"
KDFS = "Lin et al., 2023"
OURS = "kprune"
MSVFP = "Ghimire and Kim, 2023"
SCOP = "Tang et al., NeurIPS 2020"
SFP = "He et al., IJCAI 2018"
SIMILARITY = "Wu et al., 2023"
SNPFI = "Tang et al., 2023"
A, B = "hard-uniform-l1", "duplication-b"

CLAIMS = (
    Claim(
        "The same filters removed after a third of the training: better if the "
        "layers are repaired",
        OURS,
        "later-global-l1-repaired",
        "later-global-l1",
    ),
    Claim(
        "The default with data: better than removing filters by L1 norm at the same "
        "time, before training",
        OURS,
        "best",
        "hard-global-l1",
    ),
    Claim(
        "The default with data: better than removing filters by L1 norm at the same "
        "time, after a third",
        OURS,
        "later-best",
        "later-global-l1",
    ),
    Claim(
        "Attenuating weak filters repeatedly: better than removing them at once by "
        "the same criterion",
        ATTENUATION,
        "attenuation",
        "later-global-folded-l1",
    ),
    Claim(
        "Setting filters to 0 and letting them return: better than removing them at "
        "once by the same criterion and rates",
        SFP,
        "soft",
        "later-uniform-folded-l1",
    ),
    Claim(
        "Removing similar filters: better than by L1 norm at the same times",
        SIMILARITY,
        "similarity",
        "iterative-global-l1",
    ),
    Claim(
        "No loss of accuracy with 61.1 % fewer MACs, hard (paper: ResNet-56)",
        SIMILARITY,
        "similarity",
        window=("macs", 0.6, 0.64),
    ),
    Claim(
        "No loss of accuracy with 61.1 % fewer MACs, soft (paper: ResNet-56)",
        SIMILARITY,
        "similarity-soft",
        window=("macs", 0.6, 0.64),
    ),
    Claim(
        "Rates by measured loss, with filters removed by norm first and then by "
        "similarity: better than one threshold on norms",
        MSVFP,
        "msvfp",
        "iterative-global-l1",
    ),
    Claim(
        "Better than the unpruned network with half the MACs (paper: ResNet-56 and "
        "-110)",
        MSVFP,
        "msvfp",
        window=("macs", 0.49, 0.6),
    ),
    Claim(
        "Choosing filters by the loss without them, after a penalty: better than by "
        "L1 norm at the same time",
        HGS,
        "hgs",
        "later-global-l1",
    ),
    Claim(
        "At most 0.3 points lost with half the parameters",
        HGS,
        "hgs",
        allowance=0.3,
        window=("params", 0.49, 0.6),
    ),
    Claim(
        "Choosing filters by scale and offset of the batch normalisation: better "
        "than by L1 norm at the same time",
        BN,
        "bn-importance",
        "hard-global-l1",
    ),
    Claim(
        "Orthonormal filters, ranked by gradients: better than removing by L1 norm "
        "at the same time",
        ORTHOREG,
        "orthoreg",
        "later-global-l1",
    ),
    Claim(
        "Pulling filters together and merging them: better than setting filters to 0 "
        "repeatedly",
        ASCP,
        "ascp",
        "soft",
    ),
    Claim(
        "Other widths at the same MACs: better than the same training at the "
        "original widths",
        ADJUSTMENT,
        "network-adjustment-same",
        "unpruned",
    ),
    Claim(
        "Widths by utilisation of MACs: better than the same share in all layers",
        ADJUSTMENT,
        "network-adjustment",
        "hard-uniform-l1",
    ),
    Claim(
        "Binary filters with one scale for each 4: at most 0.3 points behind one "
        "scale for each",
        CROSS_FILTER,
        "cross-filter",
        "cross-filter-each",
        allowance=0.3,
    ),
    *(
        Claim(f"{title}: better than random filters", source, arm, versus)
        for title, source, arm, versus in (
            ("Attenuation", ATTENUATION, "attenuation", "later-random"),
            ("Soft pruning", SFP, "soft", "later-random"),
            ("Similarity, hard", SIMILARITY, "similarity", "later-random"),
            ("Similarity, soft", SIMILARITY, "similarity-soft", "later-random"),
            ("MSVFP", MSVFP, "msvfp", "later-random"),
            ("HGS", HGS, "hgs", "later-random"),
            ("Batch normalisation alone", BN, "bn-importance", "random"),
            ("OrthoReg", ORTHOREG, "orthoreg", "later-random"),
            ("FilterSketch", SKETCH, "filtersketch", "random"),
            ("SNPFI", SNPFI, "snpfi", "random"),
            ("KDFS", KDFS, "kdfs", "later-random"),
            ("SCOP", SCOP, "scop", "random"),
            ("ASCP", ASCP, "ascp", "later-random"),
            ("Network Adjustment", ADJUSTMENT, "network-adjustment", "random"),
        )
    ),
    Claim(
        "Rates by how much replacement a layer tolerates: better than the same rate "
        "in all layers (B - A)",
        DUPLICATION,
        B,
        A,
    ),
    *(
        Claim(
            f"{how}: better than removing the same filters at once "
            f"({letter.upper()} - B)",
            DUPLICATION,
            f"duplication-{letter}",
            B,
        )
        for letter, how in (
            ("c", "Tied copies, trained, then merged"),
            (
                "d",
                "Copies that diverge in training, then removing similar filters",
            ),
            (
                "e",
                "Copies that are read like the filters they replaced, trained",
            ),
            ("f", "Copies whose donors absorb what they replace"),
        )
    ),
    *(
        Claim(
            f"The gain of {letter.upper()} over B grows with the share removed",
            DUPLICATION,
            f"duplication-{letter}",
            B,
            grows=True,
        )
        for letter in "cdef"
    ),
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result for a claim at a target.

    Args:
        claim: The claim.
        target: Share of the MACs to remove; if the claim `grows`, the smallest and
            the largest.
        mean: Mean difference, in points.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        seeds: Number of differences.
    """

    claim: Claim
    target: tuple[float, ...]
    mean: float
    low: float
    high: float
    seeds: int

    @property
    def verdict(self) -> str:
        if self.seeds < FEWEST:
            return UNDECIDED
        if self.low > 0:
            return CONFIRMED
        return REFUTED if self.high < 0 else UNDECIDED


def interval(values: list[float]) -> tuple[float, float, float]:
    """Return the mean and the ends of its 95 % interval."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, -math.inf, math.inf
    variance = math.fsum((v - mean) ** 2 for v in values) / (count - 1)
    half = float(stats.t.ppf(0.975, count - 1)) * math.sqrt(variance / count)
    return mean, mean - half, mean + half


def judge(claim: Claim, runs: Runs) -> list[Finding]:
    """Return a finding for each target at which the runs test a claim."""
    targets = sorted({target for arm, target, _ in runs if arm == claim.arm})
    found = {
        target: differences
        for target in targets
        if (differences := _differences(claim, runs, target))
    }
    if claim.grows:
        return _growth(claim, found)
    return [
        Finding(claim, (target,), *interval([*d.values()]), len(d))
        for target, d in found.items()
    ]


def _growth(
    claim: Claim, found: Mapping[float, Mapping[int, float]]
) -> list[Finding]:
    if len(found) < 2:
        return []
    least, most = min(found), max(found)
    both = found[least].keys() & found[most].keys()
    grown = [found[most][seed] - found[least][seed] for seed in sorted(both)]
    if not grown:
        return []
    return [Finding(claim, (least, most), *interval(grown), len(grown))]


def _differences(claim: Claim, runs: Runs, target: float) -> dict[int, float]:
    """Return, by seed, the accuracy of the claim's arm minus that of the other side."""
    found = {}
    for (arm, share, seed), run in runs.items():
        if arm != claim.arm or share != target or not _applies(claim, run):
            continue
        if claim.versus is None:
            other = run["baseline"]
        elif (claim.versus, target, seed) in runs:
            other = runs[claim.versus, target, seed]["final"]
        else:
            continue
        found[seed] = run["final"][SLICE] - other[SLICE] + claim.allowance
    return found


def _applies(claim: Claim, run: Mapping[str, Any]) -> bool:
    if claim.window is None:
        return True
    cost, least, most = claim.window
    return bool(least <= run[cost]["removed"] <= most)


def summary(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """Return the findings by verdict."""
    by_verdict: dict[str, list[Finding]] = {
        CONFIRMED: [],
        REFUTED: [],
        UNDECIDED: [],
    }
    for finding in findings:
        by_verdict[finding.verdict].append(finding)
    return by_verdict
