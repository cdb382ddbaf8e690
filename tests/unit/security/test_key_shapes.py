"""Keys of well-known services are recognized by their shape; ordinary text is not."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lmstudio_bridge
from lmstudio_bridge.security.secrets import SHAPES, find_keys

A = "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC7dE9fG1hJ3"
PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\nBG5vbmU=\n-----END OPENSSH PRIVATE KEY-----"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"

KEYS = {
    "anthropic-key": [f"sk-ant-api03-{A}-_{A}"],
    "api-key": [f"sk-{A}", f"sk-proj-{A}_-", f"sk-lm-{A[:20]}:{A[:20]}", f"sk-or-v1-{A}", f"gsk_{A}", f"tvly-dev-{A}"],
    "github-token": [*(f"gh{kind}_{A[:36]}" for kind in "pousr"), f"github_pat_{A[:22]}_{A}"],
    "gitlab-token": [f"glpat-{A[:20]}"],
    "slack-token": [
        *(f"xox{kind}-123456789012-{A[:24]}" for kind in "abceprs"),
        f"xapp-1-{A[:20]}",
        f"xoxd-{A[:9]}%2B{A[:9]}",
    ],
    "aws-key": ["AKIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE"],
    "google-key": [f"AIza{A[:35]}"],
    "google-token": [f"ya29.{A}"],
    "google-secret": [f"GOCSPX-{A[:28]}"],
    "npm-token": [f"npm_{A[:36]}"],
    "pypi-token": [f"pypi-AgEIcHlwaS5vcmc{A}"],
    "huggingface-token": [f"hf_{A[:34]}"],
    "stripe-key": [f"sk_live_{A[:24]}", f"rk_test_{A[:24]}"],
    "sendgrid-key": [f"SG.{A[:22]}.{A[:43]}"],
    "docker-token": [f"dckr_pat_{A[:27]}"],
    "jwt": [JWT],
    "private-key": [PEM, PEM.replace("OPENSSH ", ""), PEM.replace("\n", "\\n"), PEM.partition("\n-----END")[0]],
}
IN_CONTEXT = [
    (f"Authorization: Bearer {A}", A),
    (f"curl -H 'authorization: bearer {A}'", A),
    (f'{{"Authorization": "Basic {A}"}}', A),
    ("postgresql://me:hunter22@db.example.org:5432/main", "hunter22"),
    ("mongodb+srv://me:p%40ss@cluster0.example.net/?w=majority", "p%40ss"),
    ("git clone https://oauth2:hunter22@git.example.org/x.git", "hunter22"),
    ("redis://:hunter22@127.0.0.1:6379/0", "hunter22"),
    ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    ('"SecretAccessKey": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"', "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    (f"AccountName=x;AccountKey={A}==;EndpointSuffix=y", f"{A}=="),
    (f"https://hooks.slack.com/services/T000/B000/{A[:24]}", f"T000/B000/{A[:24]}"),
]
ORDINARY = [
    "The task-list-of-things-to-do-in-the-next-iteration is long.",
    "disk-1234567890123456789012345678 and risk-aB3dE5fG7hJ9kL1mN3pQ5rS7",
    "sk-estimator-checks-common-tests-and-more-of-them",
    "class sk-fading-circle-with-many-dots",
    "glpat-is-the-prefix-of-gitlab-tokens",
    "npm_config_registry=https://registry.example.org npm_lifecycle_event",
    "self_aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5",
    "AKIA is how a key begins; AKIAIOSFODNN7EXAMPLEandMore does not",
    "https://example.org:8080/a/b@c?d=e:f@g",
    "ssh://git@example.org:22/x.git and git@example.org:me/x.git, mailto:a@b",
    "postgres://me:$PASSWORD@db and postgres://me:{password}@db and postgres://me:<password>@db",
    "Bearer authentication-is-described-in-the-specification",
    "Authorization: Bearer <token>",
    'eyJ is base64 of {" and eyJhbGciOiJIUzI1NiJ9 alone is no token',
    "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkq\n-----END PUBLIC KEY-----",
    "-----BEGIN CERTIFICATE-----\nMIIBIjANBgkq\n-----END CERTIFICATE-----",
    "3f2a9c5e7b1d4f6a8c0e2b4d6f8a0c2e4f6a8b0d",  # a commit
    "sha512-z8f1s7v6b5n4m3q2w1e0r9t8y7u6i5o4p3a2s1d0f9g8h7j6k5l4==",
]


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, keys in KEYS.items() for key in keys])
def test_key_is_found_whole_by_its_shape(kind: str, key: str) -> None:
    for before, after in [("", ""), ("key=", '";'), ('{"key": "', '"}'), ("a\n", '"'), ("a\\n", '"'), ("x%3D", '"')]:
        assert (len(before), len(before) + len(key), kind) in set(find_keys(before + key + after)), before


@pytest.mark.parametrize(("text", "secret"), IN_CONTEXT)
def test_secret_is_found_by_its_context(text: str, secret: str) -> None:
    assert {text[start:end] for start, end, _ in find_keys(text)} == {secret}


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_holds_no_keys(text: str) -> None:
    assert list(find_keys(text)) == []


def test_sources_of_this_project_hold_no_keys_but_in_its_tests(pytestconfig: pytest.Config) -> None:
    paths = (*Path(lmstudio_bridge.__file__).parent.rglob("*.py"), *pytestconfig.rootpath.glob("*.md"))
    texts = [path.read_text(encoding="utf-8") for path in paths]

    assert len(texts) > 50
    assert [text[start:end] for text in texts for start, end, _ in find_keys(text)] == []


@given(st.text('sk-ant0123456789 abcdefghij_ABCDEF./:@\n\\%"BEGIN PRIVATE KEY', max_size=300))
def test_spans_are_within_the_text(text: str) -> None:
    assert all(0 <= start < end <= len(text) for start, end, _ in find_keys(text))


def test_key_in_an_address_or_in_json_is_found_as_well() -> None:
    key = KEYS["github-token"][0]
    text = json.dumps({"url": "https://x/?to=" + quote(f"https://y/?token={key}", safe="")})

    assert [text[start:end] for start, end, _ in find_keys(text)] == [key]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.kind} {shape.starts[0]}")
def test_hostile_text_takes_no_more_than_linear_work(shape: object) -> None:
    """Repeated beginnings of a key make patterns that can match in two ways slow: quadratic ones take minutes here."""
    assert isinstance(shape, type(SHAPES[0]))
    for start in shape.starts:
        for filling in ("", "a", "a-", " ", "-", "=", ".", "a" * 30):
            list(find_keys((start + filling) * 20_000))
