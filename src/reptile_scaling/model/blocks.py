"""Where things are in a model of the Hub: its list of blocks and the linear layers in them."""

from typing import Any

from torch import nn

from reptile_scaling.errors import InputError


def decoder_layers(decoder: nn.Module) -> tuple[str, nn.ModuleList]:
    """The name and list of the model's blocks, found as the ModuleList of `num_hidden_layers` entries."""
    config: Any = decoder.config
    n_layers = config.get_text_config().num_hidden_layers
    for name, child in decoder.named_modules():
        if isinstance(child, nn.ModuleList) and len(child) == n_layers:
            return name, child
    raise InputError(f"model class {type(decoder).__name__} has no plain list of layers: use another model")


def find_sites(
    model: nn.Module, blocks: list[nn.Module], targets: tuple[str, ...] | None
) -> dict[str, tuple[int, int]]:
    """The linear layers of these blocks that LoRA is to sit at, or those among them named so: name → (d_out, d_in)."""
    adapted = {id(block) for block in blocks}
    sites = {
        f"{block_name}.{name}": shape
        for block_name, block in model.named_modules()
        if id(block) in adapted
        for name, linear in block.named_modules()
        if (shape := linear_shape(linear)) is not None and (targets is None or name.split(".")[-1] in targets)
    }
    if not sites:
        wanted = ", ".join(targets or ("any linear layer",))
        raise InputError(f"lora_targets = {wanted} matches no layer of this model: use all, or names found in it")
    return sites


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(d_out, d_in) of a linear layer, whichever way it stores its weight; None for anything else."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if is_transposed(module):
        weight: Any = module.weight
        return int(weight.shape[1]), int(weight.shape[0])
    return None


def is_transposed(module: nn.Module) -> bool:
    """Whether a layer stores `[d_in, d_out]`, as GPT-2's linear layer does."""
    return type(module).__name__ == "Conv1D"


def replace(root: nn.Module, name: str, new: nn.Module) -> None:
    """Puts a module in the place of that name."""
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, new)


def remember_modules(model: nn.Module) -> "list[tuple[nn.Module, dict[str, nn.Module | None]]]":
    """Which modules the model is made of now, for `restore_modules`."""
    return [(module, dict(module._modules)) for module in model.modules()]


def restore_modules(remembered: "list[tuple[nn.Module, dict[str, nn.Module | None]]]") -> None:
    """Takes back every replacement of a module since."""
    for module, children in remembered:
        module._modules.clear()
        module._modules.update(children)


def decoder_of(model: Any) -> Any:
    """The model without its output layer; Llama 4's text model names another attribute as its base than it has."""
    base = model.base_model
    return model.model if base is model and model.get_output_embeddings() is not None else base
