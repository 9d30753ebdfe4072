"""``SCM``: a Pyro model of the labelled attributes, with abduct, predict and counterfactual.

Each attribute has a mechanism (:mod:`causal_cxr.graphs.scm.mechanisms`). Bidirected edges: one shared latent each, a
normal on the 15 nodes of Gauss-Hermite quadrature, so that likelihood and posterior are exact sums. Two normal
attributes that share one are then bivariate normal, within 1e-5 in log density where it correlates them by up to 0.4,
within 1e-3 up to 0.5 and within 0.1 up to 0.7; beyond, single nodes begin to show.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyro
import torch
from pyro import distributions as dist
from torch import Tensor

from causal_cxr.graphs.attributes import Continuous
from causal_cxr.graphs.graph import CausalGraph
from causal_cxr.graphs.scm.fitting import fit
from causal_cxr.graphs.scm.mechanisms import AffineFlow, Mechanism, default_mechanism, mechanism_from_dict
from causal_cxr.graphs.scm.missing import LEAST_EFFECTIVE, MORE_PROPOSALS, complete
from causal_cxr.graphs.scm.structure import Structure, grid

_AFFINE = AffineFlow()


class SCM:
    """Attribute mechanisms of a graph's labelled attributes.

    Args:
        graph: hidden attributes take no part. How strongly a shared latent moves its two ends is not identified by a
            table alone where they also share an edge; the prior then decides.
        mechanisms: attribute -> its mechanism, where it is not the default one.
        continuous: default mechanism of the continuous attributes. Ordered levels have :class:`OrdinalLogit`, other
            levels :class:`GumbelMax`.

    Raises:
        ValueError: more than two bidirected edges hang together; a mechanism for an attribute that the graph does not
            have, or of another type.

    >>> from causal_cxr.graphs import Binary, CausalGraph
    >>> graph = CausalGraph([Binary("portable"), Binary("view", levels=("PA", "AP"))], [("portable", "view")])
    >>> table = pd.DataFrame({"portable": [0, 1] * 50, "view": ["PA", "AP"] * 50})
    >>> scm = SCM(graph).fit(table)
    >>> scm.counterfactual(table.head(2), do={"view": "AP"})["portable"].tolist()
    [0, 1]
    """

    def __init__(
        self,
        graph: CausalGraph,
        mechanisms: Mapping[str, Mechanism] | None = None,
        *,
        continuous: Mechanism = _AFFINE,
    ) -> None:
        given = dict(mechanisms or {})
        unknown = [name for name in given if name not in graph.labelled]
        if unknown:
            raise ValueError(f"Mechanisms are given for {unknown}; the SCM has {list(graph.labelled)}.")
        self.graph = graph
        self.mechanisms = {
            name: given.get(name, default_mechanism(graph.attributes[name], continuous)) for name in graph.labelled
        }
        for name, mechanism in self.mechanisms.items():
            mechanism.check(graph.attributes[name])
        self._structure = Structure(graph, self.mechanisms)
        self._weights: dict[str, Tensor] = {}
        self.rows_left_out = 0  #: of the fit: they had no attribute at all
        self.rows_imputed = 0  #: of the fit: they lacked some attribute

    @property
    def order(self) -> tuple[str, ...]:
        """The labelled attributes, causes first."""
        return self._structure.order

    def fit(self, table: pd.DataFrame, seed: int = 0) -> "SCM":
        """Penalised maximum likelihood by L-BFGS, district after district; deterministic.

        Rows that lack some attribute stay in, by Monte-Carlo EM: right where values are missing at random (given
        observed attributes of the row), where leaving rows out may be wrong. They are counted in ``rows_imputed``, rows
        without any attribute in ``rows_left_out``.

        Args:
            table: a column for each labelled attribute.
            seed: of the imputations.

        Raises:
            ValueError: an attribute that no row has; a column is absent or has bad values.

        Warns:
            RuntimeWarning: as :meth:`impute`.
        """
        typed = self.graph.coerce(table)
        never = [name for name in self.order if typed[name].isna().all()]
        if never:
            raise ValueError(
                f"No row of the table has {never}; nothing to fit the SCM on: fill these columns, or declare their "
                "attributes hidden."
            )
        some = typed.dropna(how="all")
        self.rows_left_out = len(typed) - len(some)
        self.rows_imputed = int(some.isna().any(axis=1).sum())
        self._weights, effective = fit(self._structure, self._codes(some), seed)
        _warn_of_few(effective, some.index)
        return self

    def model(self, n: int) -> dict[str, Tensor]:
        """The Pyro program; condition or intervene with ``pyro.condition`` and ``pyro.do``.

        Sites are the attributes, and ``"a <-> b"`` for each shared latent: the index of its quadrature node. They carry
        codes: numbers of continuous attributes, 0..k-1 of levels. Rows are the plate ``"rows"`` at dim -1; plates
        around it need another dim, as do enumerated sites (``max_plate_nesting=1``).
        """
        weights = self._fitted()
        values: dict[str, Tensor] = {}
        nodes, log_weights = grid(1)
        with pyro.plate("rows", n, dim=-1):
            for latent in self._structure.latents:
                values[latent] = nodes[pyro.sample(latent, dist.Categorical(logits=log_weights)).long(), 0]
            for name in self.order:
                law = self._structure.distribution(name, values, n, weights)
                values[name] = pyro.sample(name, law).to(torch.float64)
        return values

    def sample(self, n: int, seed: int = 0) -> pd.DataFrame:
        """``n`` rows, typed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._table(self.model(n), pd.RangeIndex(n))

    def log_prob(self, table: pd.DataFrame, seed: int = 0) -> np.ndarray:
        """``(n,)`` log density of the observed part of each row, shared latents summed out.

        Exact where no number is missing. Else a Monte-Carlo estimate, with ``seed``; its standard error is about
        ``sqrt(1 / e)``, where ``e`` is the effective number of proposals: at least 20, or there is a RuntimeWarning.
        """
        typed = self.graph.coerce(table)
        made = complete(self._structure, self._fitted(), self._codes(typed), seed=seed)
        _warn_of_few(made.effective, typed.index)
        return made.log_evidence.numpy()

    def impute(self, table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
        """The rows, typed, missing attributes drawn from their posterior given the row's observed ones.

        The draw is exact where only levels are missing, importance resampling else. Observed values stay as they are.

        Warns:
            RuntimeWarning: the posterior of some rows rests on fewer than 20 effective proposals of 4000.
        """
        typed = self.graph.coerce(table)
        holes = typed.isna()
        some = holes.any(axis=1).to_numpy()
        if not some.any():
            return typed
        made = complete(self._structure, self._fitted(), self._codes(typed[some]), seed=seed)
        _warn_of_few(made.effective, typed.index[some])
        drawn = self._table({name: codes[0] for name, codes in made.codes.items()}, typed.index[some])
        for name in typed.columns:
            missing = holes[name].to_numpy()
            filled = typed[name].array.copy()
            filled[missing] = drawn[name].array[missing[some]]
            typed[name] = filled
        return typed

    def abduct(self, table: pd.DataFrame, seed: int = 0) -> dict[str, Tensor]:
        """The noise that gave these rows: exact for flows, a draw from the exact posterior for levels and latents.

        Rows with missing attributes are imputed first, with the same seed.

        Returns:
            name -> ``(n,)``; ``(n, levels)`` for Gumbels. Shared latents are among the names.
        """
        codes, n, weights = self._codes(self.impute(table, seed)), len(table), self._fitted()
        generator = torch.Generator().manual_seed(seed)
        noise: dict[str, Tensor] = {}
        latents: dict[str, Tensor] = {}
        for district in self._structure.districts:
            shared = self._structure.shared(*district)
            if shared:
                posterior = self._structure.joint(district, codes, n, weights).softmax(0).T
                drawn = torch.multinomial(posterior, 1, generator=generator)[:, 0]
                latents |= {latent: grid(len(shared))[0][drawn, i] for i, latent in enumerate(shared)}
        for name in self.order:
            parameters = self._structure.parameters(name, codes | latents, n, weights)
            mechanism, attribute = self.mechanisms[name], self.graph.attributes[name]
            noise[name] = mechanism.abduct(attribute, parameters, codes[name], generator)
        return noise | latents

    def counterfactual(
        self, table: pd.DataFrame, do: Mapping[str, Any], n_particles: int = 1, seed: int = 0
    ) -> pd.DataFrame:
        """Abduct, act, predict.

        Args:
            table: ``n`` factual rows; missing attributes are imputed from their posterior, with ``seed``.
            do: attribute -> a value, or one a row.
            n_particles: draws from the posterior of each row's noise (and missing attributes).
            seed: of the abduction.

        Returns:
            typed rows with the same index; with several particles each row as often, and an index level "particle"
            added. What is no descendant of an intervened attribute stays bit for bit.

        Raises:
            ValueError: ``n_particles`` below 1, a value that the attribute cannot take, a name that the SCM lacks.
        """
        if n_particles < 1:
            raise ValueError(f"n_particles is {n_particles}; draw one or more.")
        typed = self.graph.coerce(table)
        acts = self._act(do, len(typed))
        if n_particles > 1:
            particles = pd.Index(np.tile(np.arange(n_particles), len(typed)), name="particle")
            typed = typed.iloc[np.repeat(np.arange(len(typed)), n_particles)].set_index(particles, append=True)
            acts = {name: codes.repeat_interleave(n_particles) for name, codes in acts.items()}
        factual = self.impute(typed, seed)
        codes = self._codes(factual)
        values = self._predict(self.abduct(factual, seed), acts, len(factual), codes)
        result = self._table(values, factual.index)
        moved = {name for target in do for name in (target, *self.graph.descendants(target))}
        for name in set(self.order) - moved:
            result[name] = factual[name]
        return result

    def predict(self, noise: Mapping[str, Tensor], do: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """The rows that this noise gives, typed, some attributes set to a value or to one a row."""
        n = len(next(iter(noise.values())))
        return self._table(self._predict(noise, self._act(do or {}, n), n, None), pd.RangeIndex(n))

    def to_dict(self) -> dict[str, Any]:
        """Plain data (JSON can hold it): the graph and the fitted weights, exactly. Defaults are not written."""
        weights = {name: weight.tolist() for name, weight in self._weights.items()}
        data = {"graph": self.graph.to_dict(), "weights": weights, "rows_left_out": self.rows_left_out}
        chosen = {
            name: mechanism.to_dict()
            for name, mechanism in self.mechanisms.items()
            if mechanism != default_mechanism(self.graph.attributes[name], _AFFINE)
        }
        if chosen:
            data["mechanisms"] = chosen
        if self.rows_imputed:
            data["rows_imputed"] = self.rows_imputed
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "SCM":
        """The model that :meth:`to_dict` wrote."""
        mechanisms = {name: mechanism_from_dict(given) for name, given in data.get("mechanisms", {}).items()}
        scm = cls(CausalGraph.from_dict(data["graph"]), mechanisms)
        scm._weights = {name: torch.tensor(weight, dtype=torch.float64) for name, weight in data["weights"].items()}
        scm.rows_left_out, scm.rows_imputed = data["rows_left_out"], data.get("rows_imputed", 0)
        return scm

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the graph, the mechanisms and the weights."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def _act(self, do: Mapping[str, Any], n: int) -> dict[str, Tensor]:
        """``(n,)`` codes of what ``do`` sets."""
        unknown = [name for name in do if name not in self.order]
        if unknown:
            raise ValueError(f"Cannot set {unknown}; the SCM has {list(self.order)}.")
        acts = {}
        for name, value in do.items():
            given = [value] * n if np.isscalar(value) else list(value)
            if len(given) != n:
                raise ValueError(f"do has {len(given)} values for {name!r} and the table {n} rows; give one a row.")
            acts[name] = torch.tensor(self.graph.attributes[name].encode(pd.Series(given)))
            if acts[name].isnan().any():
                raise ValueError(f"do sets {name!r} to a missing value; give the factual one where nothing changes.")
        return acts

    def _predict(
        self, noise: Mapping[str, Tensor], acts: Mapping[str, Tensor], n: int, codes: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        """Codes; a row whose causes have their factual ``codes`` keeps its own exactly, rounding included."""
        values: dict[str, Tensor] = {latent: noise[latent] for latent in self._structure.latents}
        for name in self.order:
            if name in acts:
                values[name] = acts[name]
                continue
            parameters = self._structure.parameters(name, values, n, self._fitted())
            values[name] = self.mechanisms[name].predict(self.graph.attributes[name], parameters, noise[name])
            if codes is not None:
                still = torch.ones(n, dtype=torch.bool)
                for parent in self._structure.parents[name]:
                    still &= values[parent] == codes[parent]
                values[name] = torch.where(still, codes[name], values[name])
        return values

    def _codes(self, table: pd.DataFrame) -> dict[str, Tensor]:
        return {name: torch.tensor(self.graph.attributes[name].encode(table[name])) for name in self.order}

    def _table(self, codes: Mapping[str, Tensor], index: pd.Index) -> pd.DataFrame:
        columns = {}
        for name in self.graph.labelled:
            attribute = self.graph.attributes[name]
            values = codes[name].numpy()
            if isinstance(attribute, Continuous):
                slack = 1e-9 * (attribute.high - attribute.low)
                outside = (values < attribute.low - slack) | (values > attribute.high + slack)
                if outside.any():
                    raise ValueError(
                        f"Predictions of {name!r} leave [{attribute.low:g}, {attribute.high:g}] in rows "
                        f"{list(index[outside][:3])}: {values[outside][:3].tolist()}; widen the range, or use "
                        "AffineFlow(bounded=True)."
                    )
                values = values.clip(attribute.low, attribute.high)
            columns[name] = attribute.decode(values)
        return pd.DataFrame(columns).set_axis(index)

    def _fitted(self) -> dict[str, Tensor]:
        if not self._weights:
            raise ValueError("The SCM is not fitted; call fit(table) first.")
        return self._weights


def _warn_of_few(effective: Tensor, index: pd.Index) -> None:
    few = (effective < LEAST_EFFECTIVE).numpy()
    if few.any():
        warnings.warn(
            f"The posterior of the missing attributes of {few.sum()} rows, among them {list(index[few][:3])}, rests on "
            f"fewer than {LEAST_EFFECTIVE} effective of {MORE_PROPOSALS} proposals: what is observed hardly occurs in "
            "the model.",
            RuntimeWarning,
            stacklevel=3,
        )
