"""Direct, indirect and total effects on the image, and what the image leaves open, by models whose algebra is known."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from causal_cxr.editors.scm import HierarchicalVAE, ImageModel, SCMEditor
from causal_cxr.graphs import Binary, CausalGraph, Continuous
from causal_cxr.graphs.scm import SCM, AffineFlow

AGE = Continuous("age", unit="years", low=0, high=100)
DOSE = Continuous("dose", unit="mAs", low=0, high=10)
GRAPH = CausalGraph([AGE, DOSE, Binary("sex")], [("age", "dose")])


class Linear(ImageModel):
    """image = 0.5 + 0.1 age + 0.05 dose + 0.02 (age as the mediator is told) + 0.2 noise, of a known posterior."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = {"n_conditions": 3}
        self.unused = nn.Parameter(torch.zeros(1))

    def noise_shapes(self, shape: tuple[int, int]) -> list[tuple[int, ...]]:
        return [(1, 1, 1)]

    def abduct(
        self, images: Tensor, condition: Tensor, *, standard: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        mean = images.mean((1, 2, 3), keepdim=True)
        return (mean if standard is None else mean + 0.5 * standard[0],)

    def decode(
        self, noise: Sequence[Tensor], condition: Tensor, shape: tuple[int, int], *, mediator: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        told = condition if mediator is None else mediator
        grey = 0.5 + 0.1 * condition[:, 0] + 0.05 * condition[:, 1] + 0.02 * told[:, 0]
        location = grey[:, None, None, None] + 0.2 * noise[0].expand(-1, 1, *shape)
        return location, torch.zeros_like(location)

    def bound(self, images: Tensor, condition: Tensor, beta: float = 1.0) -> tuple[Tensor, tuple[Tensor, ...]]:
        raise NotImplementedError


@pytest.fixture
def editor() -> SCMEditor:
    rng = np.random.default_rng(0)
    age = rng.uniform(20, 80, 500)
    table = pd.DataFrame(
        {"age": age, "dose": 2 + 0.05 * age + 0.3 * rng.normal(size=500), "sex": rng.integers(0, 2, 500)}
    )
    scm = SCM(GRAPH, {"dose": AffineFlow(bounded=False)}).fit(table)
    return SCMEditor(scm, Linear(), residual=0.0)


TABLE = pd.DataFrame({"age": [40.0, 60.0], "dose": [4.0, 5.0], "sex": [0, 1]})


def test_paths_of_a_linear_model_are_the_closed_form(editor: SCMEditor) -> None:
    images = torch.zeros(2, 1, 4, 4)
    factual = GRAPH.coerce(TABLE)
    paths = editor.path_effects(editor.abduct(images, factual, seeds=np.arange(2)), {"age": 70.0})
    age = 2 * (70.0 - TABLE["age"]) / 100  # conditions run from -1 to 1
    dose = 2 * (paths.attributes["dose"] - TABLE["dose"]) / 10
    assert (dose > 0).all()  # the mediator followed
    expected = {"total": 0.12 * age + 0.05 * dose, "direct": 0.1 * age, "indirect": 0.05 * dose + 0.02 * age}
    for name, change in expected.items():
        made = (getattr(paths, name) - paths.null)[:, 0, 0, 0].double().numpy()
        np.testing.assert_allclose(made, change, atol=1e-6, err_msg=name)


def test_without_mediators_the_direct_effect_is_the_total_one() -> None:
    torch.manual_seed(0)
    graph = CausalGraph([AGE, Binary("sex")])
    scm = SCM(graph).fit(pd.DataFrame({"age": [20.0, 30.0, 60.0, 70.0], "sex": [0, 1, 0, 1]}))
    for prior in ("exogenous", "mediator"):
        model = HierarchicalVAE(2, stages=((2, 16, 1, 2), (8, 16, 1, 2)), prior=prior)
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        editor, factual = SCMEditor(scm, model), graph.coerce(TABLE[["age", "sex"]])
        paths = editor.path_effects(editor.abduct(torch.rand(2, 1, 8, 8), factual, seeds=np.arange(2)), {"sex": 1})
        exogenous = prior == "exogenous"
        assert torch.equal(paths.direct, paths.total) == exogenous  # latents that mediate are a path of their own
        assert torch.equal(paths.indirect, paths.null) == exogenous


def test_uncertainty_is_the_posteriors_spread_and_a_row_does_not_depend_on_its_batch(editor: SCMEditor) -> None:
    images, factual = torch.full((2, 1, 4, 4), 0.5), GRAPH.coerce(TABLE)
    seeds = np.array([7, 8])
    _, std = editor.uncertainty(images, factual, factual, seeds=seeds, n_particles=400)
    assert float(std.mean()) == pytest.approx(0.2 * 0.5, rel=0.1)
    again = editor.uncertainty(images[1:], factual[1:], factual[1:], seeds=seeds[1:], n_particles=400)[1]
    torch.testing.assert_close(again, std[1:])
    replayed = SCMEditor(editor.scm, editor.image_model, residual=1.0)
    _, none = replayed.uncertainty(images, factual, factual, seeds=seeds, n_particles=4)
    assert float(none.max()) < 1e-6  # every particle explains the image
    with pytest.raises(ValueError, match="n_particles is 1"):
        editor.uncertainty(images, factual, factual, seeds=seeds, n_particles=1)
