"""Arguments of types that the annotations exclude, as a notebook will pass them: one line. Tests
check annotations at run time, so this has a process of its own."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
import torch
import saeworks as sw

lm = sw.LanguageModel.load("embedded")
sae = sw.build_sae("topk", d=4, width=8, k=2)
x, options = torch.randn(300, 4), {"arch": "topk", "width": 8, "k": 2}
out = sys.argv[1]
calls = {
    "site 'layers.1' is a list; give a tensor [1, 2, 128]": lambda: lm.cross_entropy(
        "the", {"layers.1": lambda x: x.tolist()}
    ),
    "LanguageModel.wrap(model, tokenizer)": lambda: sw.LanguageModel.load(lm.model),
    "activations in a list; give a tensor [..., 4]": lambda: sae([[1.0] * 4]),
    "activations in a ndarray; give a tensor": lambda: sae.encode(x.numpy()),
    "a code in a list; give a tensor [..., 8]": lambda: sae.decode([[1.0] * 8]),
    "a code of shape [3, 4] does not fit this SAE; give [..., 8]": lambda: sae.decode(x[:3]),
    "d = '4': a whole number": lambda: sw.build_sae("topk", d="4", width=8, k=2),
    "x is a NoneType; give one tensor": lambda: sw.train(None, out, options),
    "x is a str; give one tensor": lambda: sw.train("x", out, options),
    "sae is a str; give the options": lambda: sw.train(x, out, "topk"),
    "sae is a TopK; give the options": lambda: sw.train(x, out, sae),
    "seed = 'a': a whole number": lambda: sw.train(x, out, options, seed="a"),
    "held_out = 'a': a share": lambda: sw.train(x, out, options, held_out="a"),
}
for message, call in calls.items():
    try:
        call()
        print("went on:", message)
    except sw.UserError as error:
        if message not in str(error) or "\\n" in str(error):
            print(error, "not", message)
    except Exception as error:
        print(repr(error), "not", message)
"""


def test_other_types_are_refused_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "" and not (tmp_path / "out").exists()
