"""Attacks on the server: each is refused with one line, and the server lives on."""

import csv
import json
import os
import shutil

import pytest

from dinolab.explore.options import ExploreOptions
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.weights.load import save_encoder
from tests.explore.conftest import NASTY
from tests.pictures import make_folder

client_of = pytest.importorskip("starlette.testclient").TestClient
HOST, ORIGIN = "127.0.0.1:8123", {"origin": "http://127.0.0.1:8123"}
COOKIE = {"dinolab_8123": "secret"}


@pytest.fixture(scope="module")
def app(session):
    from dinolab.explore.server import make_app

    return make_app(session, "secret", [HOST, "localhost:8123"])


@pytest.fixture
def client(app):
    return client_of(app, f"http://{HOST}", cookies=COOKIE, follow_redirects=False)


def test_the_token_becomes_a_cookie(app) -> None:
    client = client_of(app, f"http://{HOST}", follow_redirects=False)
    assert client.get("/api/about.json").status_code == 403
    assert client.get("/?token=guess").status_code == 403
    answer = client.get("/?token=secret&image=3")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?image=3")
    assert "HttpOnly" in answer.headers["set-cookie"] and "SameSite=lax" in answer.headers["set-cookie"]
    assert client.get("/api/about.json").status_code == 200
    assert client.get(f"http://{HOST}//elsewhere.example/?token=secret").headers["location"] == "/elsewhere.example/"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:80", "evil.example:8123", ""])
def test_another_host_is_refused(client, host) -> None:
    answer = client.get("/api/about.json", headers={"host": host})
    assert answer.status_code == 421 and "error" in answer.json()


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:80", "null", None])
def test_another_origin_may_not_post(client, origin) -> None:
    headers = {} if origin is None else {"origin": origin}
    for path in ("/api/decisions", "/api/look"):
        assert client.post(path, content=b"[]", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/static/../session.py", "/static/..%2fsession.py", "/static/%2e%2e/%2e%2e/errors.py", "/static/..%5csession.py",
        "/static//etc/passwd", "/api/images/..%2f..%2fetc%2fpasswd", "/api/images//etc/passwd", "/api/images/%2e%2e",
        "/api/images/36", "/api/images/-1", "/api/images/1e3", "/api/images/99999999999999999999", "/api/images/u999",
        "/api/images/u", "/api/images/١", "/api/patches/9/0", "/api/patches/-1/0", "/api/maps/3/..%2f", "/api/columns/..",
        "/api/atlas/-1", "/api/atlas/x",
    ],
)  # fmt: skip
def test_nothing_but_the_images_is_served(client, path) -> None:
    answer = client.get(path)
    assert answer.status_code in (400, 404) and b"root:" not in answer.content and b"import" not in answer.content
    assert "\n" not in answer.json()["error"]


def test_answers_carry_the_policy(client) -> None:
    for path in ("/static/style.css", "/api/about.json", "/api/images/0", "/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "access-control-allow-origin" not in headers


def test_dropped_files_are_decoded_or_refused(client, monkeypatch) -> None:
    from dinolab.explore import server

    for content in (b"", b"no image", b"\xff\xd8\xff\xe0 cut short", b"<svg onload=alert(1)>"):
        answer = client.post("/api/look", content=content, headers=ORIGIN)
        assert answer.status_code == 400 and "the dropped image" in answer.json()["error"]
    monkeypatch.setattr(server, "LARGEST_DROP", 1 << 20)
    answer = client.post("/api/look", content=b"x" * (1 << 21), headers=ORIGIN)
    assert answer.status_code == 400 and "too large" in answer.json()["error"]


def test_names_are_text(client) -> None:
    answer = client.get("/api/images.json")
    assert answer.headers["content-type"] == "application/json"
    assert f"class1/{NASTY}" in answer.json()["names"]


def test_decisions_are_a_csv(client, session) -> None:
    odd = session.images.names.index(f"class1/{NASTY}")
    posted = [{"image": odd, "decision": "drop", "kind": "outlier"}, {"image": 2, "decision": "keep", "other": 4}]
    answer = client.post("/api/decisions", content=json.dumps(posted), headers=ORIGIN).json()
    assert answer["saved"] == 2
    client.post("/api/decisions", content=json.dumps([{"image": 2, "decision": ""}]), headers=ORIGIN)
    with open(answer["file"], newline="") as file:
        assert list(csv.reader(file)) == [
            ["image", "decision", "kind", "other"],
            [session.images.locations[odd], "drop", "outlier", ""],
        ]
    assert client.get("/api/decisions.json").json() == [
        {"image": odd, "decision": "drop", "kind": "outlier", "other": None}
    ]
    for wrong in (
        "{",
        "{}",
        "[1]",
        '[{"image": 99, "decision": "keep"}]',
        '[{"image": true, "decision": "keep"}]',
        "[" * 9999,
    ):
        assert client.post("/api/decisions", content=wrong, headers=ORIGIN).status_code == 400


def test_images_that_change_meanwhile_are_gone(tmp_path) -> None:
    from dinolab.explore.server import make_app
    from dinolab.explore.session import Session

    images = make_folder(tmp_path / "images", per_class=3)
    odd = os.fsencode(images / "class1") + b"/\xff.png"  # no text in UTF-8
    shutil.copy(images / "class1" / "002.png", odd)
    save_encoder(ViT(Model(dim=16, depth=1, heads=2, patch_size=8), 24), tmp_path / "model", {})
    options = ExploreOptions(data=str(images), cache=str(tmp_path / "cache"), device="cpu", workers=0)
    client = client_of(
        make_app(Session([str(tmp_path / "model")], options), "secret", [HOST]), f"http://{HOST}", cookies=COOKIE
    )
    assert client.get("/api/images.json").json()["names"][6] == "class1/\udcff.png"
    saved = client.post("/api/decisions", content=b'[{"image": 6, "decision": "drop"}]', headers=ORIGIN).json()
    assert saved["saved"] == len(client.get("/api/decisions.json").json()) == 1
    (images / "class0" / "001.png").unlink()
    (images / "class1" / "000.png").write_bytes((images / "class0" / "000.png").read_bytes())
    for number in (1, 3):
        for path in ("images/{}", "detail/0/{}", "patches/0/{}", "pixels/0/{}"):
            answer = client.get("/api/" + path.format(number))
            assert answer.status_code == 404 and "changed or removed" in answer.json()["error"]
    assert client.get("/api/atlas/0").status_code == 200
    shutil.rmtree(images)
    assert client.get("/api/images/0").status_code == 404
    assert client.get("/api/about.json").json()["count"] == 7
