"""Fit a small Flamingo reader on phantoms, episode by episode: resumable, the same bits on a CPU for a seed and thread count.

python -m causal_cxr.readers.flamingo.fit --device cuda --steps 20000 --minutes 9 --images 40000 --out runs/flamingo-reader
"""

import argparse
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from causal_cxr.data.phantom import Phantom
from causal_cxr.fitting import Log, ResumableFit, cosine
from causal_cxr.readers.flamingo.learner import Learner
from causal_cxr.readers.flamingo.model import small_idefics, small_tokenizer
from causal_cxr.readers.flamingo.prompt import Template
from causal_cxr.readers.flamingo.tasks import HELD_OUT, Tasks, signs_of, training_world
from causal_cxr.readers.quality import auroc

WARM_UP = 200
SAVED_EVERY = 500
EMA = 0.998
MEAN, STD = 0.5, 0.25  #: of the pixels, for a model of our own
SHOTS = (0, 4, 8, 16)


def fit_flamingo_reader(
    tasks: Tasks,
    model: Any,
    tokenizer: Any,
    template: Template,
    *,
    steps: int,
    seed: int = 0,
    batch_size: int = 128,
    exemplars: int = 16,
    learning_rate: float = 1.5e-3,
    train: Literal["all", "gated"] = "all",
    mean: float = MEAN,
    std: float = STD,
    checkpoint: Path | None = None,
    minutes: float | None = None,
    watched: Tasks | None = None,
    recipe: tuple[object, ...] = (),
) -> int:
    """Fit ``model`` in place, to its averaged weights; on the device on which the tasks' images are.

    Args:
        tasks: episodes to fit on.
        model: ``IdeficsForVisionText2Text``.
        tokenizer: its own.
        template: of the questions.
        steps: of ``batch_size`` episodes.
        seed: of heads and episodes.
        batch_size: episodes a step.
        exemplars: most that an episode shows; every smaller number is learnt along.
        learning_rate: at its highest.
        train: ``"all"``, or ``"gated"``: the language model and the vision tower stay frozen, as Flamingo's are; the
            perceiver, the gated cross-attention and tokens added to the vocabulary are fitted.
        mean, std: of the pixels that the model awaits.
        checkpoint: folder for resumable state; a killed fit goes on from it.
        minutes: of wall time, by which the fit ends, its learning rate lowered in time (then the result depends on the
            machine).
        watched: episodes about signs that are held out, to log how well they are read.
        recipe: what else the fit depends on: the data.

    Returns:
        steps done.
    """
    from rich.progress import Progress

    device = tasks.images.device
    torch.manual_seed(seed)
    signs = tasks.signs.shape[1] if train == "all" else 0
    learner = Learner(model, tokenizer, tasks.wordings, template, mean=mean, std=std, signs=signs).to(device).train()
    trained = trainable(learner, train)
    fit = ResumableFit(
        trained,
        torch.optim.AdamW(list(trained.values()), lr=learning_rate, weight_decay=0.02, betas=(0.9, 0.98)),
        decay=EMA,
        folder=checkpoint,
        recipe=(steps, seed, batch_size, exemplars, learning_rate, train, tasks.wordings, template.to_dict(), *recipe),
    )
    log = Log(None if checkpoint is None else checkpoint / "loss.jsonl", fit.step)
    spent = float(fit.extra.get("seconds", torch.zeros(())))
    begun, parts = time.monotonic() - spent, list[dict[str, Tensor]]()
    with Progress(transient=True) as progress:
        bar = progress.add_task("fitting the Flamingo reader", total=steps, completed=fit.step)
        for step in range(fit.step, steps):
            done = step / steps
            if minutes is not None:
                done = max(done, (time.monotonic() - begun) / (60 * minutes))
            if done >= 1:
                break
            # One generator a step: a resumed fit draws what the uninterrupted one would have drawn.
            generator = torch.Generator(device).manual_seed(int(np.random.default_rng([seed, step]).integers(2**62)))
            episode, truth = tasks.draw(batch_size, exemplars + 1, generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss, told = learner(episode, truth)
            rate = cosine(round(done * steps), steps, 1) * min(1.0, (step + 1) / WARM_UP)
            fit.descend(loss, learning_rate * rate)
            parts.append({name: part.detach() for name, part in told.items()})
            progress.update(bar, advance=1)
            if fit.step % SAVED_EVERY == 0:
                fit.extra["seconds"] = torch.tensor(time.monotonic() - begun)
                fit.save()
                entry = {name: float(torch.stack([p[name] for p in parts]).mean()) for name in parts[0]}
                if watched is not None:
                    entry |= watch(learner, watched, exemplars + 1, seed)
                log.add(step=fit.step, minutes=round((time.monotonic() - begun) / 60, 2), **entry)
                print(fit.step, {name: round(value, 3) for name, value in entry.items()}, flush=True)
                parts = []
    fit.extra["seconds"] = torch.tensor(time.monotonic() - begun)
    fit.save()
    fit.smooth()
    model.eval()
    return fit.step


def trainable(learner: Learner, train: str) -> dict[str, Tensor]:
    """The weights that are fitted, by name; the others no longer ask for gradients."""
    gated = ("perceiver_resampler", "gated_cross_attn_layers", "additional_", "compared", "scale")
    if train not in ("all", "gated"):
        raise ValueError(f'train is "all" or "gated", got {train!r}.')
    for name, p in learner.named_parameters():
        unused = "vision_model.post_layernorm" in name  # of a pooled output that Idefics does not read
        p.requires_grad_(not unused and (train == "all" or any(part in name for part in gated)))
    return {name: p for name, p in learner.named_parameters() if p.requires_grad}


@torch.no_grad()
def watch(learner: Learner, tasks: Tasks, k: int, seed: int, episodes: int = 64) -> dict[str, float]:
    """AUROC of signs in a pool after some exemplars, mean over signs: of answers, and of the comparing head."""
    learner.eval()
    generator = torch.Generator(tasks.images.device).manual_seed(seed)
    shots = [shot for shot in SHOTS if shot < k]
    names = [f"{what}_{shot}" for what in ("auroc", "compared") for shot in shots]
    told: dict[str, list[float]] = {name: [] for name in names}
    for task in range(tasks.basic):
        episode, _ = tasks.draw(episodes, k, generator, task=task)
        with torch.autocast(episode.images.device.type, torch.bfloat16, enabled=episode.images.is_cuda):
            states = learner.states(episode.images)
            logits = learner.answer(states, episode).float()
            nearer, _ = learner.compare(states, episode.answers)
        margin, truth = (
            (logits[..., learner.yes] - logits[..., learner.no]).cpu().numpy(),
            episode.answers.cpu().numpy(),
        )
        for shot in shots:
            told[f"auroc_{shot}"].append(auroc(margin[:, shot], truth[:, shot]))
            told[f"compared_{shot}"].append(auroc(nearer[:, shot].float().cpu().numpy(), truth[:, shot]))
    learner.train()
    return {name: float(np.nanmean(values)) for name, values in told.items()}


def pool(phantom: Phantom, device: str | torch.device, batch: int = 1000) -> Tensor:
    """``(n, h, w)`` all images of a phantom, half precision, on one device."""
    rows = np.arange(len(phantom))
    parts = [phantom.images(rows[i : i + batch])[:, 0].half() for i in range(0, len(rows), batch)]
    return torch.cat(parts).to(device)


def main() -> None:
    """Fit on phantoms without the held-out signs, resumable, and write the reader with its model card."""
    from causal_cxr.data.phantom import VERSION
    from causal_cxr.readers.flamingo.measure import measured
    from causal_cxr.readers.flamingo.reader import FlamingoReader

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--exemplars", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--minutes", type=float, help="of wall time, by which the fit ends")
    parser.add_argument("--vision-width", type=int, default=128)
    parser.add_argument("--vision-layers", type=int, default=4)
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--latents", type=int, default=16)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=9_001)
    parser.add_argument("--judged", type=int, default=1_500, help="images that each held-out sign is judged on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    begun = time.monotonic()
    phantom = Phantom(args.images, training_world(), seed=args.seed)
    tasks = Tasks(pool(phantom, args.device), signs_of(phantom), seed=args.seed)
    other = Phantom(2_000, "independent", seed=args.seed + 1)
    held_out = [name for name in map(str, signs_of(other)) if name.split(" = ")[0] in HELD_OUT]
    watched = Tasks(pool(other, args.device), signs_of(other)[held_out], made_up=0, compositions=0, named=0)
    print(f"drawn in {time.monotonic() - begun:.0f} s", flush=True)
    torch.manual_seed(args.seed)
    template = Template()
    tokenizer = small_tokenizer(tasks.wordings, template)
    model = small_idefics(
        tokenizer, patch=args.patch, vision_width=args.vision_width, vision_layers=args.vision_layers,
        latents=args.latents, width=args.width, layers=args.layers,
    )  # fmt: skip
    weights = sum(p.numel() for p in model.parameters())
    print(f"{weights / 1e6:.2f} million weights", flush=True)
    begun = time.monotonic()
    steps = fit_flamingo_reader(
        tasks, model, tokenizer, template, steps=args.steps, seed=args.seed, batch_size=args.batch,
        exemplars=args.exemplars, learning_rate=args.learning_rate, checkpoint=args.out / "checkpoint",
        minutes=args.minutes, watched=watched, recipe=(phantom.fingerprint,),
    )  # fmt: skip
    minutes = (time.monotonic() - begun) / 60
    reader = FlamingoReader(
        model.to("cpu"), tokenizer, (), template=template, mean=(MEAN,) * 3, std=(STD,) * 3,
        fitted_on=frozenset(phantom.patients), renderer_version=VERSION,
    )  # fmt: skip
    reader.save(args.out)
    table = measured(reader.to(args.device), args.judged, seed=args.seed + 2)
    print(table, flush=True)
    table.to_json(args.out / "held_out.json", indent=1)
    shown = ("out", "device", "judged")
    options = {name.replace("_", "-"): value for name, value in vars(args).items() if name not in shown}
    command = " ".join(f"--{name} {value}" for name, value in options.items() if value is not None)
    machine = torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU"
    (args.out / "card.md").write_text(
        f"""# Flamingo reader of the phantoms

- data: `Phantom({args.images}, training_world(), seed={args.seed})`, 64x64, renderer version {VERSION}; synthetic, no patients
- model: transformers' Idefics of {weights / 1e6:.2f} million weights, with a tokenizer of {len(tokenizer)} tokens; there is
  no pretrained language model of this size, so all of it was fitted from scratch, none of it frozen
- episodes: signs of the phantom (named or as "this sign"), functions of two, made-up marks and tones, 0 to
  {args.exemplars} exemplars
- never drawn, named or asked about in the fit: {", ".join(HELD_OUT)}
- steps: {steps} of {args.batch} episodes, AdamW, averaged weights; {minutes:.0f} minutes on {machine}
- seed: {args.seed}
- command: `python -m causal_cxr.readers.flamingo.fit {command} --device {args.device} --out DIR`
- not for: real radiographs, clinical use

AUROC of the signs held out, asked about as "this sign", by number of exemplars (half of them with the sign; mean over
{table.attrs["draws"]} draws of exemplars), on `Phantom({args.judged}, "independent", seed={args.seed + 3})`:

```
{table.round(3).to_string()}
```
"""
    )


if __name__ == "__main__":
    main()
