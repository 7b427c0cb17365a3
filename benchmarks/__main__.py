"""The commands; each prints tables and, with --out, keeps them for docs/speed.md."""

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from benchmarks import contestants, speed
from benchmarks.report import machine, publish
from softgate_pose import list_models, list_pretrained

RIVALS = ("hourglass_8s", "hrnet_w32", "hrnet_w48", "simple_baseline", "vitpose_s")
OURS = ("sgpose_0m5_1s", "sgpose_1m9_2s", "sgpose_3m4_2s", "sgpose_small_4s", "sgpose_wide_4s")
FORMS = tuple(
    f"sgpose_small_4s+{form}" for form in ("deploy", "deploy+bf16", "deploy+onnx", "deploy+int8", "openvino+bf16")
)
EXAMPLES = Path(__file__).parent.parent / "examples"


def _settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that all commands share; the command is given a ``Setting`` and a folder or None."""

    @functools.wraps(command)
    def wrapper(size: int, threads: int, device: str, out: Path | None, **options: Any) -> None:
        setting = contestants.Setting((size, size), threads, device)
        setting.apply()
        try:
            tables = command(setting=setting, out=out, **options)
        except (ValueError, RuntimeError, ImportError) as error:
            raise click.ClickException(str(error)) from error
        publish(command.__name__.removeprefix("_"), tables, machine(device, threads), out)

    for option in (
        click.option("--out", type=click.Path(path_type=Path), help="Folder for JSON, CSV and pictures."),
        click.option("--device", default="cpu", show_default=True, help="cpu or cuda."),
        click.option("--threads", default=2, show_default=True, help="Of the CPU, for every runtime."),
        click.option("--size", default=256, show_default=True, help="Side of the input images."),
    ):
        wrapper = option(wrapper)
    return wrapper


_rounds = click.option("--rounds", default=31, show_default=True, help="At most so many.")
_seconds = click.option("--seconds", default=120.0, show_default=True, help="Budget of each batch size.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def main() -> None:
    """Measure speed and memory, ours and other networks', in one run and in turns."""


@main.command("speed")
@click.argument("names", nargs=-1)
@click.option("--batches", default="1,32", show_default=True, help="Batch sizes.")
@click.option("--reference", help="What ratios are to.  [default: the first]")
@click.option("--ratio", "pairs", multiple=True, metavar="A/B", help="Also how many times as fast A is as B.")
@_rounds
@_seconds
@_settings
def _speed(
    names: tuple[str, ...],
    batches: str,
    reference: str | None,
    pairs: tuple[str, ...],
    rounds: int,
    seconds: float,
    setting: contestants.Setting,
    out: Path | None,
) -> list[speed.Table]:
    """Latency and throughput of NAMES: NAME[+FORM...].

    Names are those of the zoo, with or without a tag, and hrnet_w32, hrnet_w48, simple_baseline and
    vitpose_s. Forms: deploy, bf16, nchw, compile, onnx, int8, openvino.
    """
    chosen = names or (*RIVALS, *OURS, *FORMS)
    present = []
    for name in chosen:
        package = contestants.missing_package(name)
        if package is None:
            present.append(name)
        else:
            click.echo(f"{name} is left out: {package} is not installed.", err=True)
    if not present:
        raise ValueError("No network is left to measure.")
    reference = reference or present[0]
    wanted = [tuple(pair.split("/")) for pair in pairs]
    unknown = {name for pair in [(reference,), *wanted] for name in pair} - set(present)
    if unknown or any(len(pair) != 2 for pair in wanted):
        raise ValueError(f"--reference and --ratio take names that are measured, as A/B; got {reference}, {pairs}.")
    ready = []
    for name in present:
        click.echo(f"building {name}", err=True)
        ready.append(contestants.build(name, setting))
    times = {}
    for batch in map(int, batches.split(",")):
        click.echo(f"batch {batch}", err=True)
        times[batch] = speed.measure(ready, setting, batch=batch, rounds=rounds, seconds=seconds)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        speed.write_rounds(times, out / "rounds.csv")
        if 1 in times:
            speed.draw(ready, times[1], out / "speed.png")
    tables = [speed.speed_table(ready, times, reference)]
    return tables + ([speed.ratio_table(wanted, times)] if wanted else [])


@main.command("profile")
@click.argument("names", nargs=-1)
@click.option("--batch", default=1, show_default=True)
@click.option("--repeats", default=9, show_default=True)
@_settings
def _profile(names: tuple[str, ...], batch: int, repeats: int, setting: contestants.Setting, out: Path | None) -> Any:
    """Where the time of a forward pass goes, by kind of operation, for NAMES as in speed."""
    from benchmarks.profiling import profile_table

    chosen = names or ("sgpose_small_4s+nchw", "sgpose_small_4s", "sgpose_small_4s+deploy")
    return [profile_table(chosen, setting, batch=batch, repeats=repeats)]


@main.command("limits")
@click.argument("names", nargs=-1)
@click.option("--batch", default=32, show_default=True)
@_rounds
@_seconds
@_settings
def _limits(
    names: tuple[str, ...], batch: int, rounds: int, seconds: float, setting: contestants.Setting, out: Path | None
) -> Any:
    """What share of the machine's arithmetic and memory NAMES, as in speed, reach."""
    from benchmarks.limits import limits_tables

    chosen = names or ("sgpose_small_4s", "sgpose_small_4s+deploy", "sgpose_small_4s+deploy+bf16")
    return limits_tables(chosen, setting, batch=batch, rounds=rounds, seconds=seconds)


@main.command("decoding")
@click.option("--people", default=128, show_default=True)
@click.option("--model", default="sgpose_0m5_1s", show_default=True, help="What the decoder is compared with.")
@click.option("--rounds", default=9, show_default=True)
@_seconds
@_settings
def _decoding(
    people: int, model: str, rounds: int, seconds: float, setting: contestants.Setting, out: Path | None
) -> Any:
    """Decoding with DARK beside a NumPy loop over the joints, and beside a forward pass."""
    from benchmarks.decoding import decoding_table

    network = contestants.build(model, setting)
    return [decoding_table(network, setting, people=people, rounds=rounds, seconds=seconds)]


@main.command("memory")
@click.argument("names", nargs=-1)
@click.option("--batch", default=8, show_default=True)
@_settings
def _memory(names: tuple[str, ...], batch: int, setting: contestants.Setting, out: Path | None) -> Any:
    """Peak memory in inference and training, by default of all our models."""
    from benchmarks.memory import memory_table

    chosen = names or (*list_models(), "sgpose_small_4s+deploy", "sgpose_small_4s+deploy+bf16")
    return [memory_table(chosen, setting, batch=batch)]


@main.command("photos")
@click.argument("names", nargs=-1)
@click.option("--count", default=1000, show_default=True)
@_settings
def _photos(names: tuple[str, ...], count: int, setting: contestants.Setting, out: Path | None) -> Any:
    """Predict over a folder of photos, with the time of each stage."""
    from benchmarks.photos import make_photos, photos_table

    first = list_pretrained()[0]
    tables = []
    for name in names or (first, f"{first}+deploy"):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "photos"
            (boxes,) = json.loads((EXAMPLES / "boxes.json").read_text(encoding="utf-8")).values()
            found = make_photos(EXAMPLES / "photo.jpg", boxes, place, count)
            tables.append(photos_table(name, setting, place, found))
    return tables


@main.command("accuracy")
@click.argument("name", required=False)
@click.option("--data", required=True, help="KIND:FOLDER:SPLIT to measure on.")
@click.option("--calibration", required=True, help="KIND:FOLDER:SPLIT for the ranges of 8-bit integers.")
@_settings
def _accuracy(name: str | None, data: str, calibration: str, setting: contestants.Setting, out: Path | None) -> Any:
    """What bf16 and 8-bit integers cost, of weights NAME."""
    from benchmarks.accuracy import accuracy_table
    from softgate_pose.data.sources import read_people

    return [accuracy_table(name or list_pretrained()[0], read_people(data), read_people(calibration), setting)]


if __name__ == "__main__":
    main()
