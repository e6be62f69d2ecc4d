"""Opening images on the explorer's page, pointing at patches, and reading what is painted."""

import numpy as np


def show(page, image):
    """Open an image, and wait until both panels have the patches of it and its neighbours."""
    page.evaluate("(image) => Explorer.open(image)", image)
    page.wait_for_function(
        "(image) => Explorer.panels.every(({ painting: p }) => p.image === image && p.overlays.length === 9)", arg=image
    )


def hover(page, slot, row, column):
    """Move the pointer to a patch of an open image."""
    big = page.locator(".picture.big").nth(slot)
    big.scroll_into_view_if_needed()
    height, width, _ = page.evaluate(f"Explorer.panels[{slot}].painting.main.features.shape")
    box = big.bounding_box()
    page.mouse.move(box["x"] + (column + 0.5) * box["width"] / width, box["y"] + (row + 0.5) * box["height"] / height)


def likeness(page, slot):
    """The similarities that are painted over the image and its neighbours, and the neighbours' numbers."""
    maps, numbers = page.evaluate(f"""(() => {{ const {{ overlays }} = Explorer.panels[{slot}].painting;
      return [overlays.map((one) => [...one.likeness]), overlays.map((one) => one.number)]; }})()""")
    return [np.array(one) for one in maps], numbers
