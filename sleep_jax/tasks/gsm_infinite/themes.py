"""The words: three themes of our own, each with places, items, and places and items of filler.

Names are ASCII, without digits, full stops, commas, and without the words `in`, `per`, `and`, so
that a statement can be read in one way only.
"""

import dataclasses
import functools
import itertools


@dataclasses.dataclass(frozen=True)
class Theme:
    """One world of places that have items, each item with a number of its own.

    A problem's own names come first, those of filler after them, so that one index serves both.

    Attributes:
        total: noun for the items of a place, e.g. "boats".
        per_item: noun for the average per item, e.g. "sailors".
        product: noun for all of those in a place, e.g. "sailors on all boats".
        own_places, own_items: names in the problem proper.
        filler_places, filler_items: names in statements that cannot matter.
    """

    total: str
    per_item: str
    product: str
    own_places: tuple[str, ...]
    own_items: tuple[str, ...]
    filler_places: tuple[str, ...]
    filler_items: tuple[str, ...]

    @functools.cached_property
    def places(self) -> tuple[str, ...]:
        return self.own_places + self.filler_places

    @functools.cached_property
    def items(self) -> tuple[str, ...]:
        return self.own_items + self.filler_items


def _pairs(first: str, second: str) -> tuple[str, ...]:
    """Every word of `first` followed by every word of `second`."""
    return tuple(f"{a} {b}" for a, b in itertools.product(first.split(), second.split()))


_HARBOURS = Theme(
    total="boats",
    per_item="sailors",
    product="sailors on all boats",
    own_places=(
        "Port Ansel",
        "Heron Landing",
        "Old Quay of Tarn",
        "Saltmarsh Harbour",
        "Winter Cove",
        "Lantern Bay",
        "Pebble Wharf",
        "Gannet Point",
        "Long Pier of Odda",
        "Fisher Row",
    ),
    own_items=(
        "fishing trawler",
        "coastal ferry",
        "mail steamer",
        "river barge",
        "harbour tug",
        "racing yacht",
        "pilot cutter",
        "coal lighter",
        "survey vessel",
        "lifeboat cruiser",
    ),
    filler_places=_pairs("Crab Coral Storm Amber", "Island Reef Lagoon Sound"),
    filler_items=_pairs(
        "painted leaking narrow borrowed wooden rusty silent double",
        "canoe raft dinghy kayak gondola schooner punt catamaran",
    ),
)

_ORCHARDS = Theme(
    total="trees",
    per_item="baskets",
    product="baskets from all trees",
    own_places=(
        "Miller Valley",
        "Upper Brook Farm",
        "Stone Gate Orchard",
        "Hazel Slope",
        "Quiet Meadow",
        "Bishop Garden",
        "North Terrace",
        "Lower Mill Estate",
        "Sheep Hollow",
        "Abbey Grounds",
    ),
    own_items=(
        "grafted plum tree",
        "early apple tree",
        "yellow pear tree",
        "sour cherry tree",
        "black mulberry tree",
        "dwarf quince tree",
        "late apricot tree",
        "wild medlar tree",
        "sweet chestnut tree",
        "common walnut tree",
    ),
    filler_places=_pairs("Copper Silver Clay Chalk", "Ridge Canyon Plateau Basin"),
    filler_items=_pairs(
        "ancient crooked hollow twisted mossy slender spotted stunted",
        "oak birch maple cedar willow larch poplar alder",
    ),
)

_LIBRARIES = Theme(
    total="books",
    per_item="drawings",
    product="drawings from all books",
    own_places=(
        "Castle Street Library",
        "Guild Archive",
        "Reading Room of Vell",
        "Town Hall Annex",
        "Cloister Library",
        "Merchant House",
        "Station Book Room",
        "South Gate Library",
        "Museum Depot",
        "College Tower",
    ),
    own_items=(
        "leather atlas",
        "cooking manual",
        "illustrated bestiary",
        "travel journal",
        "song collection",
        "chess handbook",
        "botany folio",
        "school grammar",
        "ship register",
        "puppet play",
    ),
    filler_places=_pairs("Lunar Desert Polar Cloud", "Station Outpost Bunker Camp"),
    filler_items=_pairs(
        "torn gilded pocket forged anonymous damp annotated oversized",
        "almanac diary psalter ledger novel pamphlet dictionary scrapbook",
    ),
)

THEMES = (_HARBOURS, _ORCHARDS, _LIBRARIES)
