"""WSL containers on Windows: what the tool there holds is planned, all else is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from backends import registry
from backends.base import (
    Access,
    Environment,
    FilesystemView,
    Limits,
    SandboxRequest,
    SecretSource,
    Streams,
    Timeout,
)
from backends.errors import BackendUnavailable, PolicyRefused, Problem, UnsupportedContainment
from backends.features import Asked, Feature
from backends.frozen import replace
from backends.network.policy import (
    Ceiling,
    Direction,
    NameRule,
    NetworkPolicy,
    Peer,
    PortMapping,
    Protocol,
    ProxyEndpoint,
    Rule,
)
from backends.wslc.windows.capabilities import CAPABILITIES
from backends.wslc.windows.facts import Archive, ArchiveFormat, PathFact, WindowsFacts
from backends.wslc.windows.plan import WindowsPlan, plan_windows, plan_windows_exec
from backends.wslc.windows.steps import Phase
from backends.wslc_settings import PortMapping as WslcPort
from backends.wslc_settings import WslcSettings
from mxc_ops.policy.features import check_features
from tests.unit.machines import NoHandles
from tests.windows_hosts import directory, file, grants, host

REQUEST = SandboxRequest("wslc", shell="uname -a", wslc=WslcSettings())
BRIDGED = NetworkPolicy(egress_allowed=True)
RULE = Rule("egress.allow.0", "/network/egress/allow/0", (Peer("192.0.2.0/24"),))
DENY = replace(RULE, name="egress.deny.0", pointer="/network/egress/deny/0")
NAME = NameRule("names.0", "/mxcOps/network/names/0", "example.test")
TAR = r"C:\images\tool.tar"


def mapping(**changes: Any) -> PortMapping:
    base = PortMapping(
        "port.0", "/mxcOps/portMappings/0", Direction.TO_SANDBOX, Protocol.TCP, "127.0.0.1", 8080, 80
    )
    return replace(base, **changes)


def refusals(request: SandboxRequest, facts: WindowsFacts | None = None) -> tuple[Problem, ...]:
    with pytest.raises(PolicyRefused) as caught:
        plan_windows(request, facts or host())
    return caught.value.problems


def calls(plan: WindowsPlan, name: str) -> list[dict[str, object]]:
    return [dict(step.arguments) for step in plan.steps if step.call == name]


@pytest.mark.parametrize(
    ("network", "code", "pointer"),
    [
        (NetworkPolicy(allow=(RULE,)), "network_rule_not_supported", RULE.pointer),
        (replace(BRIDGED, deny=(DENY,)), "network_rule_not_supported", DENY.pointer),
        (NetworkPolicy(names=(NAME,)), "network_rule_not_supported", NAME.pointer),
        (
            NetworkPolicy(egress_allowed=True, denied_names=(NAME,)),
            "network_rule_not_supported",
            NAME.pointer,
        ),
        (NetworkPolicy(ceiling=Ceiling(allow=(RULE,))), "network_rule_not_supported", RULE.pointer),
        (NetworkPolicy(ceiling=Ceiling(names=(NAME,))), "network_rule_not_supported", NAME.pointer),
        (
            NetworkPolicy(proxy=ProxyEndpoint("/runtimeConfig/networkProxy", "http", "127.0.0.1", 3128)),
            "proxy_not_supported",
            "/runtimeConfig/networkProxy",
        ),
        (
            replace(BRIDGED, mappings=(mapping(direction=Direction.TO_HOST),)),
            "port_mapping_not_supported",
            "/mxcOps/portMappings/0",
        ),
        (
            replace(BRIDGED, mappings=(mapping(protocol=Protocol.UDP),)),
            "port_mapping_not_supported",
            "/mxcOps/portMappings/0",
        ),
        (NetworkPolicy(mappings=(mapping(),)), "port_without_network", "/mxcOps/portMappings/0"),
    ],
)
def test_a_network_that_is_neither_none_nor_all_is_refused(
    network: NetworkPolicy, code: str, pointer: str
) -> None:
    (problem,) = refusals(replace(REQUEST, network=network))
    assert (problem.code, problem.path) == (code, pointer)
    assert "on Linux" in problem.fix


@pytest.mark.parametrize(
    ("changes", "code", "pointer"),
    [
        ({"user": 1000}, "user_not_supported", "/mxcOps/user"),
        ({"group": 1000}, "user_not_supported", "/mxcOps/group"),
        ({"seccomp": "strict"}, "seccomp_not_supported", "/mxcOps/seccomp"),
        ({"limits": Limits(memory_mib=64)}, "limit_not_supported", "/mxcOps/limits/memoryMib"),
        ({"limits": Limits(pids=64)}, "limit_not_supported", "/mxcOps/limits/pids"),
        ({"limits": Limits(cpus=0.5)}, "limit_not_supported", "/mxcOps/limits/cpus"),
        ({"limits": Limits(cpu_seconds=1)}, "limit_not_supported", "/mxcOps/limits/cpuSeconds"),
        ({"limits": Limits(file_size_mib=1)}, "limit_not_supported", "/mxcOps/limits/fileSizeMib"),
        ({"limits": Limits(open_files=9)}, "limit_not_supported", "/mxcOps/limits/openFiles"),
        ({"limits": Limits(tmp_mib=9)}, "limit_not_supported", "/mxcOps/limits/tmpMib"),
        ({"timeout": Timeout(5000, 200, "USR1")}, "signal_not_supported", "/mxcOps/timeout/signal"),
        ({"cwd": "work"}, "relative_cwd", "/process/cwd"),
    ],
)
def test_what_holds_a_process_elsewhere_is_refused_for_a_run_and_for_an_exec(
    changes: dict[str, Any], code: str, pointer: str
) -> None:
    request = replace(REQUEST, **changes)
    (problem,) = refusals(request)
    assert (problem.code, problem.path) == (code, pointer)
    with pytest.raises(PolicyRefused) as caught:
        plan_windows_exec(request)
    assert [one.code for one in caught.value.problems] == [code]


def test_a_limit_that_may_go_unenforced_is_no_reason_to_refuse() -> None:
    request = replace(REQUEST, limits=Limits(pids=64, best_effort=frozenset({"pids"})))
    assert plan_windows(request, host()).as_dict()["limits"] == []
    (warning,) = check_features(request, CAPABILITIES)
    assert warning.startswith("/mxcOps/limits/pids: ")


def test_a_working_directory_of_windows_is_refused_with_its_name_in_the_container() -> None:
    (problem,) = refusals(replace(REQUEST, cwd="C:\\Code\\src"))
    assert problem.fix == "write '/mnt/c/Code/src'"


@pytest.mark.parametrize(
    ("settings", "code", "pointer"),
    [
        (WslcSettings(target_os="windows"), "target_os", "/wslc/targetOs"),
        (WslcSettings(cpus=0), "out_of_range", "/wslc/cpuCount"),
        (WslcSettings(memory_mib=2**32), "out_of_range", "/wslc/memoryMb"),
        (WslcSettings(image="alpine latest"), "image_reference", "/wslc/image"),
        (WslcSettings(image="alpine:"), "image_reference", "/wslc/image"),
        (WslcSettings(image=""), "image_reference", "/wslc/image"),
        (WslcSettings(image="-v/x"), "image_reference", "/wslc/image"),
        (WslcSettings(image="a" * 256), "image_reference", "/wslc/image"),
        (WslcSettings(image="alpine@sha256:12"), "image_reference", "/wslc/image"),
        (WslcSettings(storage="x"), "path_relative", "/wslc/storagePath"),
        (WslcSettings(image_tar="\\\\server\\a.tar"), "path_unc", "/wslc/imageTarPath"),
        (WslcSettings(ports=(WslcPort(80, 80),)), "port_without_network", "/wslc/portMappings/0"),
    ],
)
def test_settings_that_windows_cannot_take_are_refused(
    settings: WslcSettings, code: str, pointer: str
) -> None:
    (problem,) = refusals(replace(REQUEST, wslc=settings))
    assert (problem.code, problem.path) == (code, pointer)


def test_a_port_is_listened_to_at_the_one_address_that_is_meant() -> None:
    request = replace(
        REQUEST,
        network=replace(BRIDGED, mappings=(mapping(host_address="192.0.2.7", host_port=9000),)),
        wslc=WslcSettings(ports=(WslcPort(8080, 80),)),
    )
    (arguments,) = calls(plan_windows(request, host()), "WslcSetContainerSettingsPortMappings")
    mapped: Any = arguments["portMappings"]
    assert [(one["windowsAddress"], one["windowsPort"]) for one in mapped] == [
        ("127.0.0.1", 8080),
        ("192.0.2.7", 9000),
    ]


def test_one_port_of_the_host_leads_to_one_place() -> None:
    settings = WslcSettings(ports=(WslcPort(8080, 80), WslcPort(8080, 81)))
    (problem,) = refusals(replace(REQUEST, network=BRIDGED, wslc=settings))
    assert (problem.code, problem.path) == ("duplicate_value", "/wslc/portMappings/1")


def test_all_problems_are_said_at_once() -> None:
    request = replace(
        REQUEST,
        grants=grants(("\\\\server\\x", Access.READ_ONLY)),
        network=NetworkPolicy(allow=(RULE,)),
        user=1,
        wslc=WslcSettings(target_os="plan9"),
    )
    codes = {problem.code for problem in refusals(request)}
    assert codes == {"path_unc", "network_rule_not_supported", "user_not_supported", "target_os"}


def test_environment_values_are_in_nothing_that_is_written_down() -> None:
    environment = Environment((("A", "hunter2"),), (("TOKEN", SecretSource(file="C:\\token")),))
    plan = plan_windows(replace(REQUEST, environment=environment), host())
    assert plan.as_dict()["environment"] == ["A", "TOKEN"]
    assert plan.environment.entries == (("A", "hunter2"),)
    assert "hunter2" not in repr(plan) + str(plan.as_dict())
    (named,) = calls(plan, "WslcSetProcessSettingsEnvVariables")
    assert named == {"names": ["A", "TOKEN"]}


def test_no_call_ever_pulls_an_image_or_asks_for_privileges() -> None:
    request = replace(REQUEST, network=BRIDGED, wslc=WslcSettings(gpu=True, ports=(WslcPort(1, 1),)))
    for kept in (False, True):
        written = str(plan_windows(request, host(), kept=kept).as_dict())
        assert "Pull" not in written
        assert "PRIVILEGED" not in written


def test_a_digest_holds_for_the_container_that_is_made() -> None:
    image = f"registry.example:5000/team/tool@sha256:{'ab' * 32}"
    plan = plan_windows(replace(REQUEST, wslc=WslcSettings(image=image)), host())
    assert calls(plan, "WslcInitContainerSettings") == [{"imageName": image}]


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("alpine", "alpine:latest"),
        ("alpine:3.23", "alpine:3.23"),
        ("localhost:5000/team/tool", "localhost:5000/team/tool:latest"),
    ],
)
def test_the_cache_is_asked_for_what_the_reference_means(written: str, asked: str) -> None:
    plan = plan_windows(replace(REQUEST, wslc=WslcSettings(image=written)), host())
    assert calls(plan, "WslcListSessionImages") == [{"expect": {"name": asked}}]
    assert calls(plan, "WslcInitContainerSettings") == [{"imageName": asked}]
    assert plan.image.setup[-3:] == (asked, "--storage-path", plan.storage)


def archived(archive: Archive | None, fact: PathFact | None = None) -> tuple[SandboxRequest, WindowsFacts]:
    facts = host((TAR, fact or file(TAR)), ("C:\\images", directory("C:\\images")))
    return replace(REQUEST, wslc=WslcSettings(image_tar=TAR)), replace(facts, archive=archive)


def test_a_root_file_system_is_imported_under_a_name_of_its_content() -> None:
    """Upstream takes an image that is cached under the document's name for the archive's content."""
    one = plan_windows(*archived(Archive(ArchiveFormat.ROOT_FILE_SYSTEM, "ab" * 32)))
    other = plan_windows(*archived(Archive(ArchiveFormat.ROOT_FILE_SYSTEM, "cd" * 32)))
    assert one.image.name != other.image.name
    (imported,) = calls(one, "WslcImportSessionImageFromFile")
    assert imported == {"imageName": one.image.name, "path": TAR}


@pytest.mark.parametrize(
    ("archive", "fact"),
    [
        (None, None),
        (Archive(ArchiveFormat.IMAGE, "ab" * 32), None),
        (Archive(ArchiveFormat.IMAGE, "ab" * 32, ("a:1", "b:1")), None),
        (Archive(ArchiveFormat.ROOT_FILE_SYSTEM, "ab" * 32), directory(TAR)),
    ],
)
def test_an_archive_of_no_single_image_is_refused(archive: Archive | None, fact: PathFact | None) -> None:
    (problem,) = refusals(*archived(archive, fact))
    assert (problem.code, problem.path) == ("image_archive", "/wslc/imageTarPath")


def test_an_archive_that_the_sandbox_may_replace_is_warned_of() -> None:
    request, facts = archived(Archive(ArchiveFormat.ROOT_FILE_SYSTEM, "ab" * 32))
    written = replace(request, grants=grants(("C:\\images", Access.READ_WRITE)))
    (warning,) = plan_windows(written, facts).warnings
    assert warning.startswith("/filesystem/readwritePaths/0: ")
    assert (
        plan_windows(replace(request, grants=grants(("C:\\images", Access.READ_ONLY))), facts).warnings == ()
    )


def test_what_is_never_given_and_what_is_more_than_it_seems_is_warned_of() -> None:
    request = replace(REQUEST, network=BRIDGED, seccomp="debug", wslc=WslcSettings(gpu=True, shared_vm=True))
    pointers = [warning.partition(":")[0] for warning in plan_windows(request, host()).warnings]
    assert pointers == ["/mxcOps/wslc/sharedVm", "/mxcOps/seccomp", "/wslc/gpu", "/network/egress/default"]


@pytest.mark.parametrize("version", ["", "2.9.2.9", "2.4", "unknown"])
def test_a_wsl_without_containers_is_said_after_the_policy_holds(version: str) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        plan_windows(REQUEST, host(wsl=version))
    assert caught.value.fix == "wsl --update --pre-release"
    with pytest.raises(PolicyRefused):
        plan_windows(replace(REQUEST, user=1), host(wsl=version))


@pytest.mark.parametrize("version", ["2.9.3", "2.9.3.0", "2.10.0.1", "3.0"])
def test_a_wsl_with_containers_will_do(version: str) -> None:
    assert plan_windows(REQUEST, host(wsl=version)).kept is False


def test_a_container_is_deleted_unless_the_document_keeps_it() -> None:
    keep = Asked(Feature.KEEP_CONTAINER, "/lifecycle/destroyOnExit", "false")
    assert check_features(replace(REQUEST, asked=(keep,)), CAPABILITIES) == ()
    assert len(calls(plan_windows(REQUEST, host()), "WslcDeleteContainer")) == 1
    plan = plan_windows(replace(REQUEST, asked=(keep,)), host())
    assert calls(plan, "WslcDeleteContainer") == []
    assert any("destroyOnExit" in line for line in plan.decisions)
    assert plan.steps[-1].call == "WslcReleaseSession"


@pytest.mark.parametrize("feature", [Feature.NETWORK_PROXY, Feature.PRESERVE_POLICY, Feature.BACKEND_SECTION])
def test_features_that_windows_does_not_hold_are_refused(feature: Feature) -> None:
    with pytest.raises(PolicyRefused) as caught:
        check_features(replace(REQUEST, asked=(Asked(feature, "/x", "y"),)), CAPABILITIES)
    assert caught.value.path == "/x"


def test_every_feature_has_an_answer_and_every_refusal_a_reason() -> None:
    assert set(CAPABILITIES.support) == set(Feature)
    given = {Feature.EGRESS, Feature.INGRESS, Feature.HOST_LOOPBACK, Feature.KEEP_CONTAINER}
    assert set(CAPABILITIES.reasons) == set(Feature) - given


def test_an_exec_that_is_out_of_time_kills_the_process_and_not_the_container() -> None:
    request = replace(REQUEST, timeout=Timeout(5000))
    steps = plan_windows_exec(request)
    assert {step.phase for step in steps} == {Phase.EXEC}
    assert [step.call for step in steps if step.when.value] == ["WslcSignalProcess"]
    once = plan_windows(request, host())
    assert [step.call for step in once.steps if step.when.value == "the time is up"] == ["WslcStopContainer"]


def test_a_kept_container_takes_its_commands_as_execs() -> None:
    plan = plan_windows(REQUEST, host(), kept=True)
    assert tuple(step for step in plan.steps if step.phase is Phase.EXEC) == plan_windows_exec(REQUEST)
    waiting = plan_windows(replace(REQUEST, shell=None), host(), kept=True)
    assert [step.phase.value for step in waiting.steps if step.phase is not Phase.PROVISION] == [
        "start",
        "stop",
        *["deprovision"] * 4,
    ]


def test_a_launch_is_refused_by_name_with_the_way_out() -> None:
    backend, view = registry.get("wslc"), FilesystemView()
    plan = backend.plan(REQUEST, host(), view)
    with pytest.raises(UnsupportedContainment) as caught:
        backend.launch(plan, NoHandles(), Streams(0, 1, 2))
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("launch_on_windows", "/containment")
    assert "wslc" in problem.message
    assert "on Linux" in problem.fix


def test_a_windows_host_is_not_looked_at_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(UnsupportedContainment) as caught:
        registry.get("wslc").observe(REQUEST)
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("launch_on_windows", "/containment")
