"""Weights of torchxrayvision classifiers from local files, without running what a file may hold besides.

torchxrayvision publishes its DenseNets as pickled modules: opening such a file the usual way runs any code that is in it.
Here it is converted once, by an unpickler that builds network layers and tensors and nothing else, and only the tensors are
kept::

    python -m causal_cxr.readers.xrv_weights DOWNLOADED.pt densenet121-res224-all.safetensors
"""

import argparse
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from causal_cxr.data.whole_file import whole_file

HEADS = {"densenet": "classifier", "resnet": "fc"}  #: architecture -> its last layer
FIRST = {"densenet": "features.conv0", "resnet": "conv1"}  #: and its first, which looks at one channel here
ARCHITECTURES = ("densenet121", "densenet161", "densenet169", "densenet201", "resnet50", "resnet101")
SIZE = 224  #: pixels a side that torchxrayvision's DenseNets were trained at


def published(weights: str) -> tuple[tuple[str, ...], int]:
    """What torchxrayvision's published weights predict (an empty name = an output that was not trained), and at what size.

    Args:
        weights: torchxrayvision's name for them, as ``"densenet121-res224-all"``.

    Raises:
        ImportError: torchxrayvision is missing.
        ValueError: it has no classifier of that name.
    """
    known = {name: entry for name, entry in _xrv().models.model_urls.items() if "labels" in entry}
    if weights not in known:
        raise ValueError(f"torchxrayvision publishes no classifier {weights!r}; it has {list(known)}.")
    return tuple(known[weights]["labels"]), int(known[weights].get("input_resolution", SIZE))


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a weight file: safetensors, or a state dict that PyTorch wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds more than tensors, as a pickled module does, or cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} does not exist; pass a weight file. torchxrayvision keeps what it has downloaded in "
            "~/.torchxrayvision/models_data."
        )
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as problem:
            raise ValueError(f"{file} is no safetensors file ({problem}); download or convert it again.") from None
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise ValueError(
            f"{file} holds more than tensors (torchxrayvision publishes whole pickled modules), and opening it would run "
            f"whatever code is in it. Convert it: python -m causal_cxr.readers.xrv_weights {file} "
            f"{file.with_suffix('.safetensors')}"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError) as problem:
        raise ValueError(f"{file} cannot be read as weights ({problem}); download it again.") from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ValueError(f"{file} holds no state dict (names with tensors); save model.state_dict() to it.")
    return dict(content)


def convert_weights(source: str | Path, target: str | Path) -> Path:
    """Write the weights of a pickled torchxrayvision module as safetensors.

    Only the layers of torchxrayvision's classifiers, and tensors, are built from the file; it is refused as soon as it asks
    for anything else.

    Args:
        source: as torchxrayvision downloads it.
        target: ends in ``.safetensors``; written whole.

    Raises:
        ImportError: torchxrayvision is missing.
        ValueError: ``target`` has another ending; ``source`` asks for something else, or is no such module.
    """
    from safetensors.torch import save_file

    source, target = Path(source), Path(target)
    if target.suffix != ".safetensors":
        raise ValueError(f"{target} is to be a safetensors file; let its name end in .safetensors.")
    if zipfile.is_zipfile(source) and any(
        name.endswith("/constants.pkl") for name in zipfile.ZipFile(source).namelist()
    ):
        raise ValueError(f"{source} is a TorchScript program, no pickled module; it is not opened.")
    try:
        with warnings.catch_warnings():  # that the layers' source code has changed since
            warnings.simplefilter("ignore")
            module = torch.load(source, map_location="cpu", weights_only=False, pickle_module=_only(_layers()))
    except (UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, KeyError, AttributeError) as problem:
        raise ValueError(f"{source} was not converted: {problem}") from None
    if not isinstance(module, nn.Module):
        raise ValueError(f"{source} holds no pickled module; if it is a state dict it can be used as it is.")
    with whole_file(target) as partial:
        save_file({name: tensor.contiguous() for name, tensor in _tensors(module).items()}, partial)
    return target


def build_network(state: Mapping[str, Tensor]) -> tuple[str, nn.Module]:
    """The network whose weights these are: torchvision's, with one channel in, which is what torchxrayvision's are.

    Args:
        state: names -> tensors; a leading ``model.`` (torchxrayvision's ResNet) and its ``op_threshs`` are left away.

    Returns:
        name of the architecture, and the network, in evaluation mode; its outputs are logits.

    Raises:
        ValueError: no architecture that torchxrayvision uses has weights of these names and shapes.
    """
    state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    state.pop("op_threshs", None)
    for architecture in ARCHITECTURES:
        kind = next(kind for kind in HEADS if architecture.startswith(kind))
        head = state.get(f"{HEADS[kind]}.bias")
        if head is None:
            continue
        with torch.device("meta"):
            network = _untrained(architecture, kind, len(head))
        if {name: t.shape for name, t in network.state_dict().items()} == {name: t.shape for name, t in state.items()}:
            network.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor
                                     for name, tensor in state.items()}, assign=True)  # fmt: skip
            return architecture, network.eval().requires_grad_(False)
    raise ValueError(
        f"These are no weights of {', '.join(ARCHITECTURES)} for one-channel images; the file has {len(state)} tensors, the "
        f"first is {next(iter(state), None)!r}."
    )


def head_of(network: nn.Module) -> nn.Linear:
    """The last layer, from pooled features to logits."""
    return next(getattr(network, head) for head in HEADS.values() if hasattr(network, head))


def _untrained(architecture: str, kind: str, outputs: int) -> nn.Module:
    import torchvision

    network = getattr(torchvision.models, architecture)(num_classes=outputs)
    first = network.get_submodule(FIRST[kind])
    one = nn.Conv2d(1, first.out_channels, kernel_size=7, stride=2, padding=3, bias=False)
    parent, _, name = FIRST[kind].rpartition(".")
    setattr(network.get_submodule(parent), name, one)
    return network


def _layers() -> set[tuple[str, str]]:
    """Module and name of what a pickled classifier is made of; building one of these runs no code of the file's."""
    from torchvision.models import resnet

    models = _xrv().models
    own = [models.DenseNet, models._DenseBlock, models._DenseLayer, models._Transition, models.ResNet]
    common = [nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
              nn.Linear, nn.Parameter, resnet.ResNet, resnet.Bottleneck]  # fmt: skip
    return {(c.__module__, c.__name__) for c in [*own, *common]} | {
        ("collections", "OrderedDict"),
        ("builtins", "set"),
        ("__builtin__", "set"),  # as Python 2's protocol spells it
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
    }


def _only(allowed: set[tuple[str, str]]) -> Any:
    """A pickle module for ``torch.load`` that finds nothing but what is allowed ("Restricting Globals", Python's pickle).

    PyTorch's own ``weights_only`` unpickler cannot read modules in the format from before 1.6, in which torchxrayvision's
    older files are.
    """

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) not in allowed:
                raise UnpicklingError(
                    f"it asks for {module}.{name}, which is no layer of a torchxrayvision classifier."
                )
            return super().find_class(module, name)

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    return SimpleNamespace(__name__="restricted", Unpickler=Unpickler, load=load)


def _tensors(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Parameters and buffers by name, read off the module without calling anything of it."""
    found: dict[str, Tensor] = {}
    for tensors in (vars(module)["_parameters"], vars(module)["_buffers"]):
        found |= {f"{prefix}{name}": t.detach().clone() for name, t in tensors.items() if isinstance(t, Tensor)}
    for name, part in vars(module)["_modules"].items():
        if isinstance(part, nn.Module):
            found |= _tensors(part, f"{prefix}{name}.")
    return found


def _xrv() -> Any:
    try:
        with warnings.catch_warnings():  # importing it silences every warning of the process
            import torchxrayvision
    except ImportError:
        raise ImportError("torchxrayvision is not installed; pip install 'causal_cxr[xrv]'.") from None
    return torchxrayvision


def main() -> None:
    """Convert a pickled torchxrayvision classifier to safetensors."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("source", type=Path, help="as torchxrayvision downloads it")
    parser.add_argument("target", type=Path, help="ends in .safetensors")
    args = parser.parse_args()
    print(convert_weights(args.source, args.target))


if __name__ == "__main__":
    main()
