"""A DenseNet-121 as torchxrayvision trains them: one channel, pixels up to 1024."""

from typing import Any


def densenet_state(outputs: int) -> dict[str, Any]:
    """Weights as torchxrayvision names them, spread enough to tell images apart."""
    import torch
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.densenet121(num_classes=outputs)
        network.features.conv0 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
        torch.nn.init.normal_(network.classifier.weight)  # so that images differ in their logits
        network.features.norm0.running_var.fill_(3e5)  # pixels go to 1024
    return network.state_dict()
