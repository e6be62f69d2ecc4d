"""The explorer's page in a real browser, before a real server; skipped where there is no Chromium or no playwright."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from dinolab.data.sources import open_source
from dinolab.options import Columns
from dinolab.visuals.similarity import similarity_map
from tests.explore.conftest import NASTY, serving
from tests.explore.pointing import hover, likeness, show

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")


@pytest.fixture(scope="session")
def address(session):
    """Where the session is served, with the token."""
    with serving(session) as found:
        yield found


@pytest.fixture
def page(opened, address):
    return opened(address)


@pytest.mark.parametrize("canvas", ["webgl2", "2d"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_map_is_drawn_and_the_page_fits(opened, address, session, canvas, width, dark):
    page = opened(f"{address}&canvas={canvas}", width, dark)
    page.locator("#small").uncheck()
    pixels = cv2.imdecode(np.frombuffer(page.locator(".map").first.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    ground = pixels[20, -20]
    assert (ground.mean() < 100) == dark
    drawn = (np.abs(pixels.astype(int) - ground).max(-1) > 40).mean()
    assert 0.001 < drawn < 0.2  # some discs on an even ground
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#theme").select_option("light" if dark else "dark")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((a, b) => a + +b, 0)")
    assert (ground > 380) == dark


@pytest.mark.parametrize("slot", [0, 1])
def test_hover_compares_patches_as_python_does(page, session, slot):
    show(page, 5)
    hover(page, slot, 2, 1)
    maps, numbers = likeness(page, slot)
    looker = session.lookers[[session.first, session.second][slot]]
    query = torch.from_numpy(np.asarray(looker.patches(5))).float()[2, 1]
    for found, number in zip(maps, numbers, strict=True):
        expected = similarity_map(torch.from_numpy(np.asarray(looker.patches(number))), query)
        np.testing.assert_allclose(found, expected.flatten(), atol=1e-2)
    assert maps[0].argmax() == 2 * looker.patches(5).shape[1] + 1
    assert page.locator(".panel").nth(slot).locator("canvas.patches:visible").count() == 9


def test_two_encoders_have_their_own_neighbours_and_share_what_is_hovered(page, session):
    show(page, 7)
    for slot, encoder in enumerate((session.first, session.second)):
        unit = session.surveys[encoder].features.wait().unit.numpy()
        order = [n for n in np.argsort(-(unit @ unit[7]), kind="stable") if n != 7][:8]
        assert likeness_numbers(page, slot)[1:] == order
    assert page.locator(".map").count() == page.locator(".panel").count() == 2
    hover(page, 0, 6, 2)  # of 8 x 8 patches: the same place of 4 x 4
    assert page.evaluate("Explorer.panels[1].painting.cursor.patch") == [3, 1]
    page.mouse.down()
    page.mouse.up()
    hover(page, 0, 0, 0)
    pinned = page.evaluate("Explorer.panels.map(({ painting }) => painting.pinned.patch)")
    assert pinned == [[6, 2], [3, 1]]
    page.keyboard.press("Escape")
    page.locator("#tab-changes").click()
    page.wait_for_selector("#page-changes .tile")
    page.locator("#page-changes .tile").first.hover()
    assert page.evaluate("Explorer.state.hovered") >= 0
    slider = page.locator("input[aria-label='Checkpoint of the run']")
    headings = page.locator(".panel h3").all_inner_texts()
    assert headings == ["Nearest neighbours at the end of the run", "Nearest neighbours"]
    with page.expect_request("**/api/patches/0/7"):
        slider.press("Home")
    page.wait_for_function(
        "() => Explorer.panels[0].painting.encoder === 0 && Explorer.panels[0].painting.overlays.length === 9"
    )
    assert "step 4; neighbours and predictions are those at the end" in page.locator(".slider:visible").inner_text()
    assert session.about()["encoders"][0]["step"] < session.about()["encoders"][1]["step"]


def likeness_numbers(page, slot):
    return page.evaluate(f"Explorer.panels[{slot}].painting.overlays.map((one) => one.number)")


def test_a_lasso_selects_and_what_is_saved_can_be_read(page, session, images, tmp_path):
    points = np.array(session.surveys[session.first].pca.wait())
    chosen = np.flatnonzero(points[:, 0] < 0)
    page.keyboard.press("l")
    page.evaluate("Explorer.moveView({ x: 0, y: 0, zoom: 0.8 })")
    box = page.locator(".map").first.bounding_box()
    middle, unit = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2), page.evaluate("Explorer.maps[0].unit")
    corners = [(0, 1.1), (-1.1, 1.1), (-1.1, -1.1), (0, -1.1), (0, 1.1)]
    page.mouse.move(middle[0], middle[1] - 1.1 * unit)
    page.mouse.down()
    for x, y in corners[1:]:
        page.mouse.move(middle[0] + x * unit, middle[1] - y * unit, steps=5)
    page.mouse.up()
    assert page.locator("#selected").inner_text() == f"{len(chosen)} selected"
    page.locator("#tag").fill("left, far")
    page.keyboard.press("Enter")
    expected = sorted(session.images.locations[n] for n in chosen)
    for button, name in (("#save-list", "images.txt"), ("#save-csv", "images.csv")):
        with page.expect_download() as download:
            page.locator(button).click()
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
        source = open_source(str(tmp_path / name))
        assert sorted(source.paths) == expected
    assert '"left, far"' in (tmp_path / "images.csv").read_text()
    page.locator("#colour").select_option("tag")
    page.wait_for_function("() => document.querySelector('#legend').textContent.includes('left, far')")
    page.evaluate("""() => {  // on the next visit an image is gone that came before all others
      const key = Object.keys(localStorage).find((one) => one.startsWith("dinolab tags"));
      localStorage.setItem(key, JSON.stringify(JSON.parse(localStorage[key]).map(([tag, all]) => [tag, ["/gone", ...all]])));
    }""")
    page.reload()
    page.wait_for_selector("body[data-ready]", state="attached")
    tagged = page.evaluate("[...Explorer.tagColumn().of].flatMap((tag, image) => (tag < 0 ? [] : [image]))")
    assert tagged == chosen.tolist()


def test_names_that_are_html_are_found_and_shown_as_text(page, session, images):
    page.locator("#search").fill(images.parent.name)  # the folder's name is no part of theirs
    page.get_by_text("No name and no label holds these letters.").wait_for()
    page.evaluate("Explorer.moveView({ x: 1.2, y: 1.2, zoom: 40 })")
    assert not page.evaluate("Explorer.maps.some((map) => map.shows(23))")
    page.locator("#search").fill("ONERROR")
    tile = page.locator("#page-found .tile")
    tile.wait_for()
    assert NASTY in tile.inner_text()
    tile.click()
    page.wait_for_function("() => document.querySelector('.panel h2').textContent.includes('onerror')")
    assert NASTY in page.locator(".panel h2").first.inner_text()
    assert page.evaluate("Explorer.maps.every((map) => map.shows(Explorer.state.open))")
    page.get_by_role("button", name="Show all", exact=True).click()
    assert page.evaluate("Explorer.view") == {"x": 0, "y": 0, "zoom": 1}
    assert page.title() != "hit" and page.locator("[src='x']").count() == 0


def test_everything_by_keyboard(page, session):
    page.keyboard.press("/")
    page.keyboard.type("class2")
    page.keyboard.press("Enter")
    page.wait_for_function("() => Explorer.panels[0].painting.overlays.length === 9")
    first = page.evaluate("Explorer.state.open")
    assert session.images.source.labels[first] == 2
    page.keyboard.press("Escape")  # leaves the field
    page.keyboard.press("i")
    for key in ("ArrowUp", "ArrowUp", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    assert page.evaluate("Explorer.panels[0].painting.pinned.patch") == [3, 3]
    assert "Pinned" in page.locator("#message").inner_text()
    page.keyboard.press("Escape")
    assert page.evaluate("Explorer.panels[0].painting.pinned") is None
    for key, mode in (("a", "attention"), ("c", "pca"), ("o", "picture"), ("s", "similarity")):
        page.keyboard.press(key)
        assert page.evaluate("Explorer.look.mode") == mode
    page.keyboard.press("m")
    for key in ("+", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    page.wait_for_function("(first) => Explorer.state.open !== first", arg=first)
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible() and page.locator("#keys dt").count() > 12
    page.keyboard.press("Escape")
    unnamed = page.evaluate("""[...document.querySelectorAll("button, input, select, [role=application]")].filter((one) =>
      !(one.textContent.trim() || one.ariaLabel || one.labels?.length || one.hidden)).map((one) => one.outerHTML)""")
    assert unnamed == []


def test_findings_are_walked_with_keys_and_saved(opened, address, session):
    findings = [{"image": n, "kind": "leak", "other": n + 1, "score": 0.9, "words": "<i>alike</i>"} for n in (2, 4, 6)]
    saved = []

    def about(route):
        answer = route.fetch()
        encoders = [{**one, "attention": False} for one in answer.json()["encoders"]]
        route.fulfill(response=answer, json={**answer.json(), "findings": True, "encoders": encoders})

    def decide(route):
        saved.append([(one["image"], one["decision"]) for one in json.loads(route.request.post_data)])
        route.fulfill(json={"saved": 1, "file": "review.csv"})

    routes = {
        "**/api/about.json": about, "**/api/decisions": decide,
        "**/api/findings.json": lambda route: route.fulfill(json=findings),
        "**/api/decisions.json": lambda route: route.fulfill(json=[]),
    }  # fmt: skip
    page = opened(address, routes=routes)
    for key in ("k", "d", "u", "n"):
        page.keyboard.press(key)
    page.wait_for_function("() => document.querySelector('.finding').textContent.includes('3 of 3')")
    page.wait_for_timeout(200)
    assert saved == [[(2, "keep")], [(4, "drop")], [(4, "")]]
    assert page.locator(".finding").inner_text() == "3 of 3: leak. <i>alike</i>. Not decided yet."
    assert page.locator("#tab-findings").inner_text() == "Findings 1 / 3"
    for key in "ah":
        page.evaluate("Explorer.say('')")
        page.keyboard.press(key)
        assert page.locator("#message").inner_text() == "There is no attention: the network has no class token."
    assert page.get_by_title("There is no attention").inner_text() == "Attention"


@pytest.fixture(scope="session")
def exported(encoders, options, tmp_path_factory):
    """The page of both encoders without a server, with two findings.

    UMAP is left aside: its first use compiles for more than a minute.
    """
    from dinolab.explore.export import export
    from dinolab.explore.survey import Survey

    out = tmp_path_factory.mktemp("exported") / "page"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Survey, "make_umap", lambda self, report: self.pca.wait()[:, ::-1])
        export(encoders, replace(options, export=str(out)), progress=False)
    found = [{"image": n, "kind": "copy", "other": 0, "score": None, "words": "same bytes"} for n in (3, 20)]
    with (out / "data.js").open("a") as file:
        file.write('window.EXPORTED["api/about.json"].findings = true;\n')
        file.write(f'window.EXPORTED["api/findings.json"] = {json.dumps(found)};\n')
    return out


def test_an_export_works_from_disk_without_any_request(opened, exported, session):
    requests = []
    page = opened((exported / "index.html").as_uri(), requests=requests)
    show(page, 5)
    hover(page, 0, 2, 1)
    maps, numbers = likeness(page, 0)
    looker = session.lookers[session.first]
    query = torch.from_numpy(np.asarray(looker.patches(5))).float()[2, 1]
    for found, number in zip(maps, numbers, strict=True):
        expected = similarity_map(torch.from_numpy(np.asarray(looker.patches(number))), query)
        np.testing.assert_allclose(found, expected.flatten(), atol=1e-2)
    for key in ("a", "c", "o"):
        page.keyboard.press(key)
    page.locator("#projection").select_option("umap")
    page.locator("#search").fill("class1")
    page.locator("#page-found .tile").nth(11).wait_for()
    page.wait_for_function(
        "() => [...document.images].every((one) => !one.checkVisibility() || (one.complete && one.naturalWidth > 0))"
    )
    assert not page.locator("#own").is_visible()
    outside = [url for url in requests if not url.startswith((exported.as_uri(), "data:"))]
    assert requests and outside == []


def test_decisions_and_lists_of_an_export_are_kept_and_can_be_used(opened, exported, session, tmp_path):
    page = opened((exported / "index.html").as_uri())
    page.keyboard.press("d")
    page.reload()
    page.wait_for_selector("body[data-ready]", state="attached")
    assert page.locator("#tab-findings").inner_text() == "Findings 1 / 2"
    leaves = "dispatchEvent(new Event('beforeunload', { cancelable: true }))"
    page.evaluate("void (Storage.prototype.setItem = () => { throw new Error('no storage') })")
    assert page.evaluate(leaves)
    page.keyboard.press("k")
    assert not page.evaluate(leaves)  # the browser asks first: it cannot keep the decision
    with page.expect_download() as download:
        page.get_by_role("button", name="Save review.csv").click()
    assert page.evaluate(leaves)
    names = session.images.names
    assert download.value.path().read_text().splitlines()[1:] == [
        f"{names[3]},drop,copy,{names[0]}", f"{names[20]},keep,copy,{names[0]}",
    ]  # fmt: skip
    page.evaluate("Explorer.select([1, 30])")
    with page.expect_download() as download:
        page.locator("#save-list").click()
    download.value.save_as(tmp_path / "images.txt")
    assert "images=FOLDER" in page.locator("#message").inner_text()
    columns = Columns(images=session.images.source.name)
    assert open_source(str(tmp_path / "images.txt"), columns).paths == [session.images.locations[n] for n in (1, 30)]
    page.context.new_cdp_session(page).send("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Kolkata"})
    assert page.evaluate("Explorer.date(0)") == "1970-01-01 05:30"  # local time


def test_an_image_of_ones_own(page, tmp_path, images):
    shutil.copy(images / "class0" / "000.png", tmp_path / "mine.png")
    page.locator("#own-file").set_input_files(tmp_path / "mine.png")
    page.wait_for_function(
        "() => Explorer.panels.every(({ painting: p }) => /^u\\d+$/.test(p.image) && p.overlays.length === 9)"
    )
    assert page.locator(".panel .tile").first.get_attribute("data-image") == "0"  # the image itself is the nearest
