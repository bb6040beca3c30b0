"""The command line: one function per command, each a thin face of a library function; model_commands.py has some.

command_line.py turns signatures and docstrings into options. Results go to stdout, progress and errors to stderr;
the exit status is 0 for success, 1 where an image or the whole command failed, 2 for wrong usage.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

from modelscope_reid.app_commands import app
from modelscope_reid.command_line import Commands, Overrides, build_parser, keyword_arguments
from modelscope_reid.config import Layout
from modelscope_reid.errors import InputError, ReidError
from modelscope_reid.gallery_commands import enroll, gallery, identify, search
from modelscope_reid.model_commands import benchmark, convert, export, inspect
from modelscope_reid.runtimes import Precision, RuntimeChoice

if TYPE_CHECKING:
    from modelscope_reid.embedder import Embedder

OnError = Literal["raise", "skip"]
SameCamera = Literal["remove", "keep"]

PROGRAM = "modelscope-reid"


def embed(
    images: list[str],
    *,
    output: str,
    model: str | None = None,
    table: str | None = None,
    distributed: str | None = None,
    on_error: OnError = "skip",
    normalize: bool = False,
    batch_size: int = 32,
    runtime: RuntimeChoice = "auto",
    precision: Precision | None = None,
    device: str | None = None,
    layout: Layout | None = None,
) -> int:
    """Embed images and write the embeddings to a file, one row per image.

    Args:
        images: Image files, URLs, or folders, which are searched to the bottom.
        output: File to write: .npz, .parquet or .jsonl; with --distributed a folder, or an address such as s3://….
        model: Hub id, model folder or checkpoint file; by default the light model that comes with the package.
        table: Instead of images, a table (.csv, .jsonl, .parquet) with path, person_id, camera_id and split; the .npz
            then has the labels too, and evaluate --features reads it.
        distributed: Embed one folder, or an address such as s3://bucket/prefix, by many processes to Parquet tables:
            local, or ray://host:10001 for a cluster of Ray's.
        on_error: Skip images that cannot be read and list them, or stop at the first.
        normalize: Scale each embedding to unit length.
        batch_size: Images that go through the network at once.
        runtime: auto, the fastest exact one here; or torch, openvino, onnxruntime.
        precision: fp32, bf16, fp16; by default fp32, or what an exported folder is in.
        device: cpu, cuda, cuda:1, …; by default the first GPU, or the CPU.
        layout: For a CLIP ViT: clip-reid (1280 numbers) or 1536.
    """
    from modelscope_reid.datasets.image_files import find_images
    from modelscope_reid.tables import check_output, write_embeddings

    if distributed:
        return _embed_collection(
            images, output=output, address=distributed, model=model, runtime=runtime, precision=precision
        )
    check_output(Path(output))
    engine: dict[str, Any] = {"runtime": runtime, "precision": precision, "device": device, "batch_size": batch_size}
    if table:
        _check_table_options(images, output=output, normalize=normalize)
        return _embed_table(table, _open(model, layout=layout, **engine), Path(output))
    sources = find_images(images)
    embedder = _open(model, layout=layout, **engine)
    batches = embedder.stream(sources, on_error=on_error, normalize=normalize, progress=sys.stderr.isatty())
    rows, failures = write_embeddings(output, sources, batches, dim=embedder.embedding_dim)
    for failure in failures:
        print(f"skipped: {failure.reason}", file=sys.stderr)
    print(f"{output}: {rows} embeddings of {embedder.embedding_dim} numbers, {len(failures)} images skipped")
    return 1 if failures else 0


def _check_table_options(images: list[str], *, output: str, normalize: bool) -> None:
    """Raise InputError, before a model is opened, for what --table would ignore."""
    if not output.endswith(".npz"):
        raise InputError(f"--table writes an .npz file, and --output is {output}; name it so.")
    if images or normalize:
        given = f"the image {images[0]!r}" if images else "--normalize"
        raise InputError(f"--table was given beside {given}; a table names its images, and is written as embedded.")


def _embed_collection(images: list[str], *, output: str, address: str, **options: Any) -> int:
    if len(images) != 1:
        raise InputError(f"--distributed was given {len(images)} sources; expected one folder or address.")
    from modelscope_reid.distributed.embedding_run import embed_collection

    report = embed_collection(images[0], output, address=address, progress=sys.stderr.isatty(), **options)
    print(report)
    return 1 if report.failed else 0


def _embed_table(table: str, embedder: Embedder, output: Path) -> int:
    from modelscope_reid.datasets.readers import read_dataset
    from modelscope_reid.feature_store import embed_dataset

    features = embed_dataset(embedder, read_dataset("table", table), progress=sys.stderr.isatty())
    features.save(output)
    print(f"{output}: {len(features.embeddings)} embeddings of {embedder.embedding_dim} numbers with their labels")
    return 0


def compare(
    a: str,
    b: str,
    *,
    model: str | None = None,
    device: str | None = None,
    layout: Layout | None = None,
    json: bool = False,
) -> int:
    """Print the cosine similarity of two images, and same, different or unsure where the model was calibrated.

    Args:
        a: Image file or URL.
        b: Image file or URL.
        model: Hub id, model folder or checkpoint file; by default the light model that comes with the package.
        device: cpu, cuda, cuda:1, …; by default the first GPU, or the CPU.
        layout: For a CLIP ViT: clip-reid (1280 numbers) or 1536.
        json: Print one JSON object instead of the bare number.
    """
    from modelscope_reid.ranking.similarity import cosine_similarity

    embedder = _open(model, device=device, layout=layout)
    vectors = embedder.embed([a, b])
    similarity = float(cosine_similarity(vectors[:1], vectors[1:])[0, 0])
    found: dict[str, Any] = {"a": a, "b": b, "cosine_similarity": similarity}
    text = f"{similarity:.4f}"
    if embedder.verifier:
        judgement = embedder.verifier.judge(similarity)
        found |= {"decision": judgement.decision, "probability": judgement.probability}
        text += f" {judgement.decision} (probability of the same person {judgement.probability:.3f})"
    print(dumps(found) if json else text)
    return 0


def evaluate(
    *,
    model: str | None = None,
    dataset: str = "market1501",
    root: str | None = None,
    features: str | None = None,
    rerank: bool = False,
    flip: bool = False,
    query_expansion: int = 0,
    same_camera: SameCamera = "remove",
    output: str | None = None,
    calibrate: bool = False,
    json: bool = False,
    runtime: RuntimeChoice = "auto",
    precision: Precision | None = None,
    device: str | None = None,
    layout: Layout | None = None,
) -> int:
    """Measure mAP and Rank-k of a model on a dataset, or of embeddings that were saved.

    Args:
        model: Hub id, model folder or checkpoint file; by default the light model that comes with the package.
        dataset: market1501, market1501_500k, msmt17, dukemtmc, occluded_duke, cuhk03_labelled or cuhk03_detected; or
            table or folders for one of your own.
        root: Folder of the dataset, or the file of a table.
        features: Table of embeddings (.npz) to measure instead, without model or dataset.
        rerank: Re-rank by k-reciprocal neighbours (k1 20, k2 6, lambda 0.3).
        flip: Average each embedding with that of the mirror image.
        query_expansion: Average each query with so many of its nearest gallery images.
        same_camera: remove leaves the query's own camera out of its gallery, as the papers do; keep is for one camera.
        output: Folder for report.json, report.md, features.npz and pictures; a stopped run goes on from it.
        calibrate: Save what similarity means same, different or unsure here into the model folder; compare uses it.
        json: Print one JSON object instead of the summary.
        runtime: auto, the fastest exact one here; or torch, openvino, onnxruntime.
        precision: fp32, bf16, fp16; by default fp32, or what an exported folder is in.
        device: cpu, cuda, cuda:1, …; by default the first GPU, or the CPU.
        layout: For a CLIP ViT: clip-reid (1280 numbers) or 1536.
    """
    from modelscope_reid import configuration, feature_store
    from modelscope_reid import evaluation as evaluating
    from modelscope_reid.datasets.readers import read_dataset

    protocol = evaluating.Protocol(same_camera=same_camera, rerank=rerank, flip=flip, query_expansion=query_expansion)
    folder = Path(output) if output else None
    calibrated = _model_folder(model) if calibrate else None
    if features:
        result = evaluating.evaluate_features(feature_store.LabelledFeatures.load(features), protocol=protocol)
        if folder:
            evaluating.write_report(result, folder)
    elif root:
        embedder = _open(model, device=device, layout=layout, runtime=runtime, precision=precision)
        people = read_dataset(dataset, root)
        progress = sys.stderr.isatty()
        result = evaluating.evaluate(embedder, people, protocol=protocol, output=folder, progress=progress)
    else:
        raise InputError("nothing to evaluate: give --root, the folder of the dataset, or --features.")
    if calibrated:
        configuration.write_verifier(calibrated, result.verifier)
    print(dumps(result.ranking.figures()) if json else result.summary())
    return 0


def _model_folder(model: str | None) -> Path:
    """Return the folder that --calibrate writes into; said before the work, not after it."""
    if not model or not Path(model).is_dir():
        raise InputError(f"--calibrate writes into a model folder, and --model is {model}; make one first.")
    return Path(model)


def reproduce(*, root: str, models: str | None = None, json: bool = False, device: str | None = None) -> int:
    """Measure every published model at hand and print our figure beside the published one.

    The exit status is 1 where a row that compares is off by more than 0.2 points of mAP or Rank-1.

    Args:
        root: Folder in which the datasets lie, under their usual names (Market-1501-v15.09.15, MSMT17_V1).
        models: Folder of model folders and weight files named as the table has them; by default models inside root.
        json: Print one JSON object instead of the table.
        device: cpu, cuda, cuda:1, …; by default the first GPU, or the CPU.
    """
    from modelscope_reid import reproduction

    folder = Path(models) if models else Path(root) / "models"
    found = reproduction.reproduce(folder, Path(root), device=device, progress=sys.stderr.isatty())
    print(dumps(found.to_dict()) if json else found)
    return 0 if found.passed else 1


def explain(
    a: str, b: str, *, output: str, model: str | None = None, device: str | None = None, layout: Layout | None = None
) -> int:
    """Draw which regions of two crops agree, and where the model looks.

    Args:
        a: Image file or URL.
        b: Image file or URL.
        output: Picture to write, .png.
        model: Hub id, model folder or checkpoint file; by default the light model that comes with the package.
        device: cpu, cuda, cuda:1, …; by default the first GPU, or the CPU.
        layout: For a CLIP ViT: clip-reid (1280 numbers) or 1536.
    """
    from modelscope_reid import explanation

    found = explanation.explain(_open(model, device=device, layout=layout, runtime="torch"), a, b)
    explanation.draw_explanation(found, Path(output))
    print(f"{output}: cosine similarity {found.similarity:.4f}")
    return 0


def demo(images: list[str], *, model: str | None = None) -> int:
    """Embed sample crops through ModelScope's pipeline and print who is who.

    Args:
        images: Image files or folders; by default crops drawn on the spot.
        model: Hub id or model folder; by default the light model that comes with the package.
    """
    from modelscope_reid.demo import run_demo

    print(run_demo(images, model=model))
    print(f"\nthe page, with drawn people to search: {_typed()} app")
    return 0


def _typed() -> str:
    """Return how this program was called, as it can be typed again."""
    called = Path(sys.argv[0])
    elsewhere = called.name == PROGRAM and shutil.which(PROGRAM) != str(called.absolute())
    return str(called) if elsewhere else PROGRAM


def train(
    recipe: str | None = None,
    *,
    output: str | None = None,
    resume: str | None = None,
    model: str | None = None,
    device: str | None = None,
    overrides: Overrides,
) -> int:
    """Train a model by a recipe, or go on with a run that was stopped.

    Args:
        recipe: Name of a recipe (the command recipes lists them), or a YAML file.
        output: Folder of the run to write: model, report, logs, curves and checkpoints.
        resume: Instead of --output, the folder of a run to go on with; its recipe is kept there.
        model: Hub id, model folder or checkpoint to start from; short for --model.weights.
        device: cpu, cuda, cuda:1, …; by default the first GPU, or the CPU. Several: torchrun --nproc-per-node N -m
            modelscope_reid train …
        overrides: Fields of the recipe, by dotted name.
    """
    given = dict(overrides)
    if model and given.setdefault("model.weights", model) != model:
        raise InputError(f"--model is {model}, and --model.weights {given['model.weights']}; give one of them.")
    folder = _run_folder(recipe, output=output, resume=resume)
    from modelscope_reid.training import recipe_files, run_folder, training_run
    from modelscope_reid.training.loop import processes
    from modelscope_reid.training.training_run import MAY_CHANGE

    progress = sys.stderr.isatty()
    try:
        if resume:
            if recipe:
                named = recipe_files.read_recipe(recipe, given)
                recipe_files.check_same(named, run_folder.RunFolder.reopen(Path(folder)).recipe(), but=MAY_CHANGE)
                given = {name: value for name, value in given.items() if name in MAY_CHANGE}
            result = training_run.resume(folder, overrides=given, device=device, progress=progress)
        else:
            told = str(recipe)
            result = training_run.train(told, output=folder, overrides=given, device=device, progress=progress)
    except KeyboardInterrupt as error:
        started = (Path(folder) / run_folder.RECIPE_FILE).exists()
        raise KeyboardInterrupt(f"; to go on: modelscope-reid train --resume {folder}" if started else "") from error
    if processes()[0] == 0:
        print(result.summary())
    return 0


def _run_folder(recipe: str | None, *, output: str | None, resume: str | None) -> str:
    """Return the folder of the run to start or to go on with."""
    if resume:
        if output and os.path.realpath(output) != os.path.realpath(resume):
            raise InputError(f"--resume {resume} goes on in its own folder, and --output is {output}; leave one out.")
        return resume
    if not recipe or not output:
        missing = "a recipe (modelscope-reid recipes lists them)" if not recipe else "--output, the folder of the run,"
        raise InputError(f"{missing} is not given; expected RECIPE --output RUN, or --resume RUN.")
    return output


def recipes(*, json: bool = False) -> int:
    """List the recipes that train takes by name.

    Args:
        json: Print one JSON object of names and descriptions instead of the table.
    """
    from modelscope_reid.training.recipe_files import recipe_descriptions

    found = recipe_descriptions()
    lines = [fill(f"{name}: {text}", width=100, subsequent_indent="    ") for name, text in found.items()]
    print(dumps(found) if json else "\n".join(lines))
    return 0


def _open(model: str | None, **options: Any) -> Embedder:
    from modelscope_reid.embedder import Embedder

    return Embedder.from_pretrained(model, **options)


COMMANDS: Commands = {
    "embed": (embed, {"images": "*"}),
    "compare": (compare, {"a": "", "b": ""}),
    "inspect": (inspect, {"checkpoint": ""}),
    "convert": (convert, {"checkpoint": ""}),
    "export": (export, {}),
    "benchmark": (benchmark, {"exported": "*"}),
    "evaluate": (evaluate, {}),
    "enroll": (enroll, {"images": "*"}),
    "search": (search, {"queries": "*"}),
    "identify": (identify, {"queries": "*"}),
    "gallery": (gallery, {"action": ""}),
    "app": (app, {}),
    "reproduce": (reproduce, {}),
    "explain": (explain, {"a": "", "b": ""}),
    "train": (train, {"recipe": "?"}),
    "recipes": (recipes, {}),
    "demo": (demo, {"images": "*"}),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    # PyTorch's threads spin while they wait: two processes on two cores then do 0.4 of one's work, asleep 1.7 of it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its retries end in our own error
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser(COMMANDS, arguments).parse_args(arguments)
    function, _ = COMMANDS[options.command]
    try:
        return function(**keyword_arguments(options[options.command], function))
    except ReidError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"interrupted{error}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
