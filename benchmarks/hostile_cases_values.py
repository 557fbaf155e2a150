"""Try values of keys and options (C2, D9)."""

from __future__ import annotations

import os

from hostile_cases import Place, Try, tries
from hostile_cases_recipes import check
from hostile_cases_verdicts import either, refused, right, sound

# Changes whose key the message must name.
_VALUES = (
    *("run.seed=4294967296", "run.seed=18446744073709551616", "run.seed=-1", "run.seed=1.5", f"run.seed={10**400}"),
    *(
        "run.timeout_s=99999999999999",
        "run.timeout_s=10000000000000000000000",
        "run.timeout_s=0",
        "run.timeout_s=1e999",
    ),
    *(
        "views.both.brightness=1e999",
        "views.both.contrast=-1e999",
        "views.both.saturation=1e400",
        "views.both.hue=1e999",
    ),
    *("views.a.blur_sigma_px=[0.1, 1e999]", "views.b.crop_ratio=[1, 1e999]", "views.both.crop_scale=[0.1, 1e999]"),
    *("views.both.crop_ratio=[1e-300, 1e300]", "views.both.std=[1e999, 1, 1]", "views.both.mean=[1e999, 0, 0]"),
    *("views.both.std=[0, 1, 1]", "views.both.std=[-1, 1, 1]", "views.both.std=[1e-320, 1, 1]", "views.both.mean=[]"),
    *("views.both.blur_sigma_px=[1, 1e30]", "views.both.blur_sigma_px=[2, 1]", "views.both.crop_scale=[0, 1]"),
    *("views.both.size_px=100000", "views.a.size_px=1000000000", "views.both.size_px=0", "views.both.jitter_p=1e999"),
    *("optim.weight_decay=1e300", "optim.lr_weights=1e300", "optim.lr_biases=1e999", "optim.eta=1e300"),
    *("optim.momentum=1", "optim.momentum=-1e999", "optim.warmup_epochs=1e999", "optim.final_lr_scale=1e999"),
    *("optim.global_batch_size=1000000000000000000", "optim.accumulation_steps=1000000000000"),
    *("model.projector=[1000000000000]", "model.projector=[1000000, 1000000, 1000000]", "model.projector=[0]"),
    *(
        "model.projector=[1e3]",
        "model.projector=[]",
        "model.projector=[9, 99999999999999999999]",
        "model.in_chans=1000000000",
    ),
    *("loss.lambda_param=1e300", "loss.lambda_param=1e999", "loss.lambda_param=-1", "loss.lambda_param=abc"),
    *(
        "data.prefetch=100000",
        "data.prefetch=1000000000000",
        "data.num_threads=100000",
        "data.num_threads=1000000000000",
    ),
    *("data.max_pixels=1000000000000", "data.prefetch=0", "data.hw_decoder_load=1e999"),
    *("eval.knn_temperature=1e999", "eval.knn_temperature=1e-320", "eval.probe_lr=1e300", "eval.probe_lr=1e999"),
    *("eval.batch_size=1000000000000", "run.output_dir=" + "a" * 100_000, "data.train=" + "b" * 100_000),
    *("model.backbone=torchvision/" + "c" * 100_000, "run.output_dir=a\0b", "data.train=a\0b", "run.output_dir=''"),
    *("optim.epochs=" + "[" * 3000 + "]" * 3000, "optim.epochs=" + "{a: " * 3000 + "1" + "}" * 3000),
    *(
        "optim.epochs=&a [*a]",
        "optim.epochs=*a",
        "optim.epochs=!!python/name:os.system",
        "optim.epochs=[1",
        "optim.epochs=",
    ),
    *(
        "optim.epochs.a.b=1",
        "views.preset=1e999",
        "views.preset=[x]",
        "views.both=3",
        "run.trackers=[tensorboard, nope]",
    ),
    *("run.trackers=tensorboard", "run.resume=a\0b", "model.stem=small", "optim.epochs=true", "optim.epochs=0x10"),
)


def _value(place: Place, change: str) -> None:
    """Change a key. `check` and `pretrain` must refuse it by its key, before anything is written."""
    key = change.partition("=")[0]
    names = (
        key,
        key.rpartition(".")[2],
        ".".join(key.split(".")[:2]),
        *(["channels"] if key == "model.in_chans" else []),
    )
    extra = ("model.backbone=torchvision/vgg11",) if change == "model.stem=small" else ()
    # The usual batch and prefetch, instead of those of the small recipe.
    usual = ("optim.global_batch_size=256",) if change.startswith("data.prefetch") else ()
    result = check(place, *extra, *usual, change)
    if result.code == 0 and change.startswith(("data.train=", "data.prefetch", "data.num_threads", "eval.batch_size")):
        sound(result)  # these depend on the data or the machine, so only pretrain refuses them
    else:
        refused(result, names)
    result = place.bt("pretrain", place.recipe, "run.output_dir=run", *extra, change, limit=40)
    if change.startswith(("data.", "eval.batch_size")) and result.code == 0:
        sound(result)  # accepted as intended, within its limits
    else:
        refused(result, names)
        right(not (place.folder / "run").exists(), "a run was started")


def _option(place: Place, arguments: tuple[str, ...], needle: str) -> None:
    """Use wrong values of other options, and texts that are not changes."""
    place.classes()
    os.mkdir(place.folder / "empty")
    texts = [text.replace("RECIPE", str(place.recipe)) for text in arguments]
    result = place.bt(*texts, limit=30)
    if needle in ("knn.k", "batch_size") or "100000" in texts:
        either(result, needle)  # all of them
    else:
        refused(result, needle)


_OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "scan in 100,000 threads": (("scan", "images", "-o", "s", "--num-threads", "100000"), "--num-threads"),
    "scan in no thread": (("scan", "images", "-o", "s", "--num-threads", "0"), "--num-threads"),
    "scan in -1 threads": (("scan", "images", "-o", "s", "--num-threads", "-1"), "--num-threads"),
    "scan of no pixels": (("scan", "images", "-o", "s", "--max-pixels", "-5"), "--max-pixels"),
    "a world of 10^30": (("check", "RECIPE", "--world-size", str(10**30)), "--world-size"),
    "no images": (("check", "RECIPE", "--num-images", "-3"), "--num-images"),
    "a bench of infinity": (("bench", "RECIPE", "--seconds", "inf"), "--seconds"),
    "a bench of NaN": (("bench", "RECIPE", "--seconds", "nan"), "--seconds"),
    "a map of -1": (("report", "x", "--map-images", "-1"), "--map-images"),
    "a seed of 2^70": (
        ("knn", "torchvision/resnet18", "--seed", str(2**70), "data.train=images", "data.val=images"),
        "seed",
    ),
    "a seed of -2^70": (
        ("knn", "torchvision/resnet18", "--seed", str(-(2**70)), "data.train=images", "data.val=images"),
        "seed",
    ),
    "k of 10^30": (("knn", "pixels", f"knn.k={10**30}", "data.train=images", "data.val=images"), "knn.k"),
    "a fraction of NaN": (
        ("finetune", "pixels", "finetune.fraction=1e999", "data.train=images", "data.val=images"),
        "fraction",
    ),
    "a view of 10^6": (
        ("knn", "pixels", "view.size_px=1000000", "view.resize_px=1000000", "data.train=images", "data.val=images"),
        "view.",
    ),
    "a resize of 10^6": (("knn", "pixels", "view.resize_px=1000000", "data.train=images", "data.val=images"), "view."),
    "a mean of infinity": (("knn", "pixels", "view.mean=[1e999,0,0]", "data.train=images", "data.val=images"), "view."),
    "a batch of 10^12": (
        ("knn", "pixels", f"run.batch_size={10**30}", "data.train=images", "data.val=images"),
        "batch_size",
    ),
    "a change without a section": (("check", "RECIPE", "seed=3"), "seed=3"),
    "a change of points": (("check", "RECIPE", "..=1"), "..=1"),
    "a change of 10^5 points": (("check", "RECIPE", "a." * 100_000 + "b=1"), "section"),
    "a change of nothing": (("check", "RECIPE", "=1"), "=1"),
    "escapes in a change": (("check", "RECIPE", "run.\x1b[2J=1"), "run."),
    "a file instead of a change": (("check", "RECIPE", "images"), "images"),
    "an empty folder": (("check", "RECIPE", "data.train=empty"), "empty"),
}


def all_tries() -> list[Try]:
    """Return the tries of these kinds."""
    found = []
    for change in _VALUES:
        row = "C2" if change.startswith(("data.prefetch", "data.num_threads", "eval.batch")) else "D9"
        name = change.replace("\0", "NUL")
        found += tries(row, {name if len(name) < 60 else f"{name[:40]} ... ({len(name)} letters)": change}, _value)
    for name, case in _OPTIONS.items():
        found += tries("C2" if "threads" in name else "D9", {name: case}, _option)
    return found
