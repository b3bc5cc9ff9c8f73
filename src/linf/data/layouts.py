"""Data box of the figure: which images of a dataset are HR and which are given LR, and how they pair."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from linf.coordinates import Scale
from linf.data.marks import Member
from linf.errors import UsageError, shorten
from linf.images.read import header_size

UNLIKE_BICUBIC = {"unknown", "mild", "difficult", "wild", "real", "blur", "bd", "dn", "noise"}
"""Degradations of given LR that are used only where they are asked for."""


@dataclass(frozen=True)
class ImageSet:
    """A dataset's files, not yet read.

    Attributes:
        name: the dataset's name in tables.
        hr: the HR images.
        lr: the given LR images by scale, in the order of the HR images; under None those whose scale only sizes tell.
        hr_at: the HR images of the scales that have HR images of their own.
        faults: why the given LR images of a scale cannot be used, as an error to raise where that scale is wanted.
        skips: whether unreadable images are left out of a validation with a warning each, where they would be an error.
    """

    name: str
    hr: tuple[Path, ...]
    lr: Mapping[Scale | None, tuple[Path, ...]] = field(default_factory=dict)
    hr_at: Mapping[Scale | None, tuple[Path, ...]] = field(default_factory=dict)
    faults: Mapping[Scale | None, str] = field(default_factory=dict)
    skips: bool = False

    def __len__(self) -> int:
        return len(self.hr)


def arrange(
    name: str, members: Sequence[Member], degradation: str = "bicubic", named: bool = False
) -> tuple[ImageSet, list[str]]:
    """Tell HR images from given LR images, and pair them.

    Args:
        name: the dataset's name in tables.
        members: all its images, sorted.
        degradation: of the given LR images to use; ``bicubic`` includes those that do not say.
        named: whether the dataset is one with a layout, of which other images are no part.

    Returns:
        The dataset, and what was passed over, a message each.

    Raises:
        UsageError: there are no given LR images of a degradation that was asked for.
    """
    position = {member.path: n for n, member in enumerate(members)}

    def in_order(of: Collection[Member]) -> list[Member]:
        return sorted(of, key=lambda member: position[member.path])

    members, notes = _settled(members), list[str]()
    if unclear := [member for member in members if _is_nan(member.scale)]:
        notes.append(f"{_places(unclear)}: passed over, for more than two scales are named")
        members = [member for member in members if not _is_nan(member.scale)]
    if not named:
        members, lone = _without_lone_lr(members)
        notes += [f"{_places(lone)}: counted as HR, for no image beside bears such names"] if lone else []
    hrs, lrs, plain = ([member for member in members if member.role == role] for role in ("HR", "LR", ""))
    if not lrs and not named:
        return ImageSet(name, tuple(member.path for member in in_order(hrs + plain))), notes
    unmarked = _unmarked_hr(plain, hrs, lrs, named)
    passed = in_order(set(plain).difference(unmarked))
    hrs, others = _one_group_each(hrs + unmarked, _hr_rank)
    passed += others
    ranks = {kind: _lr_rank(kind, degradation) for kind in {member.kind for member in lrs}}
    unlike = [member for member in lrs if ranks[member.kind] is None]
    usable, others = _one_group_each(
        [member for member in lrs if ranks[member.kind] is not None], lambda kind: ranks[kind] or 0
    )
    passed += others
    kinds = sorted({member.kind or "bicubic" for member in lrs})
    if degradation != "bicubic" and not usable:
        there = ", ".join(kinds) or "none"
        raise UsageError(f"{name} has no given LR of degradation {degradation!r}: there are {there}")
    if unlike:
        notes.append(
            f"{_places(unlike)}: not used, being no bicubic LR; data.test.degradation={unlike[0].kind} uses it"
            if degradation == "bicubic"
            else f"{_places(unlike)}: not used, being of another degradation than {degradation}"
        )
    if passed:
        notes.append(f"{_places(passed)}: passed over, as neither HR nor given LR of {name} by their names")
    return _paired_set(name, in_order(hrs), usable), notes


def _settled(members: Sequence[Member]) -> list[Member]:
    """Settle the roles that need a partner: those of a scale alone, and those of a file's name."""
    hrs = {key: m for m in reversed(members) if m.role in ("HR", "") for key in m.keys}
    lrs = {(*key, m.scale) for m in members if m.role == "LR" for key in m.keys}
    lr_keys = {key[:2] for key in lrs}
    settled = []
    for member in members:
        partner = next((hrs[key] for key in member.keys if key in hrs and hrs[key] is not member), None)
        if member.role == "?":
            if partner is not None and _area(member.path) < _area(partner.path):
                member = replace(member, role="LR", by_file=member.base is None)
            elif any((*key, member.scale) in lrs for key in member.keys):
                member = replace(member, role="HR")
            else:
                member = _without_role(member)
        elif member.by_file:
            paired = partner is not None if member.role == "LR" else not lr_keys.isdisjoint(member.keys)
            member = member if paired else _without_role(member)
        settled.append(member)
    return settled


def _without_lone_lr(members: Sequence[Member]) -> tuple[list[Member], list[Member]]:
    """Take the role from folders called LR that have nothing to do with HR, and return which images are in them."""
    known = {key for member in members if member.role != "LR" for key in member.keys}
    bases = {member.base for member in members if member.role == "HR"}
    bases |= {member.base for member in members if member.role == "LR" and not known.isdisjoint(member.keys)}
    lone = {member for member in members if member.role == "LR" and member.base not in bases}
    return [_without_role(m) if m in lone else m for m in members], [m for m in members if m in lone]


def _area(path: Path) -> int:
    size = header_size(path)
    return size[0] * size[1] if size else 0


def _without_role(member: Member) -> Member:
    home = member.path.parent.parts if member.base is not None else member.home
    return replace(
        member, role="", scale=None, kind="", home=home, stems=member.stems[:1], group=member.path.parent
    )


def _unmarked_hr(plain: list[Member], hrs: list[Member], lrs: list[Member], named: bool) -> list[Member]:
    """The images without marks that are HR images all the same."""
    lr_keys = {key for member in lrs for key in member.keys}
    homes = {member.home for member in plain if lr_keys & set(member.keys)} - {m.home for m in hrs}
    if named and not hrs and not homes:
        homes = {min((member.home for member in plain), key=len, default=())}
    bases = {member.base for member in lrs if member.base is not None}
    paired = {(member.path.parent, member.stems[-1]) for member in lrs if member.by_file}

    def related(member: Member) -> bool:
        stem = member.path.stem
        starts = (stem[: found.start()] for found in re.finditer(r"[\s_.-]", stem))
        return any(folder in bases for folder in member.path.parents) or any(
            (member.path.parent, start) in paired for start in starts
        )

    return [member for member in plain if member.home in homes or not (named or related(member))]


def _is_nan(scale: Scale | None) -> bool:
    return isinstance(scale, float) and math.isnan(scale)


def _hr_rank(kind: str) -> int:
    order = ("hr", "gt", "gt_mod12", "original")
    return order.index(kind) if kind in order else len(order) + ("_" in kind and "mod" not in kind)


def _lr_rank(kind: str, degradation: str) -> int | None:
    """How near a kind of LR is to the degradation wanted; None where it is another one."""
    words = set(kind.split("_"))
    if degradation != "bicubic":
        return 0 if degradation == kind or degradation in words else None
    if words & UNLIKE_BICUBIC:
        return None
    return 0 if kind == "bicubic" else 1 if not kind else 2


def _one_group_each(
    members: Sequence[Member], rank: Callable[[str], int]
) -> tuple[list[Member], list[Member]]:
    """Of each home and scale the images of the best group, and the others."""
    groups: dict[tuple[tuple[str, ...], Scale | None], dict[Path, int]] = defaultdict(dict)
    for member in members:
        groups[member.home, member.scale].setdefault(member.group, rank(member.kind))
    best = {key: min(of, key=lambda group: (of[group], group.as_posix())) for key, of in groups.items()}
    chosen = [member for member in members if best[member.home, member.scale] == member.group]
    return chosen, [member for member in members if best[member.home, member.scale] != member.group]


def _hr_at(scale: Scale | None, hrs: Sequence[Member]) -> list[Member]:
    """The HR images of a scale: in each home those of that scale, or else those of all scales, or of the lowest."""
    there: dict[tuple[str, ...], set[Scale | None]] = defaultdict(set)
    for member in hrs:
        there[member.home].add(member.scale)
    chosen = {
        home: next(s for s in (scale, None, min((s for s in of if s is not None), default=None)) if s in of)
        for home, of in there.items()
    }
    return [member for member in hrs if member.scale == chosen[member.home]]


def _paired_set(name: str, hrs: Sequence[Member], lrs: Sequence[Member]) -> ImageSet:
    """The dataset of some HR and given LR images, paired at every scale of LR, in the order of the HR images."""
    hr = _hr_at(None, hrs)
    lr, hr_at = dict[Scale | None, tuple[Path, ...]](), dict[Scale | None, tuple[Path, ...]]()
    faults = dict[Scale | None, str]()
    for scale in dict.fromkeys(member.scale for member in lrs):
        own = _hr_at(scale, hrs)
        paired = _pair(own, [member for member in lrs if member.scale == scale])
        if isinstance(paired, str):
            faults[scale] = paired
        else:
            lr[scale] = paired
            if own != hr:
                hr_at[scale] = tuple(member.path for member in own)
    return ImageSet(name, tuple(member.path for member in hr), lr, hr_at, faults)


def _pair(hrs: Sequence[Member], lrs: Sequence[Member]) -> tuple[Path, ...] | str:
    """The LR image of each HR image, or why they do not pair one to one."""
    by_key: dict[tuple[tuple[str, ...], str], list[Member]] = defaultdict(list)
    for n in range(2):  # Whole names come first.
        for member in lrs:
            for key in member.keys[n : n + 1]:
                by_key[key].append(member)
    found = [next((by_key[key][0] for key in hr.keys if key in by_key), None) for hr in hrs]
    lone_hr = [hr.path.name for hr, lr in zip(hrs, found, strict=True) if lr is None]
    used = Counter(lr.path for lr in found if lr is not None)
    lone_lr = [lr.path.name for lr in lrs if lr.path not in used]
    shared = [path.name for path, n in used.items() if n > 1]
    if lone_hr or lone_lr or shared:
        several = f", several HR for {shorten(shared)}" if shared else ""
        return (
            f"LR images in {_places(lrs)} do not match the HR images in {_places(hrs)} one to one: LR missing for "
            f"{shorten(lone_hr)}, no HR for {shorten(lone_lr)}{several}; complete or remove that folder"
        )
    return tuple(lr.path for lr in found if lr is not None)


def _places(members: Sequence[Member]) -> str:
    return shorten([str(group) for group in dict.fromkeys(member.group for member in members)], 3)
