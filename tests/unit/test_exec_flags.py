"""`mxc-exec` reads its flags as upstream's 0.7.0 and 1.0.1 Linux executors do (cli-sdk.md §1)."""

from __future__ import annotations

import pytest

from mxc_ops.cli.exec_flags import FLAGS, FlagError, help_text, parse


def test_every_flag_of_both_releases_is_known_and_in_the_help() -> None:
    upstream = {
        *("--config", "--config-base64", "--debug", "--delete", "--containername", "--experimental"),
        *("--available-backends", "--dry-run", "--log-file", "--setup-hyperlight", "--force", "--help"),
        "--allow-testing-features",
    }
    assert set(FLAGS) == upstream
    assert all(f"{name}" in help_text() for name in upstream)


def test_values_follow_a_space_or_an_equals_sign() -> None:
    options = parse(["--config", "a.json", "--log-file=b.log", "--config-base64="])
    assert options.values == {"--config": "a.json", "--log-file": "b.log", "--config-base64": ""}


def test_the_runtimes_of_hyperlight_follow_an_equals_sign_only() -> None:
    assert parse(["--setup-hyperlight=node"]).values == {"--setup-hyperlight": "node"}
    options = parse(["--setup-hyperlight", "a.json", "--force"])
    assert options.values == {"--setup-hyperlight": ""}
    assert options.config_path == "a.json"
    assert options.has("--force")


def test_all_after_two_dashes_is_the_command() -> None:
    options = parse(["a.json", "--dry-run", "--", "ls", "--", "--help"])
    assert (options.config_path, options.command) == ("a.json", ("ls", "--", "--help"))


def test_a_single_word_after_two_dashes_is_the_config_when_there_is_no_other() -> None:
    options = parse(["--debug", "--", "-a.json"])
    assert (options.config_path, options.command) == ("-a.json", ())
    assert parse(["--config", "a.json", "--", "true"]).command == ("true",)


def test_help_wins_over_what_follows_it() -> None:
    assert parse(["-h", "--bogus"]).has("--help")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bogus"], "unexpected argument '--bogus' found"),
        (["-x"], "unexpected argument '-x' found"),
        (["--conf", "a.json"], "a similar argument exists: '--config'"),
        (["--version"], "unexpected argument '--version' found"),
        (["a.json", "b.json"], "unexpected argument 'b.json' found"),
        (["--config"], "a value is required for '--config <CONFIG>' but none was supplied"),
        (["--config", "--debug"], "a value is required for '--config <CONFIG>' but none was supplied"),
        (["--debug=1"], "unexpected value '1' for '--debug' found; no more were expected"),
        (["--dry-run", "--dry-run"], "the argument '--dry-run' cannot be used multiple times"),
        (["--config=a", "--config=b"], "the argument '--config <CONFIG>' cannot be used multiple times"),
        (["--force"], "--setup-hyperlight[=<RUNTIMES>]"),
        (["--bogus", "--help"], "unexpected argument '--bogus' found"),
    ],
)
def test_mistakes_are_told_in_upstreams_words(arguments: list[str], said: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse(arguments)
    assert str(caught.value).startswith("error: ")
    assert said in str(caught.value)
