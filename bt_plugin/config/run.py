"""The recipe's sections `run` and `eval`: processes, checkpoints, logs, and evaluation during the run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bt_plugin.config.section import PathText, Positive, Rate, Section, Temperature


class ProcessOptions(Section):
    """How the processes of a run are started and joined. Pretraining and evaluation share these keys."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the initial weights, the order of the images and the augmentations."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device of the training and of DALI. `auto` is `gpu` if torch finds a GPU, else `cpu`."""
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = "auto"
    """Precision of the backbone and the projector. `auto` takes it from `accelerate launch`. `fp16` is not allowed
    on a CPU or with FSDP. The loss is always computed in float32."""
    timeout_s: Annotated[int, Field(ge=1, le=30 * 24 * 3600)] = 1800
    """Seconds that a rank waits for another rank. After that the run stops, so that no rank waits forever."""
    deterministic: bool = False
    """Whether torch uses only deterministic algorithms. A repeated run is then bit-identical, and slower on a GPU."""
    gradient_as_bucket_view: bool = True
    """Whether gradients are stored directly in the buffers that the ranks exchange. This saves one copy of them."""
    static_graph: bool = False
    """Whether DistributedDataParallel may assume the same graph in every step. Not allowed with
    `optim.accumulation_steps` above 1."""


class Run(ProcessOptions):
    """The run: its directory, device, checkpoints and logs."""

    output_dir: PathText
    """Directory of the run. Every run needs its own."""
    log_every_steps: Positive = 10
    """Steps between two lines of metrics.jsonl."""
    trackers: list[Literal["tensorboard", "trackio", "wandb", "mlflow"]] = ["tensorboard"]
    """Trackers that the run logs to, in addition to metrics.jsonl. `[]`: none."""
    checkpoint_every_steps: Positive | None = None
    """Steps between two checkpoints. `null`: one checkpoint per epoch."""
    keep_checkpoints: Positive = 2
    """Number of checkpoints to keep. Older ones are removed. With `optim.schedule=wsd` the one of the last stable step
    is kept, too."""
    resume: PathText = "latest"
    """Checkpoint to resume from. `latest`: the newest one of this run, or a fresh start if there is none. `never`: a
    directory that contains a run is an error. Else: the path of a checkpoint of this run."""
    on_world_change: Literal["refuse", "epoch", "continue"] = "refuse"
    """What to do if the number of ranks differs from that of the checkpoint, and the checkpoint is in the middle of an
    epoch. `refuse`: stop with an error. `epoch`: resume from the newest checkpoint at the end of an epoch. `continue`:
    resume at this step with the same global batches, and with new random states."""
    max_nonfinite_steps: Annotated[int, Field(ge=0)] = 10
    """Consecutive steps with a NaN or infinite loss or gradient that are allowed. All ranks skip the update of such a
    step. One more stops the run."""
    capture_nonfinite: bool = False
    """Whether the first non-finite step is written to RUN/nonfinite, from which `bt-plugin replay` runs it again. The
    host then waits for each step."""
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    """Memory layout of weights and images. `auto` is `channels_last` on a GPU or with `run.compile`, else a choice for
    each layer. FSDP keeps weights contiguous."""
    compile: bool = False
    """Whether `torch.compile` compiles the backbone and the projector. The first step then takes a minute or more."""
    max_steps: Positive | None = None
    """Stop after this many steps, for trials. The schedule still spans all epochs. `null`: train all epochs."""


class Eval(Section):
    """Evaluation during a run and at its end."""

    every_epochs: Positive | None = None
    """Epochs between two evaluations during training: kNN, an online linear probe, and metrics that need no labels.
    The weights of the run are bit-identical with and without evaluation. `null`: no evaluation during training."""
    online_images: Annotated[int, Field(ge=2, le=10**9)] = 2048
    """Images of `data.train`, and as many of `data.val`, that an evaluation during training uses, 2 or more and one for
    each rank. If there are more, a random subset is drawn."""
    probe_lr: Rate = 0.1
    """Learning rate of the online linear probe."""
    knn: bool = True
    """Whether the run ends with a kNN evaluation on `data.val`."""
    knn_k: Positive = 20
    """Number k of nearest neighbors that vote."""
    knn_temperature: Temperature = 0.1
    """Temperature of the vote of a neighbor, whose weight is exp(cosine similarity / temperature)."""
    knn_bank_images: Positive = 50_000
    """Training images among which neighbors are searched. If there are more, a random subset is drawn."""
    batch_size: Positive = 256
    """Images per forward pass of an evaluation, on each rank."""
