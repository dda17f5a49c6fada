"""Uploading a merge, with a hub that only writes down what it is asked."""

import json

import pytest
from typer.testing import CliRunner

from interpole.cli import app


class FakeHub:
    """What `HfApi` is asked to do, in order."""

    calls = ()
    refuses = ()

    def __getattr__(self, name):
        def call(*args, **kwargs):
            if name in self.refuses:
                raise ConnectionError(f"{name} refused\nwith a trail")
            files = sorted(path.name for path in kwargs["folder_path"].iterdir()) if name == "upload_folder" else None
            self.calls.append((name, args[0] if args else kwargs.get("repo_id"), files))
            return f"https://hub/{kwargs.get('repo_id')}"

        return call


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "calls", [])
    return FakeHub


def merge(pair, out, *options):
    paths = [str(path) for path in pair]
    return CliRunner().invoke(
        app, ["merge", *paths, "-o", str(out), "--no-doctor", "--push-to-hub", "me/mix", *options]
    )


def test_a_merge_is_uploaded_whole_with_its_card(pair, tmp_path, hub):
    result = merge(pair, tmp_path / "out", "-l", "0.5")
    assert result.exit_code == 0, result.output
    assert "https://hub/me/mix" in result.output
    assert [call[:2] for call in hub.calls] == [
        ("whoami", None),
        ("create_repo", "me/mix"),
        ("upload_folder", "me/mix"),
    ]
    assert set(hub.calls[-1][2]) >= {"README.md", "config.json", "interpole_recipe.yml", "model.safetensors.index.json"}


def test_several_points_go_to_a_repository_each(pair, tmp_path, hub):
    result = merge(pair, tmp_path / "out", "-l", "0.25,0.5")
    assert result.exit_code == 0, result.output
    assert [repo for name, repo, _ in hub.calls if name == "upload_folder"] == ["me/mix-0.25", "me/mix-0.5"]


def test_without_a_login_nothing_is_merged(pair, tmp_path, hub, monkeypatch):
    monkeypatch.setattr(hub, "refuses", ("whoami",))
    result = merge(pair, tmp_path / "out", "-l", "0.5")
    assert "cannot upload: whoami refused" in str(result.exception or result.output)
    assert not (tmp_path / "out").exists()


def test_a_refused_upload_leaves_the_folder(pair, tmp_path, hub, monkeypatch):
    monkeypatch.setattr(hub, "refuses", ("upload_folder",))
    result = merge(pair, tmp_path / "out", "-l", "0.5")
    assert "upload_folder refused" in str(result.exception or result.output)
    assert "trail" not in str(result.exception or result.output)
    assert json.loads((tmp_path / "out/config.json").read_text())
