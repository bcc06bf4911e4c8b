"""Other libraries' names of places in a model, and our sites."""

import re

from saeworks.errors import UserError
from saeworks.interop.base import Model

_TRANSFORMER_LENS = {
    "hook_resid_post": "resid",
    "hook_attn_out": "attn",
    "hook_mlp_out": "mlp",
}


def site_of(hook: str, model: Model) -> str:
    """The canonical site that a hook of another library is.

    A hook is a Hugging Face module's name (`gpt_neox.layers.3.mlp`; its output), or
    TransformerLens's `blocks.3.hook_resid_post`, `…hook_resid_pre`, `…hook_attn_out` or
    `…hook_mlp_out`. What goes into block 3 is what comes out of block 2.

    Raises:
        UserError: if the model has no such place, or it is not a site.
    """
    match = re.fullmatch(r"blocks\.(\d{1,5})\.(\w+)", hook)
    if match:
        block, kind = int(match[1]), match[2]
        if kind in _TRANSFORMER_LENS:
            return one_site(f"{block}@{_TRANSFORMER_LENS[kind]}", model)
        if kind == "hook_resid_pre":
            return one_site(f"{block - 1}@resid" if block else "0@resid@in", model)
    if not re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", hook) or "hook_" in hook:
        raise UserError(f"hook {hook[:80]!r} has no counterpart here; name the site with --site")
    return one_site(hook.removeprefix(f"{model.prefix}.") if model.prefix else hook, model)


def one_site(pattern: str, model: Model) -> str:
    """The one canonical site that a pattern selects.

    Raises:
        UserError: if it selects none or several.
    """
    sites = model.sites([pattern])
    if len(sites) != 1:
        raise UserError(f"site {pattern!r} selects {len(sites)} sites of {model.name}; name one")
    return sites[0]


def hook_of(site: str, model: Model) -> str:
    """The Hugging Face module, by its name in the whole model, whose output is the site.

    Raises:
        UserError: if no module's output is: the input of anything but a block after the first.
    """
    if site.endswith("@in"):
        block = re.search(r"(\d{1,5})@in$", site)
        number = int(block[1]) if block else 0
        if not 0 < number < model.layers or model.sites([f"{number}@resid@in"]) != [site]:
            raise UserError(
                f"site {site} is a module's input, and SAELens hooks outputs; leave it out: name "
                "the sites to convert with --site"
            )
        site = one_site(f"{number - 1}@resid", model)
    return f"{model.prefix}.{site}" if model.prefix else site
