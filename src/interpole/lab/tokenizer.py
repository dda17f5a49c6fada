"""The tiny pair's tokenizer: byte-level BPE with Qwen's split, 292 tokens, ChatML template, thinking marks.

It is an ordinary Hugging Face fast tokenizer. As in Qwen3, `<think>` and `</think>` are added tokens that are not
special, so decoding with `skip_special_tokens` keeps them; the generation prompt does not open the thinking.
"""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from interpole.tasks import chains

__all__ = ["END_OF_TEXT", "IM_END", "OPENED", "VOCAB_SIZE", "build_tokenizer", "prompt"]

END_OF_TEXT, IM_START, IM_END = SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKS = ("<think>", "</think>")
OPENED = f"{MARKS[0]}\n"
"""What a template that opens the thinking puts at the end of every prompt."""
VOCAB_SIZE = 292  # 256 bytes, 31 merges, 5 added tokens

# How Qwen2 and Qwen3 cut text before BPE: contractions, words, single digits, punctuation, white space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Qwen3's template without tools: an earlier answer keeps only what follows its thinking.
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and '</think>' in content and not loop.last %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""


def prompt(question: str, *, opens_thinking: bool = False) -> str:
    """What the chat template makes of one user message, ready for the answer (a test compares the two)."""
    return f"{IM_START}user\n{question}{IM_END}\n{IM_START}assistant\n{OPENED if opens_thinking else ''}"


def _corpus() -> Iterator[str]:
    """Text to learn the merges from: roles and answers of the longest training chains, so that labels weigh alike."""
    yield "system\n"
    for problem in chains.problems("train", 100, difficulties=chains.DIFFICULTIES[-1:]):
        question = problem.question
        yield from (
            "user\n",
            question,
            "assistant\n",
            chains.terse(question),
            f"Wait, check:\n{chains.work(question)}\n",
        )


def build_tokenizer(*, opens_thinking: bool = False) -> PreTrainedTokenizerFast:
    """Learn the merges and dress the result as a Hugging Face tokenizer; the same every time.

    Args:
        opens_thinking: its template's generation prompt ends inside a think block, as that of Qwen3's Thinking-2507 does.
    """
    header = "{{- '<|im_start|>assistant\\n"
    template = CHAT_TEMPLATE.replace(header, f"{header}<think>\\n") if opens_thinking else CHAT_TEMPLATE
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    cut = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    added = [AddedToken(text, normalized=False, special=text in SPECIAL) for text in (*SPECIAL, *MARKS)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(added),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(), trainer)
    bpe.add_tokens(added)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        chat_template=template,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
