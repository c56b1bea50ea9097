"""A proxy's credentials are told nobody, and nothing that a sandbox is given leads around its proxy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.network.flavours import FLAVOURS, WEB_PROBES
from tests.network.lab import Lab
from tests.network.link import Refused

pytest_plugins = ("tests.network.fixtures",)

ON_EACH = pytest.mark.parametrize("flavour", FLAVOURS)
USER, PASSWORD = "someone-4711", "hunter2-4711"
URLS = (
    f"http://{USER}:{PASSWORD}@127.0.0.1:3128",
    f"http://{USER}:{PASSWORD}@192.0.2.1:3128",
    f"https://{PASSWORD}@localhost:3128",
    f"http://:{PASSWORD}@[::1]:3128",
    f"http:\\\\{USER}:{PASSWORD}@127.0.0.1:3128",
    f"http:{USER}:{PASSWORD}@127.0.0.1:3128",
    f"{USER}:{PASSWORD}@127.0.0.1:3128",
    f"ht\ttp://{USER}:{PASSWORD}@127.0.0.1:3128",
    f"socks5://{USER}:{PASSWORD}@127.0.0.1:1080",
    f"http://127.0.0.1:{PASSWORD}",
)
BY_NAME = {"mxcOps": {"network": {"names": [{"name": "web.example.test", "addresses": ["192.0.2.0/24"]}]}}}


def with_proxy(url: str) -> dict[str, Any]:
    return {"runtimeConfig": {"networkProxy": url}}


@pytest.mark.parametrize("flavour", [FLAVOURS[0], FLAVOURS[2], FLAVOURS[4]])
@pytest.mark.parametrize("url", URLS)
def test_credentials_of_a_proxy_are_refused_and_not_repeated(lab: Lab, url: str) -> None:
    document = lab.document(with_proxy(url), source=WEB_PROBES)
    for op in ("run", "plan"):
        with pytest.raises(Refused) as caught:
            lab.at_host.ask(op, document=document, input="")
        told = json.dumps(caught.value.told)
        assert USER not in told and PASSWORD not in told
        assert caught.value.told["problems"]


@pytest.mark.parametrize("flavour", [FLAVOURS[0]])
def test_the_commands_do_not_repeat_them_either(lab: Lab, tmp_path: Path) -> None:
    for number, url in enumerate(URLS[:2]):
        config = tmp_path / f"{number}.json"
        config.write_text(json.dumps(lab.document(with_proxy(url), source=WEB_PROBES)))
        for words in (["run", "--json"], ["plan"]):
            told = lab.at_host.ask("script", source=COMMAND, function="main", given=[*words, str(config)])
            assert told["code"] != 0, (words, told)
            assert USER not in json.dumps(told) and PASSWORD not in json.dumps(told), (words, told)


COMMAND = """
import subprocess, sys
def main(given):
    done = subprocess.run([sys.executable, "-m", "mxc_ops.cli", *given], capture_output=True, text=True)
    return {"code": done.returncode, "out": done.stdout, "err": done.stderr}
"""


@pytest.mark.parametrize("sections", [BY_NAME, with_proxy("http://127.0.0.1:3128")], ids=["names", "proxy"])
@ON_EACH
def test_no_variable_of_a_document_names_another_proxy(lab: Lab, sections: Mapping[str, Any]) -> None:
    spelled = [
        f"{name}=http://192.0.2.9:1"
        for upper in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "NO_PROXY")
        for name in (upper, upper.lower(), upper.title(), upper[0].lower() + upper[1:], upper[:-1] + "y")
    ]
    ran = lab.run(lab.document(sections, source=WEB_PROBES, env=spelled), [{"kind": "variables"}])
    found = json.loads(ran.probes[0]["said"])
    assert found and "192.0.2.9" not in json.dumps(found)
    assert {name for name in found if name not in (name.upper(), name.lower())} == set()


@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "All_Proxy", "No_Proxy", "ftp_PROXY"])
@pytest.mark.parametrize("flavour", [FLAVOURS[0], FLAVOURS[2], FLAVOURS[4]])
def test_no_secret_names_another_proxy(lab: Lab, name: str, tmp_path: Path) -> None:
    """No plan knows what it is, so none could take it out."""
    secret = tmp_path / "secret"
    secret.write_text("http://192.0.2.9:1")
    ours = {**BY_NAME["mxcOps"], "env": {name: {"file": str(secret)}}}
    with pytest.raises(Refused) as caught:
        lab.run(lab.document({"mxcOps": ours}, source=WEB_PROBES), [{"kind": "variables"}])
    assert [one["code"] for one in caught.value.told["problems"]] == ["proxy_variable_taken"]
