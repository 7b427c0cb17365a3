"""The demo page: what it computes, and the page itself, over HTTP and in a real browser, as the command starts it."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from softgate_pose import create_model, list_pretrained, predict
from softgate_pose.cli import main
from softgate_pose.demo import build_page, draw_boxes, heatmap_overlay, parse_boxes, person_heatmaps

EXAMPLES = Path(__file__).parent.parent / "examples"
PHOTO = EXAMPLES / "photo.jpg"
BOXES = json.loads((EXAMPLES / "boxes.json").read_text())["photo.jpg"]
MODEL = "sgpose_0m5_1s.sports"
FIRST = list_pretrained()[0]  # what the page offers first


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("", None),
        (" \n ", None),
        ("1, 2, 3, 4", [[1, 2, 3, 4]]),
        ("1 2 3 4\n\n5;6;7.5;8\n", [[1, 2, 3, 4], [5, 6, 7.5, 8]]),
        ("[[1, 2, 3, 4], [5, 6, 7, 8]]", [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ("[1, 2, 3, 4]", [[1, 2, 3, 4]]),
        ("[]", []),
    ],
)
def test_boxes_are_read_as_people_write_them(text, boxes):
    assert parse_boxes(text) == boxes


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1 2 3", "line 1: .*'1 2 3'"),
        ("1 2 3 4 5", "line 1: .*'1 2 3 4 5'"),
        ("1 2 3 4\nx", "line 2: .*'x'"),
        ("[[1, 2", "JSON"),
        ("[null]", r"JSON.*\[0\].* None"),
        ('["a", 1, 2, 3]', r"JSON.*\[0\].* 'a'"),
        ("[" * 100_000, "JSON"),
        (f"[[1{'0' * 400}, 2, 3, 4]]", r"JSON.*\[0\]\[0\].* 1329 bits"),
    ],
)
def test_other_texts_are_refused(text, match):
    with pytest.raises(ValueError, match=match):
        parse_boxes(text)


def test_heatmaps_lie_over_the_keypoints():
    """The reddest pixel of a keypoint's overlay is where predict finds it, also on a photo that is shown smaller."""
    model = create_model(MODEL)
    with Image.open(PHOTO) as opened:
        for photo, zoom in ((opened.convert("RGB"), 1), (opened.resize((2560, 1700)), 2)):
            boxes = [[value * (photo.width / 640) for value in box] for box in BOXES[1:]]
            poses = predict(model, photo, boxes)
            heat = person_heatmaps(model, photo, boxes)
            for index in (7, 10):  # thorax and right wrist
                overlay = heatmap_overlay(photo, *heat, index)
                assert max(overlay.size) == min(max(photo.size), 1280)
                red, _, blue = (torch.frombuffer(bytearray(c.tobytes()), dtype=torch.uint8) for c in overlay.split())
                place = int((red.float() - blue.float()).argmax())
                x, y = (poses.keypoints[0, index] / zoom).tolist()
                within = 0.6 * float(heat[1][0, 0, 0]) / zoom  # a decoder moves a peak by up to half a heatmap pixel
                assert (place % overlay.width, place // overlay.width) == pytest.approx((x, y), abs=within)
            both = heatmap_overlay(photo, *heat, None)
            assert both.size == overlay.size
            assert both.tobytes() != overlay.tobytes()


def test_boxes_are_drawn_where_they_are():
    drawn = draw_boxes(Image.new("RGB", (2560, 1280)), [[200, 400, 1000, 1200]], (2000, 600))
    assert drawn.size == (1280, 640)
    for place, painted in (
        *(((x, y), True) for x, y in ((100, 200), (500, 600), (100, 400), (1000, 300))),
        *(((x, y), False) for x, y in ((300, 400), (90, 300), (700, 300))),
    ):
        assert (drawn.getpixel(place) != (0, 0, 0)) == painted


def test_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(main, ["demo"])
    assert result.exit_code == 1
    assert "pip install 'softgate-pose[demo]'" in result.output


def test_each_event_of_the_page_gives_a_value_for_each_of_its_components(monkeypatch, tmp_path):
    """The page's wiring and handlers, in place of gradio a stand-in that records the events."""
    gr, events = MagicMock(), {}

    def listener(event):
        def listen(function, inputs, outputs, **more):
            outputs = outputs if isinstance(outputs, list) else [outputs]
            events[getattr(function, "__name__", "") or event] = function, len(outputs)
            return MagicMock(then=listener(f"then {event}"))

        return listen

    component = gr.File.return_value
    for kind in ("Image", "Textbox", "Button", "Dropdown"):
        setattr(gr, kind, MagicMock(return_value=component))
    for event in ("change", "select", "click", "input"):
        setattr(component, event, listener(event))
    gr.on = lambda triggers, *more, **options: listener("on")(*more, **options)
    gr.skip, gr.update = (lambda: "unchanged"), (lambda **changes: changes)
    monkeypatch.setitem(sys.modules, "gradio", gr)
    build_page({MODEL: lambda: create_model(MODEL)})

    def happens(name, *values):
        function, count = events[name]
        answer = function(*values)
        assert count == 1 or len(answer) == count
        return answer

    (tmp_path / "notes.jpg").write_text("not a photo")
    for file, status in ((None, "Drop a photo"), (tmp_path / "notes.jpg", "notes.jpg cannot"), (PHOTO, "640 × 425")):
        file = file and str(file)
        assert status in happens("show_photo", file)[-1]
        assert happens("show_photo", file)[1] == ""  # no box of another photo stays
    photo, text = str(PHOTO), "\n".join(" ".join(map(str, box)) for box in BOXES)
    assert happens("show_boxes", photo, text, None)[-1] == "2 boxes."
    assert happens("show_boxes", photo, "", None)[-1] == "The whole photo."
    assert happens("show_boxes", photo, text, (photo, BOXES, MODEL, False))[-1] == "unchanged"
    assert "line 1" in happens("show_boxes", photo, "1 2", None)[-1]
    first = happens("click", photo, "", None, MagicMock(index=(30, 40)))
    assert first[1:] == ("unchanged", (30, 40), "Now click the opposite corner.")
    assert happens("click", photo, "1 2 3 4", (30, 40), MagicMock(index=(10, 90)))[1:] == (
        "1, 2, 3, 4\n10, 40, 30, 90", None, "2 boxes.",
    )  # fmt: skip
    assert "no area" in happens("click", photo, "", (30, 40), MagicMock(index=(30, 90)))[-1]
    assert "No image" in happens("click", "/nothing", "", None, None)[-1]
    skeletons, table, download, job, status = happens("find", photo, text, MODEL, "dark", False)
    assert (skeletons.size, len(table), status) == ((640, 425), 32, f"2 people, {MODEL}.")
    poses = predict(create_model(MODEL), PHOTO, BOXES)
    assert json.loads(Path(download["value"]).read_text()) == poses.to_dict()
    overlay, heat, choice = happens("find_heatmaps", job, "right_wrist")
    assert choice == {"choices": ["all keypoints", *poses.keypoint_names], "value": "right_wrist"}
    assert happens("show_heatmaps", job, heat, "right_wrist").tobytes() == overlay.tobytes()
    assert happens("show_heatmaps", job, heat, "all keypoints").tobytes() != overlay.tobytes()
    for nothing in (
        (None, "", MODEL, "dark", False),
        (photo, "9 9", MODEL, "dark", False),
        (photo, "1 2 3 9\n" * 33, MODEL, "dark", False),
    ):
        assert happens("find", *nothing)[:2] == (None, [])
    assert happens("find_heatmaps", None, "all keypoints")[0] is None


# --- the page -----------------------------------------------------------------------------------------

needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="needs pip install 'softgate-pose[demo]'"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None,
    reason="needs Chromium (apt-get install chromium) and pip install playwright",
)
anything_may_warn = pytest.mark.filterwarnings("default")  # inside of gradio and its client


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page's address, as the command prints it; photos may have 1 MB."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("demo")
    (folder / "scratch").mkdir()
    command = [sys.executable, "-m", "softgate_pose", "demo", "--port", str(port), "--max-upload", "1"]
    environment = {**os.environ, "TMPDIR": str(folder / "scratch"), "OMP_NUM_THREADS": "1"}
    with (folder / "errors.txt").open("w") as errors:
        server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        line = server.stdout.readline()
        status = (folder / "errors.txt").read_text()
        assert line == f"Open http://127.0.0.1:{port}/ in a browser; Ctrl-C stops it.\n", status
        yield f"http://127.0.0.1:{port}/"
        assert list((folder / "scratch").rglob("*.json")) or list((folder / "scratch").rglob("*.jpg"))
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
        assert "Traceback" not in (folder / "errors.txt").read_text()
        assert [file for file in (folder / "scratch").rglob("*") if file.is_file()] == []  # no photo is left behind
    finally:
        server.kill()
        server.stdout.close()


@pytest.fixture
def client(page):
    from gradio_client import Client

    with contextlib.redirect_stdout(None):
        answering = Client(page, verbose=False)
    yield answering
    answering.close()


@needs_gradio
@anything_may_warn
def test_the_page_answers_as_predict_does(client, tmp_path):
    from gradio_client import handle_file

    text = "\n".join(", ".join(map(str, box)) for box in BOXES)
    drawn, table, download, status = client.predict(handle_file(PHOTO), text, MODEL, "quarter", True, api_name="/find")
    poses = predict(create_model(MODEL, channels_last=True), PHOTO, BOXES, flip_test=True, decode="quarter")
    file = download["value"] if isinstance(download, dict) else download
    assert json.loads(Path(file).read_text()) == poses.to_dict()
    assert Path(file).name == "photo-poses.json"
    assert status == f"2 people, {MODEL}."
    assert len(table["data"]) == 32
    assert table["data"][16][:2] == [1, poses.keypoint_names[0]]
    with Image.open(drawn) as picture:
        assert picture.size == (640, 425)


@needs_gradio
@anything_may_warn
def test_what_cannot_be_done_is_said_and_the_page_goes_on(client, tmp_path):
    from gradio_client import handle_file

    (tmp_path / "notes.jpg").write_text("not a photo")
    for photo, text, expected in (
        (tmp_path / "notes.jpg", "", "notes.jpg cannot be read as an image"),
        (PHOTO, "1 2 3", "line 1: expected x0, y0, x1, y1"),
        (PHOTO, "5 5 5 9", "Box 0 has no area"),
        (PHOTO, "9000 0 9100 100", "outside the image of 640 × 425 pixels"),
        (PHOTO, "1 2 30 40\n" * 33, "at most 32 people at once, got 33"),
    ):
        drawn, table, _, status = client.predict(handle_file(photo), text, MODEL, "dark", False, api_name="/find")
        assert status.startswith("**This cannot be done.** ")
        assert expected in status
        assert str(tmp_path) not in status
        assert drawn is None
        assert table["data"] == []
    assert client.predict(handle_file(PHOTO), "", MODEL, "dark", False, api_name="/find")[-1] == f"1 person, {MODEL}."


@needs_gradio
@anything_may_warn
@pytest.mark.parametrize(("size", "status"), [(2**20 - 1, 200), (2**20 + 1, 413)])
def test_larger_uploads_are_refused_by_the_server(page, size, status):
    import httpx  # gradio brings it

    files = {"files": ("photo.jpg", bytes(size))}
    assert httpx.post(f"{page}gradio_api/upload", files=files).status_code == status


@needs_gradio
def test_the_browser_is_told_to_ask_nobody_else(page):
    with urllib.request.urlopen(page) as reply:
        assert reply.headers["content-security-policy"].startswith("default-src 'self'")
        text = reply.read().decode()
    assert '"analytics_enabled":false' in text
    assert '"is_colab":false' in text


@needs_gradio
@needs_browser
@anything_may_warn
def test_in_a_browser(page, tmp_path):
    """A bad file, a photo, a box of two clicks, a pasted one, one keypoint's heatmap, the table, the JSON."""
    from playwright.sync_api import sync_playwright

    (tmp_path / "notes.jpg").write_text("not a photo")
    (tmp_path / "large.jpg").write_bytes(bytes(2**20 + 1))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 390, "height": 844})
        tab.set_default_timeout(60_000)
        requests = []
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(page)

        def upload(file):
            tab.set_input_files("#photo input[type=file]", file)

        def wait_for(text, place="#status"):
            tab.wait_for_function(
                "([place, text]) => document.querySelector(place)?.innerText.includes(text)", arg=[place, text]
            )

        wait_for("Drop a photo")
        upload(tmp_path / "large.jpg")
        wait_for("exceed the maximum allowed size of 1", "body")
        upload(tmp_path / "notes.jpg")
        wait_for("notes.jpg cannot be read as an image")
        tab.click("#photo button[aria-label=Clear]")
        wait_for("Drop a photo")

        upload(PHOTO)
        wait_for("photo.jpg: 640 × 425 pixels.")
        x0, y0, x1, y1 = BOXES[1]
        for (x, y), status in (((x1, y0), "Now click the opposite corner."), ((x0, y1), "1 box.")):
            tab.wait_for_function("document.querySelector('#canvas img')?.complete")
            tab.wait_for_timeout(500)  # the page puts a new picture in place of one that was clicked
            shown = tab.locator("#canvas img").bounding_box()
            zoom = shown["width"] / 640
            tab.mouse.click(shown["x"] + (x + 0.5) * zoom, shown["y"] + (y + 0.5) * zoom)
            wait_for(status)
        clicked = [float(value) for value in tab.input_value("#boxes textarea").split(",")]
        assert clicked == pytest.approx(BOXES[1], abs=2)  # a screen pixel is nearly two of the photo's

        tab.fill("#boxes textarea", json.dumps(BOXES))
        tab.click("#run")
        wait_for(f"2 people, {FIRST}.")
        tab.wait_for_selector("#heatmaps img")
        tab.locator("#table").scroll_into_view_if_needed()  # rows out of sight are not made
        wait_for("right_ankle", "#table")
        wait_for(f"2 people, {FIRST}.")  # which the boxes' own event does not come after
        every = tab.get_attribute("#heatmaps img", "src")
        tab.click("#keypoint input")
        tab.locator("[role=option]", has_text="right_wrist").click()
        tab.wait_for_function("old => document.querySelector('#heatmaps img').src != old", arg=every)
        with tab.expect_download() as download:
            tab.click("#download")
        poses = predict(create_model(FIRST, channels_last=True), PHOTO, BOXES)
        assert download.value.suggested_filename == "photo-poses.json"
        assert json.loads(Path(download.value.path()).read_text()) == poses.to_dict()

        assert tab.evaluate("document.documentElement.scrollWidth") == 390  # nothing reaches over a phone's screen
        assert [url for url in requests if not url.startswith((page, "data:", "blob:"))] == []
        tab.screenshot(path=tmp_path / "page.png", full_page=True)
        browser.close()
