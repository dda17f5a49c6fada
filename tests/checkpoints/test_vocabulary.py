"""Vocabularies that differ: rows by token, padding, and the choice where it is one."""

import base64
import json

import numpy as np
import pytest
from typer.testing import CliRunner

import interpole
import tiny
from bench import call
from interpole.checkpoints.save import Target, save_all
from interpole.checkpoints.views.vocabulary import POLICIES, Aligned, vocabulary
from interpole.cli import app
from interpole.errors import MismatchError, OutputError, RecipeError
from interpole.merging.card import model_card
from interpole.merging.recipe import Recipe, build

WORDS = [f"w{i}" for i in range(30)]
EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")


def model(folder, seed, tokens, rows, *, added=(), tekken=False):
    """A model of `rows` embedding rows whose tokenizer has `tokens` in order of id; None is an id without a token."""
    path = tiny.write(folder, tiny.tensors(seed, vocab=rows, tied=False), config={"vocab_size": rows}, shards=2)
    ids = {token: i for i, token in enumerate(tokens) if token is not None}
    content = {
        "model": {"type": "BPE", "vocab": {t: i for t, i in ids.items() if t not in added}, "merges": []},
        "added_tokens": [{"id": ids[t], "content": t, "special": True} for t in added],
    }
    if tekken:
        content = {
            "config": {"default_vocab_size": len(tokens), "default_num_special_tokens": len(added)},
            "special_tokens": [{"rank": ids[t], "token_str": t} for t in added],
            "vocab": [
                {"rank": i, "token_bytes": base64.b64encode(t.encode()).decode(), "token_str": t}
                for i, t in enumerate(tokens[len(added) :])
            ],
        }
    (path / ("tekken.json" if tekken else "tokenizer.json")).write_text(json.dumps(content))
    return path


def rows_of(merged, paths, lam, pairs):
    """Assert that row j of the merge is λ between row a of Instruct and row b of Thinking, or the one that is given."""
    first, second = (interpole.open(path) for path in paths)
    for name in EMBEDDINGS:
        found = merged[name]
        assert len(found) == len(pairs)
        for row, (a, b) in enumerate(pairs):
            parts = [source[name][i] for source, i in ((first, a), (second, b)) if i is not None]
            if len(parts) == 1:
                assert found[row].tobytes() == parts[0].tobytes(), (name, row)
                continue
            expected = (1 - lam) * parts[0].astype(float) + lam * parts[1].astype(float)
            assert np.allclose(found[row].astype(float), expected, rtol=2**-7, atol=1e-6), (name, row)


def test_padding_rows_that_only_one_side_has_are_taken_from_it(tmp_path):
    paths = model(tmp_path / "i", 0, WORDS, 32), model(tmp_path / "t", 1, WORDS, 40)
    merged = interpole.merge(Recipe.between(*paths, 0.25))
    rows_of(merged, paths, 0.25, [(j, j) if j < 32 else (None, j) for j in range(40)])
    assert "8 rows that instruct lacks are thinking's" in merged.notes[0]
    assert merged.config["vocab_size"] == 40
    assert merged.notes[0][1:] in model_card(merged)


def test_padding_rows_beyond_the_result_are_left_out(tmp_path):
    paths = model(tmp_path / "i", 0, WORDS, 40), model(tmp_path / "t", 1, WORDS, 32)
    merged = interpole.merge(Recipe.between(*paths, 0.25))
    rows_of(merged, paths, 0.25, [(j, j) for j in range(32)])
    assert "8 rows of instruct left out" in merged.notes[0]
    out = interpole.open(interpole.save(merged, tmp_path / "out"))
    assert all(out[name].tobytes() == merged[name].tobytes() for name in merged)


def test_tokens_that_only_one_tokenizer_has_are_taken_from_its_side(tmp_path):
    paths = model(tmp_path / "i", 0, WORDS, 40), model(tmp_path / "t", 1, [*WORDS, "<think>", "</think>"], 40)
    merged = interpole.merge(Recipe.between(*paths, 0.25))
    rows_of(merged, paths, 0.25, [(None, j) if j in (30, 31) else (j, j) for j in range(40)])
    back = interpole.merge(Recipe.between(*paths, 0.25, template_from="instruct"))
    rows_of(back, paths, 0.25, [(j, None) if j in (30, 31) else (j, j) for j in range(40)])


@pytest.mark.parametrize("tekken", [False, True])
def test_an_id_with_another_meaning_is_refused_with_the_choices(tmp_path, tekken):
    specials = ["<s>", "<SPECIAL_1>"], ["<s>", "[THINK]"]
    paths = [
        model(tmp_path / side, i, [*specials[i], *WORDS], 40, added=specials[i], tekken=tekken)
        for i, side in enumerate("it")
    ]
    with pytest.raises(MismatchError) as error:
        interpole.merge(Recipe.between(*paths, 0.25))
    assert "id 1 is '<SPECIAL_1>' in" in str(error.value)
    assert "'[THINK]'" in str(error.value)
    assert "1 ids differ" in str(error.value)
    assert "--vocabulary align" in error.value.remedy
    assert "--vocabulary ids" in error.value.remedy
    aligned = interpole.merge(Recipe.between(*paths, 0.25, vocabulary="align"))
    rows_of(aligned, paths, 0.25, [(None, 1) if j == 1 else (j, j) for j in range(40)])
    by_id = interpole.merge(Recipe.between(*paths, 0.25, vocabulary="ids"))
    rows_of(by_id, paths, 0.25, [(j, j) for j in range(40)])


def test_mistrals_own_tokenizer_file_spells_tokens_as_the_other_does(tmp_path):
    ByteLevel = pytest.importorskip("tokenizers.pre_tokenizers").ByteLevel
    words = [bytes([i]) for i in range(256)] + ["é à".encode(), b"\xff\x00 "]
    entries = [{"rank": i, "token_bytes": base64.b64encode(word).decode()} for i, word in enumerate(words)]
    folder = tiny.write(tmp_path / "m", tiny.tensors(0))
    (folder / "tekken.json").write_text(json.dumps({"config": {"default_num_special_tokens": 5}, "vocab": entries}))
    known = vocabulary(interpole.open(folder))
    assert {token for token in known if len(token) == 1} == set(ByteLevel.alphabet())
    for text in ("é à", " a\n"):
        spelt = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)[0][0]
        assert all(letter in known for letter in spelt)
    assert known[ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("é à")[0][0]] == 256 + 5


def test_tokens_at_other_ids_are_matched_by_their_string(tmp_path):
    order = np.random.default_rng(0).permutation(30)
    paths = model(tmp_path / "i", 0, WORDS, 32), model(tmp_path / "t", 1, [WORDS[i] for i in order], 32)
    merged = interpole.merge(Recipe.between(*paths, 0.25, vocabulary="align"))
    rows_of(merged, paths, 0.25, [(order[j] if j < 30 else j, j) for j in range(32)])
    assert f"{(order != np.arange(30)).sum()} rows of instruct moved" in merged.notes[0]


@pytest.mark.parametrize("policy", ["refuse", "align"])
def test_other_numbers_of_rows_without_a_tokenizer_are_refused(tmp_path, policy):
    paths = model(tmp_path / "i", 0, WORDS, 32), model(tmp_path / "t", 1, WORDS, 40)
    (paths[0] / "tokenizer.json").unlink()
    with pytest.raises(MismatchError, match=r"32 rows in .* and 40 in .*has no tokenizer\.json(.|\n)*--vocabulary ids"):
        interpole.merge(Recipe.between(*paths, 0.25, vocabulary=policy))
    rows = [(j, j) if j < 32 else (None, j) for j in range(40)]
    rows_of(interpole.merge(Recipe.between(*paths, 0.25, vocabulary="ids")), paths, 0.25, rows)


def test_equal_vocabularies_are_left_alone(tmp_path):
    paths = [model(tmp_path / side, i, WORDS, 40) for i, side in enumerate("it")]
    (paths[1] / "tokenizer.json").write_text((paths[1] / "tokenizer.json").read_text() + "\n")
    for source in interpole.merge(Recipe.between(*paths, 0.25)).sources.values():
        assert source.origin("lm_head.weight") is not None


def test_where_an_aligned_tensor_is_cut_does_not_matter(tmp_path):
    paths = model(tmp_path / "i", 0, WORDS, 32), model(tmp_path / "t", 1, WORDS, 40)
    rows = np.array([3, 4, 5, -1, -1, 0, 31, 7, 6, -1, 8, 9])
    view = Aligned(*map(interpole.open, paths), rows)
    source, donor = (interpole.open(path)["lm_head.weight"] for path in paths)
    whole = np.concatenate([source[row] if row >= 0 else donor[j] for j, row in enumerate(rows)])
    for start, stop in np.sort(np.random.default_rng(0).integers(0, len(whole) + 1, (60, 2))):
        assert view.read("lm_head.weight", start, stop).tobytes() == whole[start:stop].tobytes()


@pytest.mark.parametrize("lam", [0, 1])
def test_the_ends_keep_the_bytes_of_the_vocabulary_they_are_written_in(tmp_path, lam):
    paths = model(tmp_path / "i", 0, WORDS, 32), model(tmp_path / "t", 1, WORDS, 40)
    merged, source = interpole.merge(Recipe.between(*paths, lam)), interpole.open(paths[lam])
    assert all(merged[name].tobytes() == source[name].tobytes() for name in source)


def test_another_architecture_is_said_to_be_that(tmp_path):
    paths = model(tmp_path / "i", 0, WORDS, 32), model(tmp_path / "t", 1, WORDS[::-1], 40)
    wide = tiny.write(tmp_path / "w", tiny.tensors(1, hidden=24, vocab=40, tied=False))
    (wide / "tokenizer.json").write_bytes((paths[1] / "tokenizer.json").read_bytes())
    with pytest.raises(MismatchError, match=r"is \[.*16.*\] in .* and \[.*24.*\]|rows in") as error:
        interpole.merge(Recipe.between(paths[0], wide, 0.25))
    assert "different vocabulary" not in str(error.value)


def test_the_recipe_knows_these_policies_and_no_others():
    for policy in POLICIES:
        assert Recipe.between("a", "b", 0.5, vocabulary=policy).vocabulary == policy
    with pytest.raises(RecipeError, match="vocabulary"):
        build({"sources": {"instruct": "a", "thinking": "b"}, "lambda": 0.5, "vocabulary": "guess"}, "test")


def test_points_of_different_vocabularies_are_not_written_together(tmp_path):
    paths = model(tmp_path / "i", 0, WORDS, 32), model(tmp_path / "t", 1, WORDS, 40)
    sources = dict(zip(("instruct", "thinking"), map(interpole.open, paths), strict=True))
    points = {lam: interpole.merge(Recipe.between(*paths, lam), sources) for lam in (0, 0.5)}
    targets = [Target(merged, tmp_path / f"out-{lam}") for lam, merged in points.items()]
    with pytest.raises(OutputError, match=r"different names or shapes(.|\n)*--template-from thinking"):
        save_all(targets)
    one = [Recipe.between(*paths, lam, template_from="thinking") for lam in (0, 0.5)]
    save_all([Target(interpole.merge(recipe, sources), tmp_path / f"out-{recipe.lam}") for recipe in one])
    assert len(interpole.open(tmp_path / "out-0.0")["lm_head.weight"]) == 40


def test_the_command_line_takes_the_choice(tmp_path):
    words = [f"w{i}" for i in range(150)]
    paths = [str(model(tmp_path / side, i, [*words, f"<{side}>"], 160 + 8 * i)) for i, side in enumerate("it")]
    merge = ["merge", *paths, "-l", "0.25", "-o", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, merge)
    assert "id 150 is '<i>' in" in str(refused.exception)
    assert not (tmp_path / "out").exists()
    done = call(*merge, "--vocabulary", "align", errors=True)
    assert "9 rows that instruct lacks are thinking's" in done
    out = interpole.open(tmp_path / "out")
    rows_of(out, paths, 0.25, [(j, j) if j != 150 and j < 160 else (None, j) for j in range(168)])


def changed(paths, **content):
    """Instruct's and Thinking's rows before they are merged, and the merge, of a recipe with Thinking's tokenizer."""
    sources = dict(zip(("instruct", "thinking"), map(str, paths), strict=True))
    merged = interpole.merge(build({"sources": sources, "lambda": 0.25, "vocabulary": "align"} | content, "test"))
    return [merged.sources[name] for name in sources], merged


def test_rows_of_tokens_come_from_where_the_recipe_says(tmp_path):
    paths = model(tmp_path / "i", 0, WORDS[:20], 20), model(tmp_path / "t", 1, [*WORDS[5:20], "new", "other"], 17)
    tokens = {
        "new": {"zero": True},  # Instruct has none: zeros there, Thinking keeps its own
        "other": {"source": "instruct", "token": "w1"},
        "w7": {"source": "thinking", "force": True},  # in both
        "w8": {"source": "instruct", "row": 3, "force": True},
        "w9": {"source": "thinking"},  # both have it: nothing to do
    }
    (near, far), merged = changed(paths, tokens=tokens)
    first, second = (interpole.open(path) for path in paths)
    for name in EMBEDDINGS:
        wanted_near = first[name][[*range(5, 20), 0, 0]].copy()
        wanted_far = second[name].copy()
        wanted_near[15], wanted_near[16] = 0, first[name][1]
        wanted_near[2] = wanted_far[2]
        wanted_near[3] = wanted_far[3] = first[name][3]
        assert near[name].tobytes() == wanted_near.tobytes()
        assert far[name].tobytes() == wanted_far.tobytes()
        assert np.array_equal(merged[name][2], wanted_far[2])
        pieces = [near.read(name, start, min(start + 23, near[name].size)) for start in range(0, near[name].size, 23)]
        assert np.concatenate(pieces).tobytes() == wanted_near.tobytes()
    assert merged["model.norm.weight"].tobytes() != second["model.norm.weight"].tobytes()


@pytest.mark.parametrize(("multiple", "rows"), [(8, 32), (15, 30), (64, 64)])
def test_rows_below_the_tokens_are_their_mean_up_to_a_multiple(tmp_path, multiple, rows):
    paths = model(tmp_path / "i", 0, WORDS, 32), model(tmp_path / "t", 1, WORDS, 40)
    ends, merged = changed(paths, pad_to_multiple_of=multiple)
    for end, path in zip(ends, paths, strict=True):
        for name in EMBEDDINGS:
            own = interpole.open(path)[name][:30]
            mean = own.astype(np.float64).mean(axis=0).astype(np.float32).astype(own.dtype)
            assert end[name].tobytes() == np.concatenate([own, *[mean[None]] * (rows - 30)]).tobytes()
    assert merged.config["vocab_size"] == rows
    saved = interpole.open(interpole.save(merged, tmp_path / "out"))
    assert saved[EMBEDDINGS[0]].shape[0] == rows
    assert f"{rows - 30} rows below the 30 tokens" in model_card(merged)
    again = Recipe.load(tmp_path / "out" / "interpole_recipe.yml")
    assert again.pad_to_multiple_of == multiple
    for path in paths:  # by which a reader finds the source again, whatever was done to its rows
        assert interpole.open(path).fingerprint() in model_card(merged)


def test_what_is_done_to_rows_is_part_of_the_fingerprint(tmp_path):
    paths = model(tmp_path / "i", 0, WORDS, 30), model(tmp_path / "t", 1, WORDS, 30)
    ways = [{}, {"tokens": {"w1": {"zero": True, "force": True}}}, {"pad_to_multiple_of": 4}, {"pad_to_multiple_of": 8}]
    assert len({changed(paths, **way)[1].fingerprint() for way in ways}) == 4


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ({"tokens": {"nowhere": {"zero": True}}}, MismatchError, "'nowhere' is none of the 30(.|\n)*not added"),
        ({"tokens": {"w1": {"source": "instruct", "token": "x"}}}, MismatchError, "token 'x' of instruct .*/i"),
        ({"tokens": {"w1": {"source": "instruct", "row": 99}}}, MismatchError, "row 99 of instruct"),
        ({"tokens": {"w1": {"source": "base"}}}, RecipeError, "no source 'base'"),
        ({"tokens": {"w1": {}}}, RecipeError, "give a `source`"),
        ({"tokens": {"w1": {"source": "thinking", "token": "w2", "row": 1}}}, RecipeError, "not both"),
        ({"pad_to_multiple_of": 0}, RecipeError, "pad_to_multiple_of"),
    ],
)
def test_rows_that_cannot_be_are_refused_by_name(tmp_path, content, error, words):
    paths = model(tmp_path / "i", 0, WORDS, 30), model(tmp_path / "t", 1, WORDS, 30)
    with pytest.raises(error, match=words):
        changed(paths, **content)


def test_the_tokenizer_section_of_mergekit_says_the_same(tmp_path):
    paths = model(tmp_path / "i", 0, WORDS[:20], 20), model(tmp_path / "t", 1, [*WORDS[:20], "new"], 21)
    instruct, thinking = map(str, paths)
    content = {
        "merge_method": "linear",
        "models": [
            {"model": instruct, "parameters": {"weight": 0.75}},
            {"model": thinking, "parameters": {"weight": 0.25}},
        ],
        "dtype": "bfloat16",
        "tokenizer": {
            "source": thinking,
            "pad_to_multiple_of": 8,
            "tokens": {
                "new": {"source": {"kind": "zero"}},
                "w1": {"source": {"kind": "model_token", "model": instruct, "token_id": 4}, "force": True},
                "w2": {"source": {"kind": "model_token", "model": thinking, "token": "w9"}, "force": True},
                "w3": {"source": thinking, "force": True},
            },
        },
    }
    (tmp_path / "kit.yml").write_text(json.dumps(content))
    tokens = {
        "new": {"zero": True},
        "w1": {"source": "instruct", "row": 4, "force": True},
        "w2": {"source": "thinking", "token": "w9", "force": True},
        "w3": {"source": "thinking", "force": True},
    }
    ours, theirs = (
        changed(paths, tokens=tokens, pad_to_multiple_of=8)[1],
        interpole.merge(Recipe.load(tmp_path / "kit.yml")),
    )
    assert len(ours[EMBEDDINGS[0]]) == 24
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)


THEIRS = """merge_method: linear
models: [{model: A, parameters: {weight: 1}}, {model: B, parameters: {weight: 1}}]
tokenizer:
  source: B
  tokens:
    %s
"""
OURS = (
    "sources: {A: A, B: B}\nweights: {A: 1, B: 1}\ntemplate_from: B\nvocabulary: align\ntokens:\n  nevv: {source: A}\n"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (THEIRS % "nevv: {source: A}", "most like it: 'new'"),
        (THEIRS % "new: {source: {kind: model_token, model: A, token: nevv}}", "name one that is there"),
        (OURS, "most like it: 'new'"),
    ],
)
def test_a_token_that_is_not_there_is_named_with_its_line(tmp_path, monkeypatch, text, words):
    model(tmp_path / "A", 0, WORDS, 30)
    model(tmp_path / "B", 1, [*WORDS, "new"], 31)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kit.yml").write_text(text)
    with pytest.raises(MismatchError, match="nevv") as caught:
        interpole.merge(Recipe.load("kit.yml"))
    assert caught.value.where == "kit.yml, line 6"
    assert words in caught.value.remedy
