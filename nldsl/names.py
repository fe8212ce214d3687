"""Names of the core as names of generated code."""

from __future__ import annotations

import keyword
import re

# What an `nn.Module` and the classes we generate have already: a param or instance gets another name.
TAKEN = frozenset(
    """T_destination add_module apply bfloat16 buffers call_super_init children compile cpu cuda double dump_patches eval
    extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu load_state_dict modules mtia
    named_buffers named_children named_modules named_parameters parameters register_backward_hook register_buffer
    register_forward_hook register_forward_pre_hook register_full_backward_hook register_full_backward_pre_hook
    register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module register_parameter
    register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory
    state_dict to to_empty train training type xpu zero_grad initial_state step source""".split()
)


def identifier(name: str) -> str:
    """A Python identifier for a core name: `S.decay` is `S_decay`, `layer.1` is `layer_1`, `half` is `half_`."""
    text = re.sub(r"\W", "_", name)
    if not text[0].isalpha():
        text = f"n{text}"
    return f"{text}_" if keyword.iskeyword(text) or text in TAKEN else text
