"""What images and sentences are fitted by: which sentences are true of an image is a table, not a pairing."""

from torch import Tensor
from torch.nn import functional


def sigmoid_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """Each image with each sentence is a yes or no of its own (SigLIP; Zhai et al., ICCV 2023), averaged over all.

    Args:
        logits: ``(b, s)``, the bias added.
        positive: ``(b, s)`` 1 where the image's report has the sentence, else 0.
    """
    return functional.binary_cross_entropy_with_logits(logits, positive)


def contrastive_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """InfoNCE with several positives (UniCL; Yang et al., CVPR 2022): of an image over sentences, and the other way.

    The target is spread evenly over all true matches, so that none of them is pushed away; with one match each it is CLIP's
    loss. Sentences and images without a match here are the others' negatives only.

    Args:
        logits: ``(b, s)``.
        positive: ``(b, s)`` 1 where the image's report has the sentence, else 0.
    """
    total = logits.new_zeros(())
    for scores, match in ((logits, positive), (logits.T, positive.T)):
        has = match.sum(1) > 0
        target = match[has] / match[has].sum(1, keepdim=True)
        total = total + functional.cross_entropy(scores[has], target) / 2
    return total
