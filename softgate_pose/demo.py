"""The page of ``softgate-pose demo``: a photo, its people, their skeletons and heatmaps. Needs the extra ``demo``."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from softgate_pose._files import checked
from softgate_pose.data.images import load_image, normalize, open_image
from softgate_pose.model.base import PoseModel
from softgate_pose.pose import geometry
from softgate_pose.pose.heatmaps import DecodeMethod
from softgate_pose.prediction.poses import Poses
from softgate_pose.prediction.predict import crop_matrices, infer_heatmaps, predict

if TYPE_CHECKING:
    import gradio

__all__ = ["build_page", "draw_boxes", "heatmap_overlay", "parse_boxes", "person_heatmaps", "serve"]

Models = Mapping[str, Callable[[], PoseModel]]
"""For each name, a function that loads the model."""

ALL = "all keypoints"
BEGIN = "Drop a photo to begin."
_SHOWN = 1280  # the longer side of the pictures on the page, in pixels
_KEEP_FILES = 3600  # seconds that uploaded photos stay
_PEOPLE = 32  # of one photo, so that one click cannot keep the machine busy for minutes
_BOX, _HEAT = (255, 204, 0), (255, 70, 0)
_FAINT = 0.1  # if no peak is higher, nothing is shown at full strength

_INTRO = """\
# softgate_pose
Drop a photo. Without boxes the whole photo is one person; for several people mark each with **two clicks** on
opposite corners, or paste boxes. Photos stay on the machine that runs this page.
"""

_NO_REQUESTS_ELSEWHERE = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' ws: wss: data: blob:; "
    "frame-ancestors 'self'"
)


def parse_boxes(text: str) -> list[list[float]] | None:
    """Boxes as typed or pasted, or None: four numbers a line, or JSON ``[[x0, y0, x1, y1], ...]``."""
    if text.lstrip().startswith("["):
        try:
            rows: list[Any] = checked(list[list[float]] | list[float], json.loads(text), "boxes")
        except (RecursionError, ValueError) as error:
            raise ValueError(f"The boxes are not JSON of the form [[x0, y0, x1, y1], ...]: {error}") from None
        return [rows] if rows and not isinstance(rows[0], list) else rows
    boxes = []
    for number, line in enumerate(text.splitlines(), 1):
        words = re.findall(r"[^\s,;]+", line)
        try:
            x0, y0, x1, y1 = map(float, words)
        except ValueError:
            if words:
                raise ValueError(f"Boxes, line {number}: expected x0, y0, x1, y1, got {line.strip()!r}.") from None
        else:
            boxes.append([x0, y0, x1, y1])
    return boxes or None


def person_heatmaps(
    model: PoseModel, photo: Image.Image, boxes: Sequence[Sequence[float]] | None, *, flip_test: bool = False
) -> tuple[Tensor, Tensor]:
    """Heatmaps (N, K, h, w) of the people that ``predict`` sees, and their maps (N, 2, 3) to photo pixels."""
    config = model.config
    pixels = load_image(photo, config.in_chans)
    height, width = pixels.shape[1:]
    _, matrices = crop_matrices(boxes, (height, width), config)
    crops = geometry.crop(pixels.to(model.device), matrices, config.input_size)
    heatmaps = infer_heatmaps(model, normalize(crops, config).to(model.dtype), flip_test=flip_test).float().cpu()
    return heatmaps, geometry.compose(geometry.invert(matrices), geometry.resize_map(config.stride))


def heatmap_overlay(photo: Image.Image, heatmaps: Tensor, to_photo: Tensor, keypoint: int | None) -> Image.Image:
    """A keypoint's heatmaps of all people, or of all keypoints for None, laid over the photo in grey."""
    shown = _fitted(photo)
    to_shown = geometry.resize_map(shown.width / photo.width)
    heat = torch.zeros(shown.height, shown.width)
    for maps, matrix in zip(heatmaps, to_photo, strict=True):
        chosen = maps.amax(dim=0) if keypoint is None else maps[keypoint]
        onto = geometry.compose(to_shown, matrix[None])
        heat = torch.maximum(heat, geometry.warp(chosen[None, None], onto, (shown.height, shown.width))[0, 0])
    strength = Image.fromarray((heat / heat.max().clamp_min(_FAINT) * 230).clamp(0, 230).byte().numpy())
    grey = shown.convert("L").point([value // 2 + 60 for value in range(256)]).convert("RGB")
    return Image.composite(Image.new("RGB", shown.size, _HEAT), grey, strength)


def draw_boxes(photo: Image.Image, boxes: Sequence[Sequence[float]], corner: tuple[float, float] | None) -> Image.Image:
    """The photo as the page shows it, with boxes, and a cross where the first corner of another is."""
    shown = _fitted(photo)
    zoom = shown.width / photo.width
    pen, width = ImageDraw.Draw(shown), max(2, max(shown.size) // 300)
    for box in boxes:
        x0, y0, x1, y1 = (value * zoom for value in box)
        pen.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), outline=_BOX, width=width)
    if corner is not None:
        x, y = (value * zoom for value in corner)
        arm = 6 * width
        pen.line((x - arm, y, x + arm, y), fill=_BOX, width=width)
        pen.line((x, y - arm, x, y + arm), fill=_BOX, width=width)
    return shown


class _Handlers:
    """What the page does on each event. A handler returns a value for each component that its event is wired to.

    A job describes the last search: the photo, its boxes, the model's name and whether with the flip test.
    """

    def __init__(self, models: Models, scratch: Path) -> None:
        self.scratch, self.gr = scratch, _gradio()
        self._load = cache(lambda name: models[name]())

    def show_photo(self, file: str | None) -> tuple[Any, ...]:
        """A new photo: the picture to click on, everything else cleared, and the status."""
        nothing: tuple[Any, ...] = ("", None, None, None, [], None, self.gr.update(interactive=False, value=None))
        if file is None:
            return None, *nothing, BEGIN
        try:
            photo = open_image(file)
        except (OSError, ValueError) as error:
            return None, *nothing, _problem(error, file)
        return _fitted(photo), *nothing, f"{Path(file).name}: {photo.width} × {photo.height} pixels."

    def show_boxes(self, file: str | None, text: str, job: Any) -> tuple[Any, ...]:
        """Typed boxes: the picture with them, no corner, and the status, unless people were found in these boxes."""
        if file is None:
            return None, None, BEGIN
        try:
            photo, boxes = _photo_and_boxes(file, text)
        except (OSError, ValueError) as error:
            return self.gr.skip(), None, _problem(error, file)
        # a click on the button also ends the typing, and this event may arrive after the search
        is_stale = job is not None and (job[1] or []) == boxes
        return draw_boxes(photo, boxes, None), None, self.gr.skip() if is_stale else _count_boxes(boxes)

    def click(self, file: str | None, text: str, corner: Any, event: Any) -> tuple[Any, ...]:
        """A click on the photo, the first or the second corner of a box: the picture, boxes, corner and status."""
        unchanged = self.gr.skip()
        try:
            photo, boxes = _photo_and_boxes(file or "", text)
        except (OSError, ValueError) as error:
            return unchanged, unchanged, None, _problem(error, file)
        zoom = max(1.0, max(photo.size) / _SHOWN)
        x, y = (round(float(value) * zoom, 1) for value in event.index)
        if corner is None:
            return draw_boxes(photo, boxes, (x, y)), unchanged, (x, y), "Now click the opposite corner."
        if x == corner[0] or y == corner[1]:
            status = "That box has no area; click two other corners."
            return draw_boxes(photo, boxes, None), unchanged, None, status
        boxes.append([min(x, corner[0]), min(y, corner[1]), max(x, corner[0]), max(y, corner[1])])
        lines = "\n".join(", ".join(f"{value:g}" for value in box) for box in boxes)
        return draw_boxes(photo, boxes, None), lines, None, _count_boxes(boxes)

    def find(self, file: str | None, text: str, name: str, decode: DecodeMethod, flip_test: bool) -> tuple[Any, ...]:
        """The skeletons, table, JSON file and job of the people in a photo, and the status."""
        nothing: tuple[Any, ...] = (None, [], self.gr.update(interactive=False, value=None), None)
        if file is None:
            return *nothing, BEGIN
        try:
            boxes = parse_boxes(text)
            if boxes is not None and len(boxes) > _PEOPLE:
                raise ValueError(f"This page takes at most {_PEOPLE} people at once, got {len(boxes)} boxes.")
            photo = open_image(file)
            poses = predict(self._load(name), photo, boxes, flip_test=flip_test, decode=decode)
        except (OSError, ValueError, RuntimeError) as error:
            return *nothing, _problem(error, file)
        place = Path(tempfile.mkdtemp(dir=self.scratch)) / f"{Path(file).stem}-poses.json"
        place.write_text(json.dumps(poses.to_dict(), indent=1) + "\n", encoding="utf-8")
        status = f"{len(poses)} {'person' if len(poses) == 1 else 'people'}, {name}."
        download = self.gr.update(interactive=True, value=str(place))
        return poses.draw(photo), _table(poses), download, (file, boxes, name, flip_test), status

    def find_heatmaps(self, job: Any, keypoint: str) -> tuple[Any, ...]:
        """The overlay, the heatmaps of a job, stored for when another keypoint is chosen, and that choice."""
        if job is None:
            return None, None, self.gr.skip()
        file, boxes, name, flip_test = job
        model = self._load(name)
        heat = person_heatmaps(model, open_image(file), boxes, flip_test=flip_test)
        names = model.config.skeleton.keypoints
        chosen = keypoint if keypoint in names else ALL
        return self.show_heatmaps(job, heat, chosen), heat, self.gr.update(choices=[ALL, *names], value=chosen)

    def show_heatmaps(self, job: Any, heat: Any, keypoint: str) -> Any:
        """The overlay of one keypoint's heatmaps, or of all."""
        if job is None or heat is None:
            return None
        names = self._load(job[2]).config.skeleton.keypoints
        heatmaps, to_photo = heat
        chosen = names.index(keypoint) if keypoint in names else None
        return heatmap_overlay(open_image(job[0]), heatmaps, to_photo, chosen)


def build_page(models: Models) -> gradio.Blocks:
    """The page. The first model is preselected, and each is loaded when it is first used."""
    gr = _gradio()
    scratch = tempfile.TemporaryDirectory(prefix="softgate-pose-demo-")  # all files of the page; gone with it
    os.environ["GRADIO_TEMP_DIR"] = scratch.name  # where gradio puts uploads, and forgets some
    does = _Handlers(models, Path(scratch.name))
    _Handlers.click.__annotations__["event"] = gr.SelectData  # by which gradio knows what to pass
    picture: dict[str, Any] = {"interactive": False, "format": "jpeg", "buttons": ["download", "fullscreen"]}
    with gr.Blocks(title="softgate_pose", analytics_enabled=False, delete_cache=(_KEEP_FILES, _KEEP_FILES)) as page:
        gr.Markdown(_INTRO)
        corner, job, heat = gr.State(None), gr.State(None), gr.State(None)
        with gr.Row():
            with gr.Column(min_width=320):
                file = gr.File(label="Photo", file_types=["image"], height=140, elem_id="photo")
                label = "People: click two opposite corners of each"
                canvas = gr.Image(label=label, interactive=False, buttons=[], elem_id="canvas")
                text = gr.Textbox(
                    label="Boxes: x0, y0, x1, y1 in the photo's pixels, one person a line",
                    placeholder="empty: the whole photo is one person",
                    lines=2,
                    max_lines=8,
                    elem_id="boxes",
                )
                clear = gr.Button("Remove the boxes", size="sm")
                with gr.Row():
                    model = gr.Dropdown(list(models), value=next(iter(models)), label="Model", min_width=200)
                    decode = gr.Dropdown(list(get_args(DecodeMethod)), value="dark", label="Decoder", min_width=160)
                flip_test = gr.Checkbox(label="Flip test: average with the mirrored photo; slower, more accurate")
                run = gr.Button("Find keypoints", variant="primary", elem_id="run")
                status = gr.Markdown(BEGIN, elem_id="status")
            with gr.Column(min_width=320):
                skeletons = gr.Image(label="Skeletons", elem_id="skeletons", **picture)
                keypoint = gr.Dropdown([ALL], value=ALL, label="Heatmaps of", elem_id="keypoint")
                overlay = gr.Image(label="Heatmaps: reddest at the highest peak", elem_id="heatmaps", **picture)
                table = gr.Dataframe(
                    headers=["#", "keypoint", "x", "y", "score"],
                    datatype=["number", "str", "number", "number", "number"],
                    label="Keypoints of person #: x, y in the photo's pixels, score from 0 to 1",
                    column_widths=["9%", "35%", "18%", "18%", "20%"],
                    interactive=False,
                    elem_id="table",
                )
                download = gr.DownloadButton("Download JSON", interactive=False, elem_id="download")
        shown = [canvas, text, corner, skeletons, overlay, table, job, download, status]
        typed = ([file, text, job], [canvas, corner, status])
        file.change(does.show_photo, file, shown, api_name="show_photo")
        canvas.select(does.click, [file, text, corner], [canvas, text, corner, status], api_name=False)
        gr.on([text.blur, text.submit], does.show_boxes, *typed, api_name=False)
        clear.click(lambda: "", None, text, api_name=False).then(does.show_boxes, *typed, api_name=False)
        choices, results = [file, text, model, decode, flip_test], [skeletons, table, download, job, status]
        run.click(does.find, choices, results, api_name="find").then(
            does.find_heatmaps, [job, keypoint], [overlay, heat, keypoint], api_name=False
        )
        keypoint.input(does.show_heatmaps, [job, heat, keypoint], overlay, api_name=False)
    page.scratch = scratch
    return page


def serve(page: gradio.Blocks, *, host: str = "127.0.0.1", port: int = 7860, max_upload: float = 20) -> str:
    """Start the page in the background, and give its address; photos may have ``max_upload`` MB.

    ``page.block_thread()`` waits for Ctrl-C, ``page.close()`` ends it. Nothing is shared, counted or fetched from
    elsewhere: browsers are told to refuse every request to another host.
    """
    gr = _gradio()
    from starlette.middleware import Middleware

    _, url, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        max_file_size=int(max_upload * 2**20),
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        state_session_capacity=100,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        app_kwargs={"middleware": [Middleware(_StayHere)]},
    )
    return str(url)


class _StayHere:
    """ASGI middleware that adds a header, so that browsers request nothing from other hosts."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_header(message: Any) -> None:
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", _NO_REQUESTS_ELSEWHERE.encode())
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        await self.app(scope, receive, with_header)


def _gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    try:
        import gradio
    except ImportError as error:
        raise ImportError("The demo page needs gradio; install it: pip install 'softgate-pose[demo]'") from error
    return gradio


def _fitted(photo: Image.Image) -> Image.Image:
    """A copy as RGB, at most as large as the page shows."""
    rgb = Image.fromarray(load_image(photo).permute(1, 2, 0).contiguous().numpy())
    rgb.thumbnail((_SHOWN, _SHOWN))
    return rgb


def _photo_and_boxes(file: str, text: str) -> tuple[Image.Image, list[list[float]]]:
    """The photo and the typed boxes, checked."""
    photo, boxes = open_image(file), parse_boxes(text) or []
    geometry.as_boxes(boxes)
    return photo, boxes


def _table(poses: Poses) -> list[list[Any]]:
    """A row for each keypoint: person, name, x, y, score."""
    return [
        [person, name, round(x, 1), round(y, 1), round(score, 2)]
        for person, (points, scores) in enumerate(zip(poses.keypoints.tolist(), poses.scores.tolist(), strict=True))
        for name, (x, y), score in zip(poses.keypoint_names, points, scores, strict=True)
    ]


def _problem(error: Exception, file: str | None) -> str:
    """An error's text for the page, with the file's own name in place of its temporary path."""
    text = str(error)
    return f"**This cannot be done.** {text.replace(file, Path(file).name) if file else text}"


def _count_boxes(boxes: Sequence[Any]) -> str:
    return f"{len(boxes)} box{'' if len(boxes) == 1 else 'es'}." if boxes else "The whole photo."
