"""`sam3-hyperet radius`: hyperbolic radii of vision encoders' patch features, by family, size and resolution."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omegaconf import DictConfig, ListConfig
from rich.console import Console
from rich.table import Column, Table

from sam3_hyperet.ablation.figure import svg_of
from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.of_run import listed
from sam3_hyperet.cli.predict_inputs import find_images, passed_over
from sam3_hyperet.cli.progress import counted
from sam3_hyperet.cli.tables import print_table
from sam3_hyperet.data.image_files import image_size, limit_megapixels, read_image
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.encoder_radius import OUTPUT, LayerRadii, measure_radii
from sam3_hyperet.files import Manifest, replacing
from sam3_hyperet.modeling.encoders.opening import RANDOM, SOURCES, Encoder, check_encoder, open_encoder
from sam3_hyperet.modeling.opening import choose_device, set_threads
from sam3_hyperet.precision import float32_products, precision_text, resolved_precision
from sam3_hyperet.report.encoder_radii import blocks_of, csv_of, markdown_of
from sam3_hyperet.report.figures.encoder_radii import encoder_figure

_CSV, _MARKDOWN, _FIGURE = FILES = ("radii.csv", "radii.md", "radii.svg")
_SCALES = {
    "width": "features are divided by the root of the number of channels, for norms grow with it",
    "median": "features are divided by the median norm of their layer, so that all medians are the same",
    "none": "features are taken as they are; norms grow with the number of channels, so sizes do not compare",
}


def main(argv: list[str] | None = None) -> list[LayerRadii]:
    """Run the tool; returns the rows. Names, resolutions and images are checked before an encoder is loaded."""
    _, config = parse_command("radius", argv)
    console = Console(highlight=False)
    limit_megapixels(config.max_megapixels)
    set_threads(config.threads)
    names, sides = encoder_names(config.encoder), _sides(config.resolution)
    files = listed(config.weights)
    if files and len(files) != len(names):
        raise ConfigError(f"weights: {len(files)} files for {len(names)} encoders; expected one each, in their order")
    weights: list[str | None] = [str(file) for file in files] or [None] * len(names)
    run_dir = Path(config.run_dir)
    Manifest(run_dir).check(*FILES)
    paths, lines = _images(config)
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    device = choose_device(config.device)
    precision = resolved_precision(config.precision, device.type)
    console.print(precision_text(config.precision, precision, device.type), markup=False, soft_wrap=True)
    for name, file in zip(names, weights, strict=True):
        for side in sides if not name.startswith("sam3:") else ():  # what cannot be ends here
            check_encoder(name, side, file)
    rows: list[LayerRadii] = []
    options = {"curvature": config.curvature, "scale": config.scale, "batch_size": config.batch_size}
    with float32_products(precision), counted(console, "passes", len(names) * len(sides) * len(paths)) as on_image:
        for name, file in zip(names, weights, strict=True):
            for side in sides:
                encoder = open_encoder(name, side, file, pretrained=config.pretrained, seed=config.seed)
                encoder.model.to(device)
                console.print(_line(encoder), markup=False, soft_wrap=True)
                rows += measure_radii(encoder, paths, precision=precision, on_image=on_image, **options)
    notes = _notes(config, rows, len(paths))
    _write(run_dir, rows, notes)
    print_table(console, _table(rows))
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    console.print(f"wrote {', '.join(FILES)} to {run_dir}", markup=False, soft_wrap=True)
    return rows


def encoder_names(encoder: str | ListConfig) -> list[str]:
    """The encoders of `encoder=timm:A,B,transformers:DIR`: each without a source has that of the one before it."""
    given = encoder if isinstance(encoder, ListConfig) else str(encoder).split(",")
    names: list[str] = []
    source = ""
    for one in (str(name).strip() for name in given):
        before, separator, _ = one.partition(":")
        is_whole = bool(separator) and before in SOURCES
        source = before if is_whole else source
        if not one or not source:
            raise ConfigError(f"encoder={encoder}; expected timm:NAME, transformers:FOLDER_OR_NAME or sam3:NAME")
        names.append(one if is_whole else f"{source}:{one}")
    return list(dict.fromkeys(names))


def _sides(resolution: int | ListConfig) -> list[int]:
    return list(dict.fromkeys(resolution if isinstance(resolution, ListConfig) else [resolution]))


def _images(config: DictConfig) -> tuple[list[Path], list[str]]:
    """The images to measure, all of which open, and lines on those that are left out."""
    found, lines = find_images(config.images), passed_over(config.images)
    count = min(config.max_images or len(found), len(found))
    paths = [found[i * len(found) // count] for i in range(count)]
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(image_size, found):
            pass
        for _ in pool.map(lambda path: read_image(path, upright=True) and None, paths):
            pass
    if count < len(found):
        lines.append(f"{count} of {len(found)} images, evenly picked (max_images=0 takes all)")
    return paths, lines


def _line(encoder: Encoder) -> str:
    parameters = sum(parameter.numel() for parameter in encoder.model.parameters())
    return (
        f"{encoder.name} at {encoder.resolution}: {parameters / 1e6:.3g} M parameters, {len(encoder.blocks)} blocks, "
        f"weights: {encoder.weights}"
    )


def _notes(config: DictConfig, rows: Sequence[LayerRadii], images: int) -> list[str]:
    notes = [
        f"normalised radius: tanh(√c‖v‖/s), c = {config.curvature:g}; scale={config.scale}: {_SCALES[config.scale]}",
        f"of each patch of {images} images, squashed to the resolution; tokens of the class and registers are left out",
        "behind a last LayerNorm norms are what its gains make of them: compare blocks, and spreads, before outputs",
        "spread: (q95 - q05) / q50 of the radius 2‖v‖, whatever c and the scale",
    ]
    if random := sorted({row.encoder for row in rows if row.weights == RANDOM}):
        notes.insert(
            0, f"random weights, whose radii say nothing of published ones: {', '.join(random)}; see pretrained="
        )
    return notes


def _table(rows: Sequence[LayerRadii]) -> Table:
    """Normalised radii behind the last block, and of what an encoder returns, which may be behind a LayerNorm."""
    titles = ("last block: median (5-95 %)", "output: median (5-95 %)")
    table = Table(Column("encoder", overflow="fold"), "pixels", *titles, title="normalised radius")
    for (name, side), layers in blocks_of(rows).items():
        (output,) = (row for row in rows if (row.encoder, row.resolution, row.layer) == (name, side, OUTPUT))
        table.add_row(name, str(side), _cell(layers[-1]), _cell(output))
    return table


def _cell(row: LayerRadii) -> str:
    low, middle, high = (f"{row.statistics[f'normalized_radius/{name}']:.3f}" for name in ("q05", "q50", "q95"))
    return f"{middle} ({low}-{high})"


def _write(run_dir: Path, rows: Sequence[LayerRadii], notes: Sequence[str]) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    Manifest(run_dir).claim(*FILES)
    texts = {
        _CSV: csv_of(rows),
        _MARKDOWN: markdown_of(rows, "Hyperbolic radii of encoders", notes),
        _FIGURE: svg_of(encoder_figure(rows)),
    }
    for name, text in texts.items():
        with replacing(run_dir / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
