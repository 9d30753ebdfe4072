"""Inverted images on disk."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from causal_cxr.editors.diffusion import abductions as module
from causal_cxr.editors.diffusion.abductions import Abductions
from causal_cxr.editors.diffusion.denoiser import Captioned, Condition, Denoiser
from causal_cxr.editors.diffusion.inversion import DDIM, Coupled, Offsets
from causal_cxr.editors.diffusion.process import Process


class Halving(Denoiser):
    """Says half of what it sees."""

    def output(self, x: Tensor, t: float, condition: Condition) -> Tensor:
        self.ledger.forward += len(x)
        return 0.5 * x


IMAGE = torch.rand(2, 4, 2, 2, generator=torch.Generator().manual_seed(0))
TEXT = Condition(torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(1)))
PLAIN = {"weights": "w", "seeds": [1, 2]}


@pytest.fixture
def denoiser():
    return Halving(None, Process("flow"))


@pytest.fixture
def source(denoiser):
    return Captioned(denoiser, TEXT)


def noise() -> Tensor:
    return torch.ones_like(IMAGE)


def test_an_image_is_inverted_once_and_comes_back_to_the_bit(source, tmp_path):
    cache, method = Abductions(tmp_path / "deep" / "er"), Offsets(3)
    first = cache.invert(method, source, IMAGE, noise, **PLAIN)
    spent = source.denoiser.ledger.forward
    again = Abductions(tmp_path / "deep" / "er").invert(method, source, IMAGE, noise, **PLAIN)
    assert source.denoiser.ledger.forward == spent
    assert again.times == first.times
    assert all(map(torch.equal, again.latents, first.latents))
    assert again.kept.keys() == first.kept.keys()
    assert all(torch.equal(again.kept[name], first.kept[name]) for name in first.kept)
    assert [file.suffix for file in (tmp_path / "deep" / "er").iterdir()] == [".safetensors"]


def test_whatever_the_result_depends_on_is_inverted_anew(source, tmp_path):
    cache, base = Abductions(tmp_path), (Coupled(3), source, IMAGE)
    other = IMAGE.clone()
    other[0, 0, 0, 0] += 1e-6
    variants = [
        (base, PLAIN),
        ((Coupled(4), *base[1:]), PLAIN),
        ((DDIM(3), *base[1:]), PLAIN),
        ((base[0], source, other), PLAIN),
        ((base[0], replace(source, condition=Condition(TEXT.text + 1e-3)), IMAGE), PLAIN),
        ((base[0], replace(source, condition=Condition(TEXT.text, TEXT.text)), IMAGE), PLAIN),
        ((base[0], Captioned(source.denoiser, TEXT, TEXT, 3.0), IMAGE), PLAIN),
        ((base[0], replace(source, denoiser=Halving(None, Process("flow"), torch.bfloat16)), IMAGE), PLAIN),
        (base, PLAIN | {"weights": "v"}),
        (base, PLAIN | {"seeds": [1, 3]}),
    ]
    for count, ((method, field, image), options) in enumerate(variants, start=1):
        cache.invert(method, field, image, noise, **options)
        assert len(list(tmp_path.iterdir())) == count


def test_files_of_an_earlier_format_are_not_found(source, tmp_path, monkeypatch):
    Abductions(tmp_path).invert(Coupled(2), source, IMAGE, noise, **PLAIN)
    spent = source.denoiser.ledger.forward
    monkeypatch.setattr(module, "FORMAT", module.FORMAT + 1)
    Abductions(tmp_path).invert(Coupled(2), source, IMAGE, noise, **PLAIN)
    assert source.denoiser.ledger.forward == 2 * spent


def test_a_write_that_is_cut_short_leaves_nothing_behind(source, tmp_path, monkeypatch):
    def cut(tensors, file):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", cut)
    with pytest.raises(OSError, match="disk full"):
        Abductions(tmp_path).invert(Coupled(2), source, IMAGE, noise, **PLAIN)
    assert list(tmp_path.iterdir()) == []


def test_a_field_that_cannot_be_told_by_its_content_is_refused(denoiser, tmp_path):
    @dataclass(frozen=True)
    class Opaque:
        denoiser: Denoiser
        rule: object

    with pytest.raises(TypeError, match="holds a function"):
        Abductions(tmp_path).invert(Coupled(2), Opaque(denoiser, noise), IMAGE, noise, **PLAIN)
