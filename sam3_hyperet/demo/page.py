"""The page: Gradio's components, and what is asked when one of them changes."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

import gradio as gr

from sam3_hyperet.choices import DEMO_DIAL
from sam3_hyperet.demo import rendering
from sam3_hyperet.demo.concepts import Concepts
from sam3_hyperet.demo.masks_file import coco_json, png_zip
from sam3_hyperet.demo.models import Models, Picture
from sam3_hyperet.demo.prompts import Ask, DrawnBox, asks_of, read_boxes
from sam3_hyperet.demo.samples import Samples, read_upload
from sam3_hyperet.demo.session import Session
from sam3_hyperet.errors import UserError

TITLE = "SAM 3 + HyperET: the granularity dial"
MASKS, RADIUS, TREE = VIEWS = ("Masks", "Radius map", "Concept tree")
_ALONE = "boxes alone"
_AROUND, _NOT = "around it", "not this"
_HERE = Path(__file__).parent
_FORGOTTEN_AFTER = 3600  # seconds without a question, of a session; and without use, of an uploaded file
_SESSIONS = 32
_UPLOADS = "GRADIO_TEMP_DIR"
_DOWNLOAD = "() => document.querySelector('#hy-file').click()"


@dataclass(frozen=True)
class Start:
    """What the page shows first; `about` says which models it has."""

    phrases: Sequence[str]
    dial: float
    threshold: float
    about: str


@dataclass(frozen=True)
class Controls:
    """The values of the page's controls; `of` is the phrase that a drawn box is for, `kind` what the box says of it."""

    view: str
    phrases: Sequence[str]
    boxes: str
    dial: float
    threshold: float
    adapter: str
    drawing: bool
    of: str
    kind: str


class Page:
    """Sessions, and the functions that the components call: each returns the values of the outputs in order.

    An error of the user is a message above the results, which stay as they were.
    """

    def __init__(self, models: Models, samples: Samples, concepts: Concepts | None, folder: Path) -> None:
        self._models, self._samples, self._concepts, self._folder = models, samples, concepts, folder

    def answer(self, session: Session | None, *values: Any) -> tuple[Any, ...]:
        """Session, message, picture, results, and the phrases that a box can be for."""
        return self._answered(session, Controls(*values))

    def take_sample(self, event: gr.SelectData, session: Session | None, *values: Any) -> tuple[Any, ...]:
        """As `answer` of another picture, without boxes; and the empty text of the boxes."""
        return self._taken(session, Controls(*values), lambda: self._samples[int(event.index)])

    def take_file(self, session: Session | None, path: str, *values: Any) -> tuple[Any, ...]:
        """As `take_sample` of a file that was uploaded."""
        return self._taken(session, Controls(*values), lambda: read_upload(Path(path)))

    def add_box(self, event: gr.EventData, session: Session | None, *values: Any) -> tuple[Any, ...]:
        """As `answer` with one more box; and the text of all boxes."""
        controls = Controls(*values)
        drawn = DrawnBox("" if controls.of == _ALONE else controls.of, tuple(event.box), controls.kind == _AROUND)
        text = f"{controls.boxes.rstrip()}\n{drawn}".lstrip()
        return *self._answered(session, Controls(**{**vars(controls), "boxes": text})), text

    def coco(self, session: Session | None, *values: Any) -> tuple[str, Any]:
        """Message, and a COCO file of the masks."""
        return self._file(session, Controls(*values), "json")

    def pngs(self, session: Session | None, *values: Any) -> tuple[str, Any]:
        """Message, and a ZIP of the masks."""
        return self._file(session, Controls(*values), "zip")

    def _taken(self, session: Session | None, controls: Controls, read: Any) -> tuple[Any, ...]:
        session = session or Session(self._models)
        try:
            session.picture = read()
        except UserError as error:
            return session, rendering.message_html(str(error)), *[gr.skip()] * 4
        return *self._answered(session, Controls(**{**vars(controls), "boxes": ""})), ""

    def _answered(self, session: Session | None, controls: Controls) -> tuple[Any, ...]:
        session = session or Session(self._models)
        of = gr.update(choices=[*controls.phrases, _ALONE], value=self._of(controls))
        try:
            picture, boxes, asked = self._asked(session, controls)
            stage = rendering.stage_html(picture, boxes, controls.drawing)
            results = self._results(session, picture, asked, controls)
        except UserError as error:
            return session, rendering.message_html(str(error)), gr.skip(), gr.skip(), of
        return session, "", stage, results, of

    def _asked(self, session: Session, controls: Controls) -> tuple[Picture, list[DrawnBox], list[Ask]]:
        picture = session.picture = session.picture or self._samples[0]
        boxes = read_boxes(controls.boxes)
        return picture, boxes, asks_of(controls.phrases, boxes, picture.image.size)

    def _results(self, session: Session, picture: Picture, asked: list[Ask], controls: Controls) -> str:
        if controls.view == TREE and self._concepts is not None:
            every = session.answer([Ask(name) for name in self._concepts.names], controls.adapter, controls.dial)
            return rendering.tree_html(picture, every, self._concepts, controls.threshold)
        answer = session.answer(asked, controls.adapter, controls.dial)
        if controls.view == RADIUS:
            return rendering.radius_html(picture, answer)
        return rendering.masks_html(picture, answer, controls.threshold)

    def _of(self, controls: Controls) -> str:
        """The phrase that the next box is for: as it was, while there is one."""
        known = [*controls.phrases, _ALONE]
        return controls.of if controls.of in known else known[0]

    def _file(self, session: Session | None, controls: Controls, ending: str) -> tuple[str, Any]:
        session = session or Session(self._models)
        try:
            picture, _, asked = self._asked(session, controls)
            found = session.full_size(asked, controls.adapter, controls.dial)
        except UserError as error:
            return rendering.message_html(str(error)), None
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        file = folder / f"{Path(picture.name).stem.replace(' ', '_')}_masks.{ending}"
        if ending == "zip":
            file.write_bytes(png_zip(asked, found, controls.threshold))
        else:
            facts = {"adapter": controls.adapter, "dial": controls.dial, "score_threshold": controls.threshold}
            file.write_text(coco_json(picture, asked, found, controls.threshold, facts), encoding="utf-8")
        return "", str(file)


def build_page(page: Page, models: Models, samples: Samples, concepts: Concepts | None, start: Start) -> gr.Blocks:
    """Gradio's page, not yet served."""
    blocks = gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, _FORGOTTEN_AFTER))
    with blocks:
        session = gr.State(None, time_to_live=_FORGOTTEN_AFTER)
        gr.HTML(f"<h1>{TITLE}</h1><p>{rendering.text_html(start.about)}</p>", elem_id="hy-head")
        message = gr.HTML("", elem_id="hy-alert")
        with gr.Row(equal_height=False, elem_id="hy-main"):
            with gr.Column(scale=4, min_width=300, elem_id="hy-controls"):
                stage = gr.HTML("", js_on_load=(_HERE / "page.js").read_text(encoding="utf-8"), elem_id="hy-picture")
                upload = gr.UploadButton("Upload a picture", file_types=["image"], elem_id="hy-upload", size="sm")
                with gr.Accordion(f"{len(samples)} pictures to begin with", open=False, elem_id="hy-samples"):
                    gallery = gr.Gallery(
                        samples.thumbnails, columns=4, height=230, allow_preview=False, show_label=False, buttons=[]
                    )
                known = list(concepts.names) if concepts else []
                phrases = gr.Dropdown(
                    sorted({*known, *start.phrases}),
                    value=list(start.phrases),
                    multiselect=True,
                    allow_custom_value=True,
                    label="Noun phrases",
                    info="Type one and press Enter",
                    elem_id="hy-phrases",
                )
                dial = gr.Slider(
                    0,
                    DEMO_DIAL,
                    start.dial,
                    step=0.05,
                    label="Dial",
                    info="0 the base, 1 as trained",
                    elem_id="hy-dial",
                )
                threshold = gr.Slider(0.1, 0.95, start.threshold, step=0.05, label="Score threshold")
                adapter = gr.Dropdown(
                    list(models.adapters), value=models.adapters[-1], label="Adapter", visible=len(models.adapters) > 1
                )
                with gr.Accordion("Box exemplars", open=False, elem_id="hy-boxes"):
                    drawing = gr.Checkbox(False, label="Draw boxes on the picture", elem_id="hy-drawing")
                    of = gr.Radio([*start.phrases, _ALONE], value=[*start.phrases, _ALONE][0], label="Boxes are for")
                    kind = gr.Radio([_AROUND, _NOT], value=_AROUND, label="A box is")
                    boxes = gr.Textbox(
                        "", lines=3, label="Boxes", info="phrase: x, y, width, height; - before it: not this"
                    )
            with gr.Column(scale=9, min_width=300, elem_id="hy-answer"):
                views = VIEWS if concepts else VIEWS[:-1]
                view = gr.Radio(list(views), value=MASKS, show_label=False, container=False, elem_id="hy-view")
                results = gr.HTML("", elem_id="hy-results")
                with gr.Row(elem_id="hy-downloads"):
                    coco = gr.Button("Masks as COCO JSON", size="sm", elem_id="hy-coco")
                    pngs = gr.Button("Masks as PNG", size="sm", elem_id="hy-pngs")
                file = gr.DownloadButton("Download", visible="hidden", elem_id="hy-file")

        controls = [view, phrases, boxes, dial, threshold, adapter, drawing, of, kind]
        outputs = [session, message, stage, results, of]
        # one question at a time, and of several from one person only the last
        how: dict[str, Any] = {"concurrency_id": "models", "concurrency_limit": 1, "trigger_mode": "always_last"}
        how |= {"show_progress": "hidden", "api_visibility": "private"}
        changes = [one.change for one in (view, phrases, dial, threshold, adapter, drawing)]
        gr.on([blocks.load, boxes.blur, *changes], page.answer, [session, *controls], outputs, **how)
        gallery.select(page.take_sample, [session, *controls], [*outputs, boxes], **how)
        upload.upload(page.take_file, [session, upload, *controls], [*outputs, boxes], **how)
        stage.draw(page.add_box, [session, *controls], [*outputs, boxes], **how)
        for button, function in ((coco, page.coco), (pngs, page.pngs)):
            written = button.click(function, [session, *controls], [message, file], **how)
            written.success(None, js=_DOWNLOAD)
    return blocks


@contextmanager
def served(
    models: Models,
    samples: Samples,
    concepts: Concepts | None,
    start: Start,
    *,
    host: str = "127.0.0.1",
    port: int,
    in_browser: bool = False,
) -> Iterator[str]:
    """Context in which the page is served at the address that it gives.

    What people upload lies in a folder that is removed at the end.
    """
    with tempfile.TemporaryDirectory(prefix="sam3_hyperet-demo-") as folder, _uploads_in(folder):
        blocks = build_page(Page(models, samples, concepts, Path(folder)), models, samples, concepts, start)
        blocks.queue(max_size=64)
        _, address, _ = blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=in_browser,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            max_file_size="200mb",
            state_session_capacity=_SESSIONS,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            theme=_theme(),
            css_paths=[_HERE / "page.css"],
        )
        try:
            yield address
        finally:
            blocks.close(verbose=False)


@contextmanager
def _uploads_in(folder: str) -> Iterator[None]:
    """Context in which Gradio keeps files in a folder."""
    before = os.environ.get(_UPLOADS)
    os.environ[_UPLOADS] = folder
    try:
        yield
    finally:
        os.environ.pop(_UPLOADS)
        if before is not None:
            os.environ[_UPLOADS] = before


def _theme() -> gr.themes.Base:
    """The look: the system's own typefaces, so that nothing is fetched."""
    sans = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"]
    mono = ["ui-monospace", "Menlo", "DejaVu Sans Mono", "monospace"]
    return gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=sans, font_mono=mono)
