"""The known answer of the laboratory models: the direction between their two kinds of system phrase."""

from dataclasses import replace

from transformer_lens import HookedTransformer

from steerlens.checks.calls import flag, text
from steerlens.checks.values import shown
from steerlens.errors import ModelError, PairsError
from steerlens.forward.door import checked
from steerlens.methods.prompt_difference import extract_difference_in_means
from steerlens.toy import BEHAVIOURS, MODELS
from steerlens.toy.sets import up_to_user, vocabulary
from steerlens.vectors.vector import SteeringVector


@checked(PairsError, behaviour=text, second=flag)
def toy_reference(
    model: HookedTransformer,
    behaviour: str,
    layer: int,
    *,
    second: bool = False,
    batch_size: int = 64,
    progress: bool = True,
) -> SteeringVector:
    """The mean of resid_post behind system phrases that ask for a behaviour less its mean behind those that ask for its opposite.

    Both are read at the `<user>` token that follows the phrase, before any question is known, so that the vector has seen no pairs.
    Half of it, added at every position, is what the models' training planted (`steerlens/toy/README.md`).

    Args:
        model: one of `steerlens.toy.MODELS`.
        behaviour: one of `steerlens.toy.BEHAVIOURS`.
        layer: the 0-based block.
        second: read it behind the phrases in the world's second language. Nothing in training ties the two languages' signs
            together (`steerlens/toy/README.md` has their cosines).
        batch_size: phrases at once; the vector does not depend on it (up to rounding).

    Returns:
        The vector, in units of the residual stream, with method "toy reference".

    Raises:
        PairsError: no such behaviour.
        ModelError: the model doesn't know the words of the toy world.
    """
    if behaviour not in BEHAVIOURS:
        raise PairsError(
            f"behaviour={shown(behaviour)} is not in the toy world; expected one of {', '.join(BEHAVIOURS)}"
        )
    if model.tokenizer is None or not set(vocabulary()) <= set(model.tokenizer.get_vocab()):
        raise ModelError(
            f"{model.cfg.model_name} doesn't know the toy world's words; expected one of {', '.join(MODELS)}, or a model "
            "that steerlens.toy.train made"
        )
    off, on = up_to_user(behaviour, second)
    vector = extract_difference_in_means(
        model, on, off, layer, template="plain", batch_size=batch_size, progress=progress
    )
    language = " in its second language" if second else ""
    return replace(vector, method="toy reference", data=f"the toy world's system phrases for {behaviour}{language}")
