"""What a backbone offers and a task needs: kinds of features, known before weights are read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from ftbench.errors import SpecError

Kind = Literal["pooled", "tokens", "maps", "language-model"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Offer:
    """Features that a backbone can give a head.

    =================  ==========================================================
    ``pooled``         one vector a row, (N, F)
    ``tokens``         one vector a token, (N, T, F)
    ``maps``           feature maps, (N, C, H, W) each
    ``language-model`` (N, T, F), and the source head that predicts tokens is kept
    =================  ==========================================================

    ``widths`` holds F, or the channels C of each level of maps; ``strides`` by how much each level
    is smaller than the image. ``inputs`` says what the backbone reads: ``image``, ``text`` or
    ``image+text``.
    """

    kind: Kind
    widths: tuple[int, ...]
    strides: tuple[int, ...] = ()
    inputs: str = "image"

    @property
    def width(self) -> int:
        """The width that a head takes: the last of ``widths``."""
        return self.widths[-1]

    def __str__(self) -> str:
        """Return the offer as messages spell it: ``pooled features of width 128 from image``."""
        return (
            f"{self.kind} features of width {', '.join(map(str, self.widths))} from {self.inputs}"
        )


def choose_offer(needs: Iterable[Kind], inputs: str, offers: Iterable[Offer]) -> Offer | None:
    """Return the offer for the first of ``needs`` that there is one for, None where there is none.

    What reads other ``inputs`` does not count.
    """
    fitting = [offer for offer in offers if offer.inputs == inputs]
    for kind in needs:
        for offer in fitting:
            if offer.kind == kind:
                return offer
    return None


def offers_problem(offers: object) -> str:
    """Return what is wrong with what offers() returned, ``""`` where nothing is."""
    if not isinstance(offers, tuple | list) or not offers:
        return f"returned {offers!r:.80}; expected a tuple of ftbench.Offer, one at least"
    for offer in offers:
        problem = _problem(offer)
        if problem:
            return problem
    kinds = [offer.kind for offer in offers]
    twice = [kind for kind in KINDS if kinds.count(kind) > 1]
    return f"offers {twice[0]} twice" if twice else ""


def _problem(offer: object) -> str:
    if not isinstance(offer, Offer):
        return f"returned {offer!r:.80} among its offers; expected an ftbench.Offer"
    if offer.kind not in KINDS:
        return f"offers the kind {offer.kind!r}; there are {', '.join(KINDS)}"
    for name, values in (("widths", offer.widths), ("strides", offer.strides)):
        numbers = isinstance(values, tuple | list) and all(
            isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in values
        )
        if not numbers or (name == "widths" and not values):
            return f"offers {offer.kind} with {name}={values!r}; expected whole numbers above 0"
    if offer.kind != "maps" and len(offer.widths) > 1:
        return f"offers {offer.kind} with widths={offer.widths!r}; only maps have several levels"
    if offer.strides and len(offer.strides) != len(offer.widths):
        return (
            f"offers {offer.kind} with {len(offer.strides)} strides for {len(offer.widths)} widths"
        )
    if not isinstance(offer.inputs, str) or not offer.inputs:
        return f"offers {offer.kind} from inputs={offer.inputs!r}; expected 'image', 'text' or such"
    return ""


def checked_offers(name: str, offers: object) -> tuple[Offer, ...]:
    """Return what offers() of the backbone ``name`` returned; SpecError where it is unusable."""
    problem = offers_problem(offers)
    if problem:
        raise SpecError(f"backbone '{name}': offers() {problem}")
    assert isinstance(offers, tuple | list)
    return tuple(offers)
