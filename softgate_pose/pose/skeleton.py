"""Skeletons: which keypoints a pose has, how they are joined, and which mirror which.

Keypoint names are shared between skeletons ("left_wrist" is "left_wrist" everywhere); that is how
annotations and pretrained heads move from one skeleton to another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["COCO", "LIMBS", "LSP", "MPII", "SKELETONS", "Skeleton", "get_skeleton"]


@dataclass(frozen=True)
class Skeleton:
    """The keypoints of one kind of pose.

    Attributes:
        name: Short name, such as ``"mpii"``.
        keypoints: One unique name per keypoint, in channel order.
        edges: Pairs of keypoint names that a drawing joins.

    Raises:
        TypeError: If the keypoints are not strings in a tuple or list, or an edge is not a pair.
        ValueError: If there is no keypoint, a name comes twice, or an edge names an unknown keypoint.
    """

    name: str
    keypoints: tuple[str, ...]
    edges: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.keypoints, str) or not all(isinstance(name, str) for name in self.keypoints):
            raise TypeError(f"Skeleton {self.name!r} needs a list of keypoint names, got {self.keypoints!r}.")
        object.__setattr__(self, "keypoints", tuple(self.keypoints))
        object.__setattr__(self, "edges", tuple(tuple(edge) for edge in self.edges))
        for edge in self.edges:
            if len(edge) != 2:
                raise TypeError(f"An edge of skeleton {self.name!r} must join two keypoints, got {edge!r}.")
        if not self.keypoints:
            raise ValueError(f"Skeleton {self.name!r} has no keypoints; it needs at least one.")
        seen: set[str] = set()
        for keypoint in self.keypoints:
            if keypoint in seen:
                raise ValueError(f"Skeleton {self.name!r} names {keypoint!r} twice; names must be unique.")
            seen.add(keypoint)
        for edge in self.edges:
            for keypoint in edge:
                if keypoint not in seen:
                    raise ValueError(
                        f"Skeleton {self.name!r} has an edge to {keypoint!r}, which is not one of its "
                        f"keypoints: {', '.join(self.keypoints)}."
                    )

    def __len__(self) -> int:
        return len(self.keypoints)

    @property
    def mirror(self) -> tuple[int, ...]:
        """For each keypoint, the index of its mirror image: left_x and right_x swap, others stay."""
        index = {keypoint: i for i, keypoint in enumerate(self.keypoints)}
        return tuple(index.get(_other_side(keypoint), i) for i, keypoint in enumerate(self.keypoints))

    @property
    def unpaired(self) -> tuple[str, ...]:
        """Keypoints whose name speaks of a side, and which yet are their own mirror image: ``wing_left``."""
        return tuple(
            name
            for name, i, j in zip(self.keypoints, range(len(self)), self.mirror, strict=True)
            if i == j and (_names_a_side(name) or _swap_letter(name) in set(self.keypoints) - {name})
        )

    @property
    def edge_indices(self) -> tuple[tuple[int, int], ...]:
        """The edges as pairs of keypoint indices."""
        index = {keypoint: i for i, keypoint in enumerate(self.keypoints)}
        return tuple((index[a], index[b]) for a, b in self.edges)

    def indices(self, keypoints: Sequence[str]) -> list[int]:
        """The indices of those named keypoints that this skeleton has, in the order asked for."""
        index = {keypoint: i for i, keypoint in enumerate(self.keypoints)}
        return [index[keypoint] for keypoint in keypoints if keypoint in index]

    @property
    def is_named(self) -> bool:
        """Whether the names mean something; those of ``unnamed`` do not."""
        return self.keypoints != Skeleton.unnamed(len(self)).keypoints

    @classmethod
    def unnamed(cls, num_keypoints: int) -> Skeleton:
        """A skeleton of which nothing is known but its size: ``keypoint_0``, ``keypoint_1``, ...

        Raises:
            ValueError: If ``num_keypoints`` is not a whole number of at least 1.
        """
        if isinstance(num_keypoints, bool) or not isinstance(num_keypoints, int) or num_keypoints < 1:
            raise ValueError(f"num_keypoints must be a whole number of at least 1, got {num_keypoints!r}.")
        return cls(f"keypoints{num_keypoints}", tuple(f"keypoint_{i}" for i in range(num_keypoints)))


def _names_a_side(keypoint: str) -> bool:
    words = re.split(r"[^a-zA-Z]+|(?<=[a-z])(?=[A-Z])", keypoint)
    return any(word.lower() in ("left", "right") for word in words)


_SIDE_LETTER = re.compile(r"(?<![a-zA-Z])[lLrR](?![a-z])|(?<=[a-z])[LR](?![a-zA-Z])")
"""A letter that stands for a side, as in ``l_wing``, ``wing.R`` and ``LWing``."""


def _swap_letter(keypoint: str) -> str:
    return _SIDE_LETTER.sub(lambda letter: letter[0].translate(str.maketrans("lrLR", "rlRL")), keypoint)


def _other_side(keypoint: str) -> str:
    if keypoint.startswith("left_"):
        return "right_" + keypoint.removeprefix("left_")
    if keypoint.startswith("right_"):
        return "left_" + keypoint.removeprefix("right_")
    return keypoint


LIMBS = tuple(
    f"{side}_{joint}" for joint in ("ankle", "knee", "hip", "wrist", "elbow", "shoulder") for side in ("right", "left")
)
"""The twelve limb joints, which every full-body skeleton here has."""

_LEGS_AND_ARMS = (
    ("right_ankle", "right_knee"),
    ("right_knee", "right_hip"),
    ("left_ankle", "left_knee"),
    ("left_knee", "left_hip"),
    ("right_wrist", "right_elbow"),
    ("right_elbow", "right_shoulder"),
    ("left_wrist", "left_elbow"),
    ("left_elbow", "left_shoulder"),
)

MPII = Skeleton(
    "mpii",
    (
        "right_ankle",
        "right_knee",
        "right_hip",
        "left_hip",
        "left_knee",
        "left_ankle",
        "pelvis",
        "thorax",
        "neck",
        "head_top",
        "right_wrist",
        "right_elbow",
        "right_shoulder",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
    ),
    (
        *_LEGS_AND_ARMS,
        ("right_hip", "pelvis"),
        ("left_hip", "pelvis"),
        ("pelvis", "thorax"),
        ("right_shoulder", "thorax"),
        ("left_shoulder", "thorax"),
        ("thorax", "neck"),
        ("neck", "head_top"),
    ),
)
"""MPII Human Pose, 16 keypoints. MPII's "upper neck" is called ``neck``, as LSP's is."""

LSP = Skeleton(
    "lsp",
    (
        "right_ankle",
        "right_knee",
        "right_hip",
        "left_hip",
        "left_knee",
        "left_ankle",
        "right_wrist",
        "right_elbow",
        "right_shoulder",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
        "neck",
        "head_top",
    ),
    (
        *_LEGS_AND_ARMS,
        ("right_hip", "left_hip"),
        ("right_hip", "right_shoulder"),
        ("left_hip", "left_shoulder"),
        ("right_shoulder", "neck"),
        ("left_shoulder", "neck"),
        ("neck", "head_top"),
    ),
)
"""Leeds Sports Pose and its extended set, 14 keypoints."""

COCO = Skeleton(
    "coco",
    (
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
    (
        *_LEGS_AND_ARMS,
        ("left_hip", "right_hip"),
        ("left_shoulder", "right_shoulder"),
        ("left_shoulder", "left_hip"),
        ("right_shoulder", "right_hip"),
        ("nose", "left_eye"),
        ("nose", "right_eye"),
        ("left_eye", "left_ear"),
        ("right_eye", "right_ear"),
    ),
)
"""COCO keypoints, 17."""

SKELETONS = {skeleton.name: skeleton for skeleton in (MPII, LSP, COCO)}


def get_skeleton(skeleton: str | Skeleton | Sequence[str]) -> Skeleton:
    """A skeleton from its name, from a list of keypoint names, or from itself.

    Raises:
        TypeError: If it is none of the three.
        ValueError: If the name is not one of the built-in skeletons.
    """
    if isinstance(skeleton, Skeleton):
        return skeleton
    if not isinstance(skeleton, (str, Sequence)):
        raise TypeError(f"A skeleton is a name, a list of keypoint names or a Skeleton, got {skeleton!r}.")
    if not isinstance(skeleton, str):
        return Skeleton("custom", tuple(skeleton))
    if skeleton not in SKELETONS:
        raise ValueError(
            f"Unknown skeleton {skeleton!r}; known are {', '.join(SKELETONS)}. "
            "For another, pass a Skeleton or a list of keypoint names."
        )
    return SKELETONS[skeleton]
