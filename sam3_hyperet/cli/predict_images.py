"""The images of `predict`, one after the other; a thread draws and writes while the model is at the next ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sam3_hyperet.cli.predict_inputs import Inputs
from sam3_hyperet.cli.predict_models import Entry, PromptedModels
from sam3_hyperet.cli.predict_overlays import Overlays, write_masks
from sam3_hyperet.cli.predict_records import PredictionRecords, Stamp
from sam3_hyperet.errors import UserError
from sam3_hyperet.evaluation.background import background

_PENDING = 2  # images that are drawn or wait for it, at most: they are in memory


@dataclass(frozen=True)
class ImageWriter:
    """What is written of each image: its masks, its overlay, then its record.

    overlays: None to draw nothing.
    """

    run_dir: Path
    inputs: Inputs
    records: PredictionRecords
    overlays: Overlays | None
    masks: bool

    def write(self, i: int, name: str, stamp: Stamp, image: Image.Image, entries: Sequence[Entry]) -> None:
        """Write what the models found on image i; `name` is its overlay's. Errors begin with the image's path."""
        path, drawn = self.inputs.paths[i], None
        try:
            if self.masks:
                write_masks(self.run_dir, Path(name).stem, entries[-1])
            if self.overlays:
                drawn = self.overlays.draw(name, path.name, image, entries)
            self.records.write(i, stamp, entries[-1], drawn)
        except UserError as error:
            raise type(error)(f"{path}: {error}") from error
        except Exception as error:
            raise RuntimeError(f"{path}: what was found on it could not be drawn and written ({error})") from error


def predict_images(
    left: Sequence[int],
    models: PromptedModels,
    writer: ImageWriter,
    *,
    say: Callable[[str], None],
    on_image: Callable[[], None],
) -> None:
    """Predict and write the images that are `left`, in their order.

    say: called with a line about each. on_image: called after each.
    """
    inputs, names = writer.inputs, writer.inputs.overlays()
    with background(1) as line_of:
        line = line_of(_PENDING)
        for i in left:
            stamp = writer.records.stamp(i)  # before it is read: what changes meanwhile is done again
            image = inputs.load(i)
            entries = models.find(image, inputs.asked(i, image.size))
            said = models.line(inputs.paths[i].name, image.size, entries)
            line.put(writer.write, i, names[i], stamp, image, entries)
            say(said)
            on_image()
