"""URLs of brokers, and secrets: where they are found, and that nothing says them."""

from __future__ import annotations

import pytest

from park.brokers import Address, MqttBroker, address_of
from park.errors import InputError
from park.secret import Secret

WHO = "anna:s%40cret"


@pytest.mark.parametrize(("url", "address"), [
    ("mqtt://h", Address("h", 1883)), ("mqtts://h/", Address("h", 8883, tls=True)),
    (f"mqtt://{WHO}@h:99", Address("h", 99, user="anna", password="s@cret")),      # pragma: allowlist secret
    ("mqtt://[::1]:7?client_id=x", Address("::1", 7, client_id="x")),
])
def test_a_url_says_where_a_broker_is(url, address):
    assert address_of(url) == address


@pytest.mark.parametrize("rest", ["h:0", "h:99999", "h:x", "", ":1883", "h?clientid=x", "h?client_id=", "h/topic",
                                  "[::1"])
def test_a_wrong_url_is_refused_without_its_password(rest):
    with pytest.raises(InputError, match="must be mqtt://host:port") as raised:
        address_of(f"mqtt://{WHO}@{rest}")
    assert "cret" not in str(raised.value)


def test_a_password_is_in_no_repr():
    assert "cret" not in repr(address_of(f"mqtt://{WHO}@h"))


def test_a_secret_is_read_where_the_entry_says(monkeypatch, tmp_path):
    monkeypatch.setenv("PLANT_SECRET", "tell nobody")
    (tmp_path / "secret").write_text("tell nobody\n", encoding="utf-8")
    assert Secret(env="PLANT_SECRET").read("it") == "tell nobody"
    assert Secret(file=str(tmp_path / "secret")).read("it") == "tell nobody"


def test_a_secret_that_is_not_there_is_said_with_whose_it_is(monkeypatch, tmp_path):
    monkeypatch.delenv("PLANT_SECRET", raising=False)
    (tmp_path / "empty").write_text("\n", encoding="utf-8")
    for secret, said in ((Secret(env="PLANT_SECRET"), "'PLANT_SECRET' is not set"),
                         (Secret(file=str(tmp_path / "none")), "no such file"),
                         (Secret(file=str(tmp_path / "empty")), "is empty")):
        with pytest.raises(InputError, match=rf"broker 'b': password: .*{said}"):
            secret.read("broker 'b': password")


def test_an_entry_holds_no_secret(monkeypatch):
    monkeypatch.setenv("PLANT_SECRET", "tell nobody")
    broker = MqttBroker(id="b", url="mqtt://h", user="anna", password=Secret(env="PLANT_SECRET"))
    assert "tell nobody" not in repr(broker) + broker.model_dump_json()
