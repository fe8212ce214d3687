"""A command line in a folder of its own."""

import pytest

from nldsl.cli import run


@pytest.fixture
def cli(request, capsys, tmp_path, monkeypatch):
    """Run a command in a folder with the module's FILES: (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)
    for name, text in request.module.FILES.items():
        (tmp_path / name).write_text(text)

    def call(*arguments):
        code = run(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return call
