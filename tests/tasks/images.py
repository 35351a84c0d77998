"""Pictures for tests of image tasks: each class a colour, with noise."""

import numpy as np
from PIL import Image

COLOURS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (210, 40, 30)}


def picture(colour, seed, size=(20, 24)):
    noise = np.random.default_rng(seed).integers(-25, 26, (*size, 3))
    pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def write(path, colour, seed, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(colour, seed).save(path, **options)
    return path


def folder(root, each=6, colours=("blue", "green", "red"), first=0):
    """Write ``each`` pictures of every class below a folder; return the folder."""
    for number, colour in enumerate(colours):
        for index in range(each):
            write(root / colour / f"{index:02d}.png", colour, first + 100 * number + index)
    return root
